"""What a picture file's metadata says of its origin, read without decoding a pixel: a million files stay
cheap.

PNG chunks, JPEG segments and RIFF chunks are walked; what is not metadata is skipped unread.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LARGEST = 1 << 20  # bytes read of one block of metadata
MOST = 4096  # blocks read of one file

# Text chunks that generators of pictures leave in a PNG, and whose they are.
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
    """What the metadata says.

    Attributes:
        generated: the statements that a model made the picture or a part of it; empty if there is none.
        credentials: whether there is a C2PA manifest; cameras write those as well.
    """

    generated: tuple[str, ...]
    credentials: bool


def read_header(file: BinaryIO) -> Header:
    """What the metadata of an opened PNG, JPEG or WebP file says; nothing, of any other file or a damaged
    one.
    """
    found: dict[str, None] = {}  # a set that keeps the order
    credentials = False
    for number, (kind, data) in enumerate(_blocks(file)):
        if number >= MOST:
            break
        if kind in GENERATORS.values():
            found[kind] = None
        elif kind == "c2pa":
            credentials = True
        # The type of source is plain text both in XMP and in the CBOR of C2PA.
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
    """The metadata of the file: ("xmp" | "exif" | "c2pa" | a generator, bytes)."""
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
        if marker in (0xDA, 0xD9) or length < 0:  # the pixels begin, or the file is damaged
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
