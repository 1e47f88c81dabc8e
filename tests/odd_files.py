"""Odd picture files: every mode and depth, chunks of a PNG, and what training sees of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from unclip.data.sample import picture

Image.init()
BASE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).resize((48, 32))
GREY = np.asarray(BASE.convert("L"))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def trained(data: bytes, side: int | None = None) -> Image.Image:
    """The picture as training sees it."""
    return picture({"__key__": "a", "png": data}, side)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG with another chunk before its pixels."""
    sound = encoded(BASE)
    return sound[:33] + png_chunk(kind, data) + sound[33:]


def deep(levels: np.ndarray[Any, Any], mode: str) -> Image.Image:
    types = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    return Image.frombytes(mode, levels.shape[::-1], levels.astype(types[mode]).tobytes())
