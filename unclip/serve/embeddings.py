"""Image embeddings z_i in requests and answers: lists of numbers, or base64 of little-endian float32."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_FLOAT32: Final = 3.4028234e38
MAX_WIDTH: Final = 1 << 14  # numbers in an embedding


def encode_embedding(z_i: np.ndarray, encoding: str) -> list[float] | str:
    """Returns z_i [D] as OpenAI's `encoding_format` says: "float" or "base64"."""
    if encoding == "base64":
        return base64.b64encode(z_i.astype("<f4").tobytes()).decode()
    numbers: list[float] = z_i.astype(float).tolist()
    return numbers


def _embeds(value: object) -> list[list[float]]:
    """Returns embeddings [N][D]: from one or a list of them, each a list of numbers or base64 of float32."""
    rows = value if isinstance(value, list) and value and isinstance(value[0], list | str) else [value]
    found = [_embed(row) for row in rows]
    if len({len(row) for row in found}) != 1:
        raise _wrong("the embeddings differ in width")
    return found


def _embed(row: object) -> list[float]:
    if isinstance(row, str):
        try:
            data = base64.b64decode(row, validate=True)
            numbers: list[Any] = list(struct.unpack(f"<{len(data) // 4}f", data))
        except (binascii.Error, ValueError, struct.error):
            raise _wrong("not the base64 of little-endian float32 numbers") from None
    elif isinstance(row, list):
        numbers = row
    else:
        raise _wrong("neither a list of numbers nor their base64")
    if not 0 < len(numbers) <= MAX_WIDTH:
        raise _wrong(f"an embedding has {len(numbers)} numbers")
    for place, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _wrong(f"holds {str(number)[:50]!r} at place {place}, which is no number")
        if not abs(number) <= MAX_FLOAT32:
            raise _wrong(
                f"holds {number if isinstance(number, float) else 'a huge integer'} at place {place}"
            )
    return numbers


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("unclip", "{message}", {"message": message})


_EMBED: Final = {"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
Embeds = Annotated[
    list[list[float]],
    BeforeValidator(_embeds),
    WithJsonSchema({"oneOf": [*_EMBED["oneOf"], {"type": "array", "items": _EMBED}]}),
]
