"""Errors as OpenAI's clients read them: a status, and a JSON object with message, type, param and code."""

from __future__ import annotations

from typing import Any

from unclip.errors import UnclipError


class ApiError(UnclipError):
    """An answer that says no.

    Args:
        status: of HTTP.
        param: the field that is wrong.
        code: by which programs tell errors apart.
        headers: of the answer.
    """

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The envelope."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def overloaded(seconds: float) -> ApiError:
    """The queue is full: come again in so many seconds, as the official clients do by themselves."""
    wait = max(1, min(60, round(seconds)))
    return ApiError(
        f"The queue is full. Please try again in {wait}s.",
        status=429, kind="requests", code="rate_limit_exceeded", headers={"Retry-After": str(wait)},
    )  # fmt: skip
