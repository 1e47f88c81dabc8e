"""Errors in OpenAI's envelope: an HTTP status and a JSON object with message, type, param and code."""

from __future__ import annotations

from typing import Any

from unclip.errors import RequestError, UnclipError

GONE = 499  # status of a request whose client closed the connection; nginx's number, never sent


class ApiError(UnclipError):
    """A request that the server refuses or cannot fulfil.

    Args:
        status: HTTP status.
        kind: the envelope's `type`.
        param: name of the field that is wrong.
        code: machine-readable name of the error.
        headers: headers of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The envelope."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def refusal(error: Exception) -> ApiError:
    """Returns what the client is told of an error: its message, unless it is unforeseen."""
    if isinstance(error, ApiError):
        return error
    return ApiError(str(error)) if isinstance(error, RequestError) else internal_error()


def rate_limited(message: str, seconds: float) -> ApiError:
    """Returns the 429 that official clients answer by waiting for `Retry-After` and asking again."""
    wait = max(1, min(60, round(seconds)))
    return ApiError(
        f"{message} Please try again in {wait}s.",
        status=429,
        kind="requests",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(wait)},
    )


def shutting_down() -> ApiError:
    """Returns the 503 for requests that arrive, or still wait, while the server shuts down."""
    return ApiError("The server is shutting down.", status=503, kind="server_error")


def internal_error() -> ApiError:
    """Returns the 500 for a failure that the log explains; clients are told not to send the request again."""
    headers = {"x-should-retry": "false"}  # the same request would fail again
    return ApiError("The server had an error.", status=500, kind="server_error", headers=headers)
