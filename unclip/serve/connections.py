"""HTTP connections within bounds: a deadline for request headers, and no more connections than
descriptors.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_DEADLINE: Final = 15.0  # seconds from the first moment of a request to the end of its headers
RESERVED_FILES: Final = 128  # descriptors for models, images and logs
MAX_CONNECTIONS: Final = 4096

log = logging.getLogger(__name__)


def raise_file_limit() -> int:
    """Raises the soft limit of open files as far as is useful; returns the number of connections that fit."""
    try:
        import resource  # not on Windows
    except ModuleNotFoundError:
        return 512 - RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (
        MAX_CONNECTIONS
        if soft == resource.RLIM_INFINITY
        else max(16, min(MAX_CONNECTIONS, soft - RESERVED_FILES))
    )


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol that closes connections beyond `max_connections` and those without a
    request.

    A connection whose headers do not come within the deadline is closed, like one that sends them byte by
    byte.
    """

    max_connections = MAX_CONNECTIONS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._deadline is None and self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_headers()  # the beginning of another request on the same connection

    def handle_events(self) -> None:
        super().handle_events()
        if self._deadline is not None and self.conn.their_state is not h11.IDLE:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_DEADLINE, self.transport.abort)
