"""The gate in front of the page: Gradio's routes that the page does not need are closed, and files are
checked.

Gradio serves a whole toolbox beside the page (a proxy for URLs, recordings, an editor for its own source …),
reads any path that a client names unless its application was started by `launch()`, and stores uploads
without a limit in all.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API: Final = "/gradio_api"
READ: Final = {
    *("", "/", "/config", "/theme.css", "/manifest.json", "/favicon.ico", "/robots.txt", "/logout"),
    *(
        f"{API}/{name}"
        for name in ("info", "app_id", "startup-events", "queue/data", "upload_progress", "user")
    ),
    *(f"{API}/{name}" for name in ("login_check", "token")),
}
READ_BELOW: Final = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", f"{API}/file=")
JSON_BODIES: Final = {f"{API}/{name}" for name in ("queue/join", "reset", "cancel")}
UPLOADS: Final = {f"{API}/upload", f"{API}/component_server"}
LOGIN: Final = "/login"

LARGEST_FILE = 32 << 20  # bytes of one upload: room for a telephone's photograph, also as PNG
LARGEST_JSON = 1 << 20  # bytes
QUOTA = 1 << 30  # bytes of all uploads that lie in the folder
SLOWEST_LOGIN = 30.0  # seconds between attempts from one address, after five wrong ones in a row
MOST_ADDRESSES = 10_000  # largest number of addresses whose wrong attempts are remembered


class PageGuard:
    """ASGI middleware around the mounted Gradio application.

    Args:
        uploads: Gradio's folder of uploads and copies, the only one that clients may name.
        pictures: the folder of finished pictures, which may be fetched as well.
    """

    def __init__(self, app: ASGIApp, uploads: Path, pictures: Path) -> None:
        self.app = app
        self.uploads, self.pictures = uploads.resolve(), pictures.resolve()
        self._logins = LoginThrottle()
        self._receiving = 0  # bytes of uploads that are under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            await self._pass(path, scope, receive, send)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, status_code=error.status_code)(scope, receive, send)

    async def _pass(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        plain = path.rstrip("/")
        match scope["method"]:
            case "GET" | "HEAD" if path in READ or path.startswith(READ_BELOW):
                if path.startswith(f"{API}/file="):
                    self._check_file(path.removeprefix(f"{API}/file="), [self.uploads, self.pictures])
            case "POST" if plain in JSON_BODIES:
                receive = await self._checked_json(scope, receive)
            case "POST" if plain in UPLOADS:
                await self._pass_upload(scope, receive, send)
                return
            case "POST" if plain == LOGIN:
                await self._pass_login(scope, receive, send)
                return
            case _:
                raise HTTPException(404, "Not found.")
        await self.app(scope, receive, send)

    def _check_file(self, path: str, folders: Sequence[Path]) -> None:
        try:
            inside = any(Path(path).resolve().is_relative_to(folder) for folder in folders)
        except (OSError, ValueError):  # a null byte, or a loop of links
            inside = False
        if not inside:
            raise HTTPException(403, "This file was not uploaded here.")

    async def _checked_json(self, scope: Scope, receive: Receive) -> Receive:
        """Reads the body, refuses it if it names a file from elsewhere, and hands on what was read."""
        body = bytearray()
        async for part in Request(scope, receive).stream():
            body += part
            if len(body) > LARGEST_JSON:
                raise HTTPException(413, f"The body is larger than {LARGEST_JSON} bytes.")
        try:
            tree = json.loads(bytes(body))
            for file in _objects(tree):
                if (path := file.get("path")) is not None:
                    self._check_file(str(path), [self.uploads])
                if str(file.get("url") or "").startswith("data:"):
                    raise HTTPException(403, "Pictures are uploaded, not sent as data URLs.")
        except (ValueError, RecursionError):
            raise HTTPException(400, "The body is not JSON.") from None
        read = False

        async def replay() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay

    async def _pass_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes an upload on within the limits of one request and of the folder."""
        kind = dict(scope["headers"]).get(b"content-type", b"").lower()
        if not kind.startswith(
            b"multipart/form-data"
        ):  # component_server would also call by JSON, which no part does
            raise HTTPException(415, "Uploads are multipart/form-data.")
        stored = await asyncio.to_thread(folder_size, self.uploads)
        length = 0

        async def limited() -> Message:
            nonlocal length
            message = await receive()
            size = len(message.get("body", b""))
            length += size
            self._receiving += size
            if length > LARGEST_FILE + LARGEST_JSON:
                raise HTTPException(413, f"The upload is larger than {LARGEST_FILE >> 20} MB.")
            if stored + self._receiving > QUOTA:
                raise HTTPException(507, "The server has no room for more uploads at the moment.")
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            self._receiving -= length

    async def _pass_login(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or ("",))[0]
        if (wait := self._logins.wait(address)) > 0:
            raise HTTPException(429, f"Too many attempts. Try again in {wait:.0f} s.")
        self._logins.wrong(
            address
        )  # until the answer says otherwise, so that attempts side by side do not count as one

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._logins.right(address)
            await send(message)

        await self.app(scope, receive, watch)


class LoginThrottle:
    """Makes an address wait after a wrong password: 1, 2, 4 … seconds, up to `SLOWEST_LOGIN`."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, float]] = (
            OrderedDict()
        )  # address → wrong attempts, when the last was

    def wait(self, address: str) -> float:
        """Seconds until the address may try again."""
        attempts, last = self._failed.get(address, (0, 0.0))
        return (
            max(0.0, last + min(SLOWEST_LOGIN, 2.0 ** (attempts - 1)) - time.monotonic()) if attempts else 0.0
        )

    def wrong(self, address: str) -> None:
        """Counts an attempt as wrong."""
        attempts, _ = self._failed.pop(address, (0, 0.0))
        self._failed[address] = min(attempts + 1, 10), time.monotonic()
        if len(self._failed) > MOST_ADDRESSES:
            self._failed.popitem(last=False)

    def right(self, address: str) -> None:
        """Forgets the address's wrong attempts."""
        self._failed.pop(address, None)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; a file that goes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in parsed JSON, at any depth."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack += node.values()
        elif isinstance(node, list):
            stack += node
