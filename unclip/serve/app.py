"""The application: the image routes, and those of models, health, metrics and the image files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from unclip.errors import RequestError
from unclip.serve.access import KeylessGuard, authorize
from unclip.serve.answers import Model, ModelList
from unclip.serve.envelope import ApiError
from unclip.serve.image_routes import FAILURES, add_image_routes
from unclip.serve.limits import MAX_COST
from unclip.serve.metrics import Metrics
from unclip.serve.middleware import RequestRecorder, refuse
from unclip.serve.pictures import Marks
from unclip.serve.service import ImageService
from unclip.serve.store import Store
from unclip.serve.worker import Worker

READY: Final[dict[int | str, dict[str, Any]]] = {503: {"description": "Not ready."}}


@dataclass(frozen=True)
class Policy:
    """How the server treats its clients.

    Attributes:
        keys: accepted API keys; a client must name one of them. Empty if none is needed.
        strict: refuse whatever dall-e-2 refused.
        public_url: URL under which clients reach the server; None to believe the request's headers.
        models: names in the list of models.
        marks: which marks the images carry.
        hosts: for a server without keys: names beside loopback ones that `Host` may be; None for any.
        origins: sites whose pages may use the server.
        max_cost: see `unclip.serve.limits`.
    """

    keys: tuple[str, ...] = ()
    strict: bool = False
    public_url: str | None = None
    models: tuple[str, ...] = ("dall-e-2",)
    marks: Marks = field(default_factory=Marks)
    hosts: tuple[str, ...] | None = ()
    origins: tuple[str, ...] = ()
    max_cost: float = MAX_COST


def create_app(worker: Worker, store: Store, policy: Policy) -> FastAPI:
    """Returns the application, with its `ImageService` as `app.state.service`.

    It starts the worker and, when it ends, waits for it.
    """
    service = ImageService(worker, store, policy.marks, policy.max_cost)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        store.start()
        yield
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(store.stop)
        service.decoders.close()

    # FastAPI's own documentation pages fetch scripts from elsewhere.
    app = FastAPI(title="unclip", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    metrics = Metrics(worker)
    if not policy.keys:
        app.add_middleware(KeylessGuard, hosts=policy.hosts, origins=policy.origins)
    if policy.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=policy.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            max_age=600,
        )
    app.add_middleware(RequestRecorder, metrics=metrics)
    for error in (ApiError, RequestError, HTTPException, ClientDisconnect):
        app.add_exception_handler(error, refuse)
    for prefix in ("/v1", ""):
        add_image_routes(app, prefix, service, policy)
        _add_model_routes(app, prefix, policy)
    _add_file_route(app, store)
    _add_health_routes(app, worker, store, metrics)
    return app


def _add_model_routes(app: FastAPI, prefix: str, policy: Policy) -> None:
    async def models(request: Request) -> ModelList:
        authorize(request, policy.keys)
        return ModelList(data=[Model(id=name) for name in policy.models])

    async def model(request: Request, name: str) -> Model:
        authorize(request, policy.keys)
        if name not in policy.models:
            message = f"The model '{name}' does not exist or you do not have access to it."
            raise ApiError(message, status=404, code="model_not_found")
        return Model(id=name)

    shown = bool(prefix)
    _add_get(app, f"{prefix}/models", models, responses=FAILURES, include_in_schema=shown)
    _add_get(app, f"{prefix}/models/{{name}}", model, responses=FAILURES, include_in_schema=shown)


def _add_file_route(app: FastAPI, store: Store) -> None:
    async def file(name: str, exp: str = "", sig: str = "") -> Response:
        headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return FileResponse(store.find(name, exp, sig), headers=headers)

    path = "/v1/files/images/{name}"
    _add_get(app, path, file, response_class=FileResponse, responses=FAILURES)


def _add_health_routes(app: FastAPI, worker: Worker, store: Store, metrics: Metrics) -> None:
    async def health() -> Response:
        unloaded = [name for name, model in worker.models.items() if not model.loaded]
        return JSONResponse({"status": "ok", **({"unloaded": unloaded} if unloaded else {})})

    async def ready() -> Response:
        is_ready = worker.alive and not await asyncio.to_thread(lambda: store.full)
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def show_metrics() -> Response:
        return PlainTextResponse(metrics.render(), media_type="text/plain; version=0.0.4")

    _add_get(app, "/health", health)
    _add_get(app, "/health/ready", ready, responses=READY)
    _add_get(app, "/metrics", show_metrics, response_class=PlainTextResponse)


def _add_get(app: FastAPI, path: str, route: Callable[..., Awaitable[Any]], **options: Any) -> None:
    """Adds a route for GET, and for HEAD, by which load balancers ask and which FastAPI does not add."""
    app.add_api_route(path, route, methods=["GET"], **options)
    app.add_api_route(path, route, methods=["HEAD"], **{**options, "include_in_schema": False})
