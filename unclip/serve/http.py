"""What surrounds every route: keys, numbers and times of answers, errors in the envelope, forms within limits."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from python_multipart.exceptions import FormParserError
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unclip.serve.envelope import ApiError
from unclip.serve.request import Form

log = logging.getLogger(__name__)

LARGEST_JSON = 1 << 20  # bytes
LARGEST_FORM = 9 << 20  # bytes: two pictures and what goes with them


class Answers:
    """Gives every answer its number and time, counts them, and turns what nobody foresaw into an envelope."""

    def __init__(self, app: ASGIApp, answers: Counter[int]) -> None:
        self.app, self.answers = app, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.answers[message["status"]] += 1
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:  # the time to finish what is under way is over
            if not begun:
                body = ApiError("The server is shutting down.", status=503, kind="server_error").body
                await JSONResponse(body, status_code=503)(scope, receive, answer)
            raise
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not begun:
                body = ApiError("The server had an error.", status=500, kind="server_error").body
                # The same request would fail again: the official clients would otherwise send it twice more.
                failed = JSONResponse(body, status_code=500, headers={"x-should-retry": "false"})
                await failed(scope, receive, answer)


async def refuse(request: Request, error: Exception) -> Response:
    """Any error that was foreseen, in the envelope."""
    if isinstance(error, HTTPException):
        known = {404: f"Invalid URL ({request.method} {request.url.path})", 405: f"Not allowed: {request.method}"}
        error = ApiError(known.get(error.status_code, str(error.detail)), status=error.status_code)
    elif not isinstance(error, ApiError):
        error = ApiError(str(error))
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def authorize(request: Request, keys: Sequence[str]) -> None:
    """Lets those pass who name one of the keys, as a bearer token or in `api-key`; all, if there are no keys."""
    if not keys:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    key = given.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
    if not key:
        raise ApiError(
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY).",
            status=401,
        )
    # Every key is compared, and in constant time: the time taken tells nothing. Headers are bytes, which Starlette reads as Latin-1.
    if not any([hmac.compare_digest(key.encode("latin-1"), one.encode()) for one in keys]):
        raise ApiError("Incorrect API key provided.", status=401, code="invalid_api_key")


def base_url(request: Request, public: str | None) -> str:
    """Where the client reaches this server: `public` if it is known, else as the client, or the proxy, says."""
    if public:
        return public.rstrip("/")
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme).partition(",")[0].strip()
    host = request.headers.get("x-forwarded-host") or request.headers.get("host") or request.url.netloc
    return f"{'https' if scheme == 'https' else 'http'}://{host.partition(',')[0].strip()}"


async def read_json(request: Request) -> object:
    """The body, parsed."""
    body = b"".join([part async for part in _limited(request, LARGEST_JSON)])
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("We could not parse the JSON body of your request.") from None


async def read_form(request: Request) -> Form:
    """The fields and files of a multipart body. Of a name that comes again, and of `image[]`, the first counts.

    Raises:
        ApiError: it is too large (413), or no such body.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError("The body must be multipart/form-data.")
    parser = MultiPartParser(
        request.headers, _limited(request, LARGEST_FORM), max_files=16, max_fields=64, max_part_size=1 << 16
    )
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    try:
        form = await parser.parse()
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if isinstance(value, UploadFile):
                if name not in files:
                    files[name] = await value.read()
            else:
                fields.setdefault(name, value)
    except (MultiPartException, FormParserError) as error:
        raise ApiError(f"We could not parse the multipart body of your request: {error}") from None
    finally:
        # All of them, not the form's alone: a file that the body breaks off in is not part of the form.
        for file in parser._files_to_close_on_error:
            file.close()
    return fields, files


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body in parts, as long as it is not longer than so many bytes."""
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise ApiError(f"The body is larger than {most} bytes.", status=413)
        yield part
