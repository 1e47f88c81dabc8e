"""Lock files: one process at a time writes a folder, and another one is told who does."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unclip.errors import RequestError

log = logging.getLogger(__name__)

ATTEMPTS = 1000  # to lock a file that other processes make and remove
MODE = 0o644  # of the lock file, so that other users can read who holds it


@contextmanager
def hold(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` while the body runs; the file, and a folder made for it, go at the end.

    The operating system frees the lock when its process ends, however it ends: a file that a killed process
    left behind holds up nobody. Where there are no locks (Windows, some network file systems), the body runs
    without one. A process does not lock out itself.

    Args:
        what: what the lock protects, for messages.
        wait: wait until the lock is free instead of raising.

    Raises:
        RequestError: another process holds the lock, which the message names, or the file cannot be made.
    """
    made = not path.parent.exists()
    try:
        descriptor = _acquire(path, wait=False)
    except BlockingIOError:
        holder = _holder(path)
        if not wait:
            raise RequestError(
                f"{what}: is being written by {holder}; wait until it has finished, or stop it"
            ) from None
        log.warning("%s: waiting for %s", what, holder)
        descriptor = _acquire(path, wait=True)
    except OSError as error:
        raise RequestError(f"{what}: cannot be written ({error.strerror or error})") from None
    if descriptor is None:
        yield
        return
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            if made:
                path.parent.rmdir()  # only if nothing else was written
        os.close(descriptor)


def _acquire(path: Path, *, wait: bool) -> int | None:
    """Open and lock the file; None where there are no locks, BlockingIOError if another process has it."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return None
    for _ in range(ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, MODE)
        except FileNotFoundError:  # the process before us has removed the folder
            continue
        try:
            # POSIX locks belong to the process: worker processes that outlive it do not keep them.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError from None
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the process before us has removed the file
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _holder(path: Path) -> str:
    """The process that holds a lock, as it wrote itself down."""
    with contextlib.suppress(OSError):
        if text := path.read_text(encoding="utf-8", errors="replace").strip():
            return text
    return "another process"
