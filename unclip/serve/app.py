"""The routes: OpenAI's Images API, health, metrics and the pictures themselves."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unclip import images
from unclip.errors import RequestError
from unclip.provenance import metadata
from unclip.serve.envelope import ApiError
from unclip.serve.request import GenerationRequest, parse_generation
from unclip.serve.store import Store
from unclip.serve.worker import Job, Pictures, Worker

log = logging.getLogger(__name__)

LARGEST_BODY = 1 << 20  # bytes of JSON
CREATED = 1698798177  # when OpenAI says that dall-e-2 was made; programs want some time


@dataclass(frozen=True)
class Policy:
    """How the server treats its clients.

    Attributes:
        keys: of which a client must name one; none are asked for if there are none.
        strict: see `parse_generation`.
        public_url: under which clients reach the server, if not the one they asked.
        models: names it answers to.
        marked: whether pictures carry the watermark and the type of source.
    """

    keys: tuple[str, ...] = ()
    strict: bool = False
    public_url: str | None = None
    models: tuple[str, ...] = ("dall-e-2",)
    marked: bool = True


@dataclass(frozen=True)
class Server:
    """What the routes share."""

    worker: Worker
    store: Store
    policy: Policy
    answers: Counter[int] = field(default_factory=Counter)


def create_app(worker: Worker, store: Store, policy: Policy) -> FastAPI:
    """The application; it starts the worker and, at its end, waits for it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    # FastAPI's own documentation pages fetch scripts from elsewhere.
    app = FastAPI(title="unclip", lifespan=lifespan, docs_url=None, redoc_url=None)
    server = Server(worker, store, policy)
    app.add_middleware(_Answers, answers=server.answers)
    for error in (ApiError, RequestError, HTTPException):
        app.add_exception_handler(error, _refuse)

    async def generate(request: Request) -> Response:
        _authorize(request, policy.keys)
        wanted = parse_generation(await _json(request), strict=policy.strict)
        job = worker.submit(wanted)
        pictures = await _result(request, worker, job)
        data = await asyncio.to_thread(_answer, server, wanted, pictures, _base_url(request, policy))
        timing = {"seconds": round(pictures.seconds, 3)}
        return JSONResponse({"created": int(time.time()), "data": data, "x_unclip": timing})

    async def models(request: Request) -> Response:
        _authorize(request, policy.keys)
        return JSONResponse({"object": "list", "data": [_model(name) for name in policy.models]})

    async def model(request: Request, name: str) -> Response:
        _authorize(request, policy.keys)
        if name not in policy.models:
            message = f"The model '{name}' does not exist or you do not have access to it."
            raise ApiError(message, status=404, code="model_not_found")
        return JSONResponse(_model(name))

    async def file(name: str, exp: str = "", sig: str = "") -> Response:
        headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return FileResponse(store.find(name, exp, sig), media_type="image/png", headers=headers)

    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        return JSONResponse({"ready": worker.alive}, status_code=200 if worker.alive else 503)

    async def metrics() -> Response:
        return PlainTextResponse(_metrics(server), media_type="text/plain; version=0.0.4")

    for prefix in ("/v1", ""):
        app.add_api_route(f"{prefix}/images/generations", generate, methods=["POST"])
        app.add_api_route(f"{prefix}/models", models)
        app.add_api_route(f"{prefix}/models/{{name}}", model)
    app.add_api_route("/v1/files/images/{name}", file, methods=["GET", "HEAD"])
    app.add_api_route("/health", health)
    app.add_api_route("/health/ready", ready)
    app.add_api_route("/metrics", metrics)
    return app


class _Answers:
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
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not begun:
                body = ApiError("The server had an error.", status=500, kind="server_error").body
                # The same request would fail again: the official clients would otherwise send it twice more.
                failed = JSONResponse(body, status_code=500, headers={"x-should-retry": "false"})
                await failed(scope, receive, answer)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        known = {404: f"Invalid URL ({request.method} {request.url.path})", 405: f"Not allowed: {request.method}"}
        error = ApiError(known.get(error.status_code, str(error.detail)), status=error.status_code)
    elif not isinstance(error, ApiError):
        error = ApiError(str(error))
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def _authorize(request: Request, keys: Sequence[str]) -> None:
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
    # Every key is compared, and in constant time: the time taken tells nothing.
    if not any([hmac.compare_digest(key.encode(), one.encode()) for one in keys]):
        raise ApiError("Incorrect API key provided.", status=401, code="invalid_api_key")


async def _json(request: Request) -> object:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise ApiError(f"The body is larger than {LARGEST_BODY} bytes.", status=413)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("We could not parse the JSON body of your request.") from None


async def _result(request: Request, worker: Worker, job: Job) -> Pictures:
    """Waits for the pictures, or for the client to go away: then the work is stopped."""
    result: asyncio.Future[Any] = asyncio.wrap_future(job.result)
    gone: asyncio.Future[Any] = asyncio.ensure_future(
        request.receive()
    )  # the body is read, so all that can still come is the end
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ApiError("The client closed the request.", status=499)
        pictures: Pictures = result.result()
        return pictures
    finally:
        gone.cancel()
        if not job.result.done():
            result.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # which nobody else will see
            worker.cancel(job)


def _answer(server: Server, wanted: GenerationRequest, pictures: Pictures, base: str) -> list[dict[str, Any]]:
    """The pictures at the size that was asked for, marked, each with its seed."""
    source: metadata.Source | None = "trainedAlgorithmicMedia" if server.policy.marked else None
    data = []
    for image, seed in zip(pictures.images, pictures.seeds, strict=True):
        if image.width != wanted.size:
            image = image.resize((wanted.size, wanted.size), Image.Resampling.LANCZOS)
        # The prompt is the client's own affair: it is not written into the file.
        file = metadata.encode(images.mark(image) if server.policy.marked else image, source=source)
        if wanted.response_format == "url":
            data.append({"url": base + server.store.add(file), "seed": seed})
        else:
            data.append({"b64_json": base64.b64encode(file).decode(), "seed": seed})
    return data


def _base_url(request: Request, policy: Policy) -> str:
    if policy.public_url:
        return policy.public_url.rstrip("/")
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme).partition(",")[0].strip()
    host = request.headers.get("x-forwarded-host") or request.headers.get("host") or request.url.netloc
    return f"{'https' if scheme == 'https' else 'http'}://{host.partition(',')[0].strip()}"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "unclip"}


def _metrics(server: Server) -> str:
    """Prometheus' text format."""
    worker = server.worker
    kinds = {
        "unclip_images_total": ("counter", worker.drawn), "unclip_batches_total": ("counter", worker.batches),
        "unclip_cancelled_total": ("counter", worker.cancelled), "unclip_queue_images": ("gauge", worker.waiting),
    }  # fmt: skip
    lines = [line for name, (kind, value) in kinds.items() for line in (f"# TYPE {name} {kind}", f"{name} {value}")]
    lines.append("# TYPE unclip_requests_total counter")
    lines += [f'unclip_requests_total{{code="{code}"}} {count}' for code, count in sorted(server.answers.items())]
    return "\n".join(lines) + "\n"
