"""The server's process: its port, its temporary folder, its signals and its log."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from unclip.errors import RequestError
from unclip.serve.connections import BoundedProtocol, raise_file_limit

PREFIX: Final = "unclip-serve-"  # of temporary folders
LOCK: Final = ".lock"  # file that a running server holds locked
INTERRUPTED: Final = 130  # exit status after Ctrl-C


def bind(host: str, port: int) -> socket.socket:
    """Binds the port, so that one in use is reported before the model is loaded.

    Raises:
        RequestError: it cannot be bound.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise RequestError(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from None
    return bound


def url(bound: socket.socket) -> str:
    """Returns the URL of a bound port."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yields a folder that is removed at the end, also after SIGTERM; removes those of servers that were
    killed.
    """
    _sweep_stale()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, _locked(Path(name) / LOCK):
        # PyTorch makes this folder when a model is loaded, and leaves it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{name}/compiled")
        yield Path(name)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process, however it ends."""
    with path.open("w") as file:
        if not _try_lock(file.fileno()):
            raise RequestError(f"{path}: is locked")
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl  # not on Windows, where stale folders stay
    except ModuleNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep_stale() -> None:
    if sys.platform == "win32":
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("r+") as file:
                stale = folder.stat().st_uid == os.getuid() and _try_lock(file.fileno())
        except OSError:  # another user's, or one that is just being made or removed
            continue
        if stale:
            shutil.rmtree(folder, ignore_errors=True)


def exit_on_sigterm() -> None:
    """Makes SIGTERM unwind the stack like Ctrl-C does, so that temporary files are removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)


def log_to_stderr() -> None:
    """Sends the server's log to stderr: requests without prompts, warnings and errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    own = logging.getLogger("unclip")
    own.addHandler(handler)
    own.setLevel(logging.INFO)


def log_prompt(count: int, prompt: str) -> None:
    """Logs a prompt, for operators who ask for it; quoted, so that it cannot forge lines."""
    logging.getLogger("unclip.prompts").info("%d pictures of %r", count, prompt)


class _Server(uvicorn.Server):
    """uvicorn's server that announces itself, tells the application when it drains, and ends quietly when
    hurried.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None],
        on_drain: Callable[[], None] | None,
        folder: Path,
    ) -> None:
        super().__init__(config)
        self.on_start, self.on_drain, self.folder = on_start, on_drain, folder

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # the second signal: running work is not waited for
            shutil.rmtree(self.folder, ignore_errors=True)
            os._exit(INTERRUPTED if sig == signal.SIGINT else 0)
        if self.on_drain:
            self.on_drain()
        super().handle_exit(sig, frame)


def run(
    app: FastAPI,
    bound: socket.socket,
    folder: Path,
    *,
    drain_timeout: int,
    on_start: Callable[[], None],
    on_drain: Callable[[], None] | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes running requests.

    Args:
        folder: temporary folder, removed when a second signal hurries the end.
        drain_timeout: seconds for running requests.
        on_start: called when the server listens.
        on_drain: called when it no longer takes requests.
    """
    BoundedProtocol.max_connections = raise_file_limit()
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,  # it would name the signatures of URLs; unclip.access does not
        limit_concurrency=BoundedProtocol.max_connections,
        timeout_graceful_shutdown=drain_timeout,
    )
    server = _Server(config, on_start, on_drain, folder)
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.freeze()  # at exit, Python would search all of torch for cycles: 0.6 s of CPU
