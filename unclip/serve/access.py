"""Who may use the server: API keys, and, on a server without any, programs of this machine only."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unclip.serve.envelope import ApiError

JSON, FORM = "application/json", "multipart/form-data"
# What a browser sends as text/plain it sends without asking.
BODIES: Final[dict[str, tuple[str, ...]]] = {
    "/images/generations": (JSON,),
    "/responses": (JSON,),
    "/images/embeddings": (JSON, FORM),
}
EMBEDDABLE: Final = "/v1/files/images/"  # its URLs are signed, and made to be shown on other sites


def authorize(request: Request, keys: Sequence[str]) -> str:
    """Checks the API key, if any are configured, and returns the client's identity for its share of the
    queue.

    The key is a bearer token or in the header `api-key`.

    Raises:
        ApiError: 401, no or a wrong key.
    """
    if not keys:
        return address(request)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    key = given.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
    if not key:
        raise ApiError(
            "You didn't provide an API key. You need to provide your API key in an Authorization header "
            "using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY).",
            status=401,
        )
    # Headers are bytes, which Starlette reads as Latin-1.
    if not known_key(key.encode("latin-1"), keys):
        raise ApiError("Incorrect API key provided.", status=401, code="invalid_api_key")
    return f"key {hashlib.sha256(key.encode()).hexdigest()[:12]}"


def known_key(given: bytes, keys: Sequence[str]) -> bool:
    """Compares with every key, each in constant time, so that the time taken tells nothing."""
    return any([hmac.compare_digest(given, key.encode()) for key in keys])


def address(request: Request) -> str:
    """Returns the client's address, as far as the server knows it."""
    return request.client.host if request.client else ""


def base_url(request: Request, public: str | None) -> str:
    """Returns the URL under which the client reaches this server: `public`, or what the client or the proxy
    says.
    """
    if public:
        return public.rstrip("/")
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme).partition(",")[0].strip()
    host = request.headers.get("x-forwarded-host") or request.headers.get("host") or request.url.netloc
    return f"{'https' if scheme == 'https' else 'http'}://{host.partition(',')[0].strip()}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, and no name server is asked."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class KeylessGuard:
    """ASGI middleware for a server without keys: other sites' pages in the user's browser must not use it.

    Refused are foreign `Host`s (DNS rebinding: a page whose own name now points to 127.0.0.1), requests that
    a browser marks as cross-site, and bodies of JSON routes that are not declared as JSON, which browsers
    send without asking.

    Args:
        hosts: names other than loopback ones under which the server is known; None accepts every `Host`.
        origins: that may use the server from browsers; "*" for all.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None, origins: Sequence[str] = ()) -> None:
        self.app, self.hosts, self.origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["method"], scope["path"], Headers(scope=scope))
            except ApiError as error:
                await JSONResponse(error.body, status_code=error.status)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self.hosts is not None and not is_loopback(name) and name not in self.hosts:
            raise ApiError(
                f"This server answers to this machine only, not to the host {name[:100]!r}. If clients "
                "reach it "
                "under that name, start it with --public-url or with --api-key.",
                status=403,
            )
        reading = method in ("GET", "HEAD")
        harmless = reading and (path.startswith(EMBEDDABLE) or headers.get("sec-fetch-mode") == "navigate")
        if not harmless and self._is_cross_site(headers, name):
            message = (
                "Requests from other sites are refused; start the server with --cors-origin to allow one."
            )
            raise ApiError(message, status=403)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        kinds = next((kinds for end, kinds in BODIES.items() if path.endswith(end)), None)
        if method == "POST" and kinds and kind not in kinds:
            raise ApiError(f"The body must be sent as Content-Type: {' or '.join(kinds)}.", status=415)

    def _is_cross_site(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if "*" in self.origins or origin in self.origins:
            return False
        if headers.get("sec-fetch-site") == "cross-site":
            return True
        return (
            origin is not None and (urlsplit(origin).hostname or "") != host
        )  # browsers without Sec-Fetch-Site
