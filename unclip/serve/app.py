"""The routes: OpenAI's Images API, health, metrics and the pictures themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from unclip.errors import RequestError
from unclip.serve.answers import Artist
from unclip.serve.document import ANSWERS, EDIT, FAILURES, GENERATION, VARIATION
from unclip.serve.envelope import ApiError
from unclip.serve.http import Answers, authorize, base_url, read_form, read_json, refuse
from unclip.serve.pictures import Marks
from unclip.serve.request import Form, GenerationRequest, parse_edit, parse_generation, parse_variation
from unclip.serve.store import Store
from unclip.serve.worker import Worker

DECODERS = 2  # uploads decoded at a time, so that large pictures cannot fill the memory
CREATED = 1698798177  # when OpenAI says that dall-e-2 was made; programs want some time


@dataclass(frozen=True)
class Policy:
    """How the server treats its clients.

    Attributes:
        keys: of which a client must name one; none are asked for if there are none.
        strict: see `parse_generation`.
        public_url: under which clients reach the server, if not the one they asked.
        models: names it answers to.
        marks: what pictures say of themselves.
    """

    keys: tuple[str, ...] = ()
    strict: bool = False
    public_url: str | None = None
    models: tuple[str, ...] = ("dall-e-2",)
    marks: Marks = field(default_factory=Marks)


def create_app(worker: Worker, store: Store, policy: Policy) -> FastAPI:
    """The application; it starts the worker and, at its end, waits for it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    # FastAPI's own documentation pages fetch scripts from elsewhere.
    app = FastAPI(title="unclip", lifespan=lifespan, docs_url=None, redoc_url=None)
    answers: Counter[int] = Counter()
    app.add_middleware(Answers, answers=answers)
    for error in (ApiError, RequestError, HTTPException, ClientDisconnect):
        app.add_exception_handler(error, refuse)
    artist = Artist(worker, store, policy.marks)
    decoders = asyncio.Semaphore(DECODERS)

    async def draw(request: Request, wanted: GenerationRequest) -> Response:
        return await artist.answer(request, wanted, base_url(request, policy.public_url))

    async def generate(request: Request) -> Response:
        authorize(request, policy.keys)
        return await draw(request, parse_generation(await read_json(request), strict=policy.strict))

    def on_form(parse: Callable[..., GenerationRequest]) -> Callable[[Request], Awaitable[Response]]:
        async def route(request: Request) -> Response:
            authorize(request, policy.keys)
            form: Form = await read_form(request)
            async with decoders:
                wanted = await asyncio.to_thread(parse, form, strict=policy.strict)
            del form
            return await draw(request, wanted)

        return route

    async def models(request: Request) -> Response:
        authorize(request, policy.keys)
        return JSONResponse({"object": "list", "data": [_model(name) for name in policy.models]})

    async def model(request: Request, name: str) -> Response:
        authorize(request, policy.keys)
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
        return PlainTextResponse(_metrics(worker, answers), media_type="text/plain; version=0.0.4")

    for prefix in ("/v1", ""):
        shown = bool(prefix)  # in the document, once
        for name, route, body in (
            ("generations", generate, GENERATION),
            ("edits", on_form(parse_edit), EDIT),
            ("variations", on_form(parse_variation), VARIATION),
        ):
            app.add_api_route(
                f"{prefix}/images/{name}", route, methods=["POST"], name=name, responses=ANSWERS, openapi_extra=body,
                include_in_schema=shown,
            )  # fmt: skip
        app.add_api_route(f"{prefix}/models", models, responses=FAILURES, include_in_schema=shown)
        app.add_api_route(f"{prefix}/models/{{name}}", model, responses=FAILURES, include_in_schema=shown)
    app.add_api_route("/v1/files/images/{name}", file, methods=["GET"], response_class=FileResponse, responses=FAILURES)
    app.add_api_route("/v1/files/images/{name}", file, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/health", health)
    app.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)  # as some balancers ask
    app.add_api_route("/health/ready", ready, responses={503: {"description": "Not ready."}})
    app.add_api_route("/metrics", metrics, response_class=PlainTextResponse)
    return app


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "unclip"}


def _metrics(worker: Worker, answers: Counter[int]) -> str:
    """Prometheus' text format."""
    kinds = {
        "unclip_images_total": ("counter", worker.drawn), "unclip_batches_total": ("counter", worker.batches),
        "unclip_cancelled_total": ("counter", worker.cancelled), "unclip_queue_images": ("gauge", worker.waiting),
    }  # fmt: skip
    lines = [line for name, (kind, value) in kinds.items() for line in (f"# TYPE {name} {kind}", f"{name} {value}")]
    lines.append("# TYPE unclip_requests_total counter")
    lines += [f'unclip_requests_total{{code="{code}"}} {count}' for code, count in sorted(answers.items())]
    return "\n".join(lines) + "\n"
