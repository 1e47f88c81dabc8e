"""The page's login: guessing is slow."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from unclip.serve.page_guard import PageGuard


def test_wrong_passwords_make_their_address_wait() -> None:
    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        right = scope["headers"] == [(b"x", b"right")]
        await JSONResponse({}, status_code=200 if right else 400)(scope, receive, send)

    async def attempt(word: bytes, client: str = "1.2.3.4") -> int:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/login",
            "headers": [(b"x", word)],
            "client": (client, 1),
        }
        status: list[int] = []

        async def send(message: Any) -> None:
            status.append(message.get("status", 0))

        await guard(scope, None, send)  # type: ignore[arg-type]
        return status[0]

    async def attack() -> list[int]:
        side_by_side = await asyncio.gather(*(attempt(b"wrong") for _ in range(50)))
        return [*side_by_side, await attempt(b"right"), await attempt(b"right", "5.6.7.8")]

    guard = PageGuard(gradio, Path("/nowhere"), Path("/nowhere"))
    answers = asyncio.run(attack())
    assert answers == [400] + [429] * 50 + [200]
    guard._logins._failed["1.2.3.4"] = (1, time.monotonic() - 2)
    assert asyncio.run(attempt(b"right")) == 200 and guard._logins.wait("1.2.3.4") == 0
