"""Around every route: request ids, processing times, the request log, metrics, and errors in the envelope."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unclip.serve.envelope import ApiError, internal_error, shutting_down
from unclip.serve.metrics import Metrics

log = logging.getLogger(__name__)
ACCESS: Final = logging.getLogger("unclip.access")


class RequestRecorder:
    """ASGI middleware that numbers, times, logs and counts requests, and answers unforeseen errors with a
    500.

    The log names the route and no query, because queries hold signatures; neither has it bodies, because
    these hold prompts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, number, status = time.perf_counter(), f"req_{secrets.token_hex(16)}", 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = number
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
            await send(message)

        async def fail(error: ApiError) -> None:
            if not status:
                response = JSONResponse(error.body, status_code=error.status, headers=error.headers)
                await response(scope, receive, answer)

        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:  # the time to finish running requests is over
            # Not raised again: uvicorn alone cancels requests, and would log each with a traceback.
            await fail(shutting_down())
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            await fail(internal_error())
        finally:
            self._record(scope, status, time.perf_counter() - started, number)

    def _record(self, scope: Scope, status: int, seconds: float, number: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        client = (scope.get("client") or ("-",))[0]
        ACCESS.info("%s %s %s %d %.3fs %s", client, scope["method"], route, status, seconds, number)


async def refuse(request: Request, error: Exception) -> Response:
    """Answers a foreseen error with the envelope, and OPTIONS with the methods of its route."""
    if isinstance(error, HTTPException):
        known = {
            404: f"Invalid URL ({request.method} {request.url.path})",
            405: f"Not allowed: {request.method}",
        }
        message, headers = known.get(error.status_code, str(error.detail)), dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed_methods(request)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        error = ApiError(message, status=error.status_code, headers=headers)
    elif not isinstance(error, ApiError):
        error = ApiError(str(error))
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def _allowed_methods(request: Request) -> str:
    """Returns the value of `Allow`: the methods of all routes with this path."""
    found = {"OPTIONS"}
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(found))
