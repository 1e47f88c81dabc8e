"""Request bodies, read within limits: JSON and multipart forms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from unclip.serve.envelope import ApiError

LARGEST_JSON: Final = 1 << 20  # bytes
LARGEST_FORM: Final = 9 << 20  # bytes: two images and the fields
LARGEST_FIELD: Final = 1 << 17  # bytes: the longest prompt
BODY_DEADLINE: Final = 120.0  # seconds in which a body must arrive


async def read_json(request: Request, most: int = LARGEST_JSON) -> object:
    """Parses a JSON body of at most `most` bytes.

    Raises:
        ApiError: it is too large (413) or not JSON.
    """
    body = b"".join([part async for part in _limited(request, most)])
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("We could not parse the JSON body of your request.") from None


async def read_form(request: Request) -> dict[str, str | bytes]:
    """Parses a multipart body into its fields (text) and files (bytes).

    `image[]` counts as `image`. The first part of a name counts.

    Raises:
        ApiError: it is too large (413) or not such a body.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError("The body must be multipart/form-data.")
    parser = MultiPartParser(
        request.headers,
        _limited(request, LARGEST_FORM),
        max_files=16,
        max_fields=64,
        max_part_size=LARGEST_FIELD,
    )
    parts: dict[str, str | bytes] = {}
    try:
        form = await parser.parse()
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if name not in parts:
                parts[name] = await value.read() if isinstance(value, UploadFile) else value
    except (MultiPartException, FormParserError) as error:
        raise ApiError(f"We could not parse the multipart body of your request: {error}") from None
    finally:
        # All of them, not the form's alone: a file that the body breaks off in is not part of the form.
        for file in parser._files_to_close_on_error:
            file.close()
    return parts


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """Yields the body's parts; stops with an error after `most` bytes or at the deadline."""
    length = 0
    parts = request.stream()
    deadline = asyncio.get_running_loop().time() + BODY_DEADLINE
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                part = await anext(parts, None)
        except TimeoutError:
            raise ApiError(
                f"The body did not arrive within {BODY_DEADLINE:.0f} seconds.", status=408
            ) from None
        if part is None:
            return
        length += len(part)
        if length > most:
            raise ApiError(f"The body is larger than {most} bytes.", status=413)
        yield part
