"""Read the origin of an image from its metadata, without decoding pixels.

Walks PNG chunks, JPEG segments or RIFF chunks and skips everything else unread, so it is fast on millions of
files.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LARGEST = 1 << 20  # bytes read per block of metadata
MOST = 4096  # blocks read per file

# Keywords of PNG text chunks that image generators write.
GENERATORS = {
    b"unclip": "settings of unclip",
    b"parameters": "parameters of a Stable Diffusion web UI",
    b"prompt": "prompt of ComfyUI",
    b"workflow": "workflow of ComfyUI",
    b"invokeai_metadata": "metadata of InvokeAI",
    b"sd-metadata": "metadata of InvokeAI",
    b"Dream": "prompt of InvokeAI",
}
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


class Header(NamedTuple):
    """Provenance in an image's metadata.

    Attributes:
        generated: statements that a model made the image or a part of it.
        credentials: whether there is a C2PA manifest, which cameras write too.
    """

    generated: tuple[str, ...]
    credentials: bool


def read_header(file: BinaryIO) -> Header:
    """Read the metadata of an open PNG, JPEG or WebP file; empty for other or damaged files."""
    found: dict[str, None] = {}  # an ordered set
    credentials = False
    for number, (kind, data) in enumerate(_blocks(file)):
        if number >= MOST:
            break
        if kind in GENERATORS.values():
            found[kind] = None
        elif kind == "c2pa":
            credentials = True
        # The digital source type is plain text in both XMP and C2PA's CBOR.
        lower = data.lower()
        if b"compositewithtrainedalgorithmicmedia" in lower:
            found[f"{kind}: compositeWithTrainedAlgorithmicMedia"] = None
        elif b"algorithmicmedia" in lower:
            found[f"{kind}: trainedAlgorithmicMedia"] = None
        elif kind == "exif" and b"Steps:" in data.replace(b"\0", b""):
            found["parameters of a Stable Diffusion web UI"] = None
        if b"unclip:Settings=" in data:
            found[GENERATORS[b"unclip"]] = None
    return Header(tuple(found), credentials)


def _blocks(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield blocks of metadata: kind ("xmp", "exif", "c2pa" or a value of GENERATORS) and content."""
    start = file.read(12)
    if start.startswith(PNG):
        file.seek(8)
        yield from _png(file)
    elif start.startswith(JPEG):
        file.seek(2)
        yield from _jpeg(file)
    elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
        yield from _webp(file)


def _png(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data = file.read(min(length, LARGEST))
        file.seek(length - len(data) + 4, os.SEEK_CUR)
        if kind == b"caBX":
            yield "c2pa", data
        elif kind == b"eXIf":
            yield "exif", data
        else:
            keyword, _, rest = data.partition(b"\0")
            if keyword == b"XML:com.adobe.xmp":
                compressed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
                yield "xmp", _inflated(rest) if compressed else rest
            elif keyword in GENERATORS:
                yield GENERATORS[keyword], b""


def _jpeg(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    while (head := file.read(4))[:1] == b"\xff" and len(head) == 4:
        marker, length = head[1], int.from_bytes(head[2:], "big") - 2
        if marker in (0xDA, 0xD9) or length < 0:  # start of the pixels, or damaged
            return
        data = file.read(length) if marker in (0xE1, 0xEB) else b""
        file.seek(length - len(data), os.SEEK_CUR)
        if marker == 0xEB and b"c2pa" in data:
            yield "c2pa", data
        elif data.startswith(b"http://ns.adobe.com/x"):
            yield "xmp", data
        elif data.startswith(b"Exif"):
            yield "exif", data


def _webp(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    kinds = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        length += length % 2
        data = file.read(min(length, LARGEST)) if head[:4] in kinds else b""
        file.seek(length - len(data), os.SEEK_CUR)
        if head[:4] in kinds:
            yield kinds[head[:4]], data


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, LARGEST)
    except zlib.error:
        return b""
