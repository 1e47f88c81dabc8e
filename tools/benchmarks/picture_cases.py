"""Damaged pictures for `fuzz_files.py`: bytes, PNG chunks and EXIF.

Each function makes one random case in an empty folder and reads it as the package does. It returns what
happened in a word; an exception that is not the package's own is a fault.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from unclip.errors import UnclipError
from unclip.images import read_settings
from unclip.pictures import on_white, open_picture
from unclip.provenance.verify import verify

Image.init()
PIXELS = Image.radial_gradient("L").resize((48, 32)).convert("RGB")
BYTES = (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\x80")


def mutated(data: bytes, rng: random.Random, most: int = 8) -> bytes:
    """Data with bytes overwritten, removed, repeated or cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, most)):
        i = rng.randrange(min(len(found), rng.choice((64, 512, 1 << 20)))) if found else 0
        action = rng.randrange(5)
        if action == 0:
            found[i : i + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            found[i : i + 4] = rng.choice(BYTES)
        elif action == 2:
            del found[i : i + rng.randrange(1, 32)]
        elif action == 3:
            found[i:i] = found[i : i + rng.randrange(1, 64)]
        elif rng.random() < 0.2:
            del found[i:]
    return bytes(found)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _seeds() -> Iterator[bytes]:
    """A file of every format and mode that Pillow writes."""
    for kind in sorted(Image.SAVE.keys() - {"ICNS", "PDF"}):
        for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "F", "I;16"):
            try:
                yield encoded(
                    PIXELS.convert("L").convert("I;16") if mode == "I;16" else PIXELS.convert(mode), kind
                )
            except Exception:  # a format without this mode
                continue


SEEDS = list(_seeds())


def read_picture(path: Path) -> str:
    """Read a picture in every way that the package has."""
    for read in (read_settings, verify):
        try:
            read(path)
        except UnclipError as error:
            one_line(error)
    try:
        assert on_white(open_picture(path)).mode == "RGB"
    except UnclipError as error:
        return one_line(error)
    return "read"


def one_line(error: UnclipError) -> str:
    text = str(error)
    assert text and "\n" not in text and len(text) < 4000, f"not one line: {text[:200]!r}"
    return "refused"


def pictures(rng: random.Random, folder: Path) -> str:
    """Bytes of a picture of any format, mutated."""
    path = folder / f"a.{rng.choice(('png', 'jpg', 'webp', 'gif', 'tif'))}"
    path.write_bytes(mutated(rng.choice(SEEDS), rng))
    return read_picture(path)


def chunks(rng: random.Random, folder: Path) -> str:
    """Chunks of a PNG added, changed, repeated, removed and reordered, with right checksums."""
    data = encoded(PIXELS.convert(rng.choice(("RGB", "P", "L", "RGBA"))), "PNG")[8:]
    parts: list[tuple[bytes, bytes]] = []
    while data:
        (size,) = struct.unpack(">I", data[:4])
        parts.append((data[4:8], data[8 : 8 + size]))
        data = data[12 + size :]
    for _ in range(rng.randint(1, 5)):
        i = rng.randrange(len(parts) + 1)
        kind = rng.choice(
            (*b"IHDR PLTE IDAT IEND tRNS gAMA cHRM iCCP sRGB tEXt zTXt iTXt eXIf pHYs".split(), *KINDS)
        )
        content = rng.choice((b"", rng.randbytes(rng.randrange(40)), _chunk_text(rng)))
        action = rng.randrange(4)
        if action == 0 or not parts:
            parts.insert(i, (kind, content))
        elif action == 1:
            kind, content = parts[i % len(parts)]
            parts[i % len(parts)] = kind, mutated(content, rng, 3) if content else b"\0"
        elif action == 2:
            parts.insert(i, rng.choice(parts))
        elif rng.random() < 0.3:
            rng.shuffle(parts)
        else:
            parts.pop(i % len(parts))
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts))
    return read_picture(folder / "a.png")


KINDS = (b"acTL", b"fcTL", b"fdAT", b"caBX", b"bKGD", b"sBIT", b"tIME", b"\0\0\0\0", b"abcd")


def _chunk_text(rng: random.Random) -> bytes:
    """The content of a text chunk: a key, and text that is perhaps compressed."""
    key = rng.choice((b"unclip", b"parameters", b"prompt", b"XML:com.adobe.xmp", b"", b"x" * 80, b"\xff"))
    text = rng.choice((b"{", b"[" * 5000, b'{"a": 1}', bytes(1 << 20), rng.randbytes(30), b'"\\ud800"'))
    packed = zlib.compress(text)
    packed = packed[: rng.randrange(len(packed))] if rng.random() < 0.3 else packed
    return key + rng.choice(
        (b"\0" + text, b"\0\0" + packed, b"\0\1\0\0\0" + packed, b"\0\0\0\0\0" + text, text)
    )


def exif(rng: random.Random, folder: Path) -> str:
    """Damage to EXIF alone, which must not cost the picture."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    for _ in range(rng.randrange(6)):
        tags[rng.choice(list(ExifTags.Base)).value] = rng.choice((1, -1, 1.5, "text", b"\0\xff", (1, 2, 3)))
    kind = rng.choice(("JPEG", "PNG", "WEBP", "AVIF"))
    try:
        data = encoded(PIXELS, kind, exif=mutated(tags.tobytes(), rng, 4))
    except Exception:  # tags that Pillow does not write
        return "not written"
    path = folder / f"a.{kind.lower()}"
    path.write_bytes(data)
    assert read_picture(path) == "read", "damaged EXIF cost a sound picture"
    return "read"
