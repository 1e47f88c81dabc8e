"""The process of the command line: Ctrl-C at any moment, and output that nobody reads."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

INTERRUPTED: Final = 130  # exit status after Ctrl-C
STOPPED: Final = "stopped; what was finished is kept"
IMPORTING: Final = "<frozen importlib._bootstrap>"


class Commands(click.Group):
    """A group of commands that ends quietly on Ctrl-C, where click prints an empty line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None


class Interrupts:
    """Context in which Ctrl-C raises one KeyboardInterrupt, which no library swallows.

    While a module is being imported, the process ends at once: extension modules abort the process on an
    exception, and some catch it. A second Ctrl-C ends the process, too. Forked workers end silently.

    Attributes:
        received: whether there was a Ctrl-C. Later errors (of workers that it ended) are consequences of it.
    """

    def __init__(self) -> None:
        self.received = False
        self._main = os.getpid()

    def __enter__(self) -> Interrupts:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before != signal.SIG_IGN:  # as shells set it for jobs in the background
            signal.signal(signal.SIGINT, self._handle)
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        sys.unraisablehook = sys.__unraisablehook__

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._main:
            os._exit(INTERRUPTED)
        if self.received or _importing(frame):
            os.write(2, f"{STOPPED}\n".encode())
            os._exit(INTERRUPTED)
        self.received = True
        raise KeyboardInterrupt

    def _unraisable(self, ignored: Any) -> None:
        """Raise an interrupt again that came in a destructor or a callback, where Python drops it."""
        if isinstance(ignored.exc_value, KeyboardInterrupt):
            self.received = False
            threading.Timer(
                0.01, os.kill, (self._main, signal.SIGINT)
            ).start()  # here, it would be lost again
        else:
            sys.__unraisablehook__(ignored)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


class _Unread(io.FileIO):
    """A file descriptor that discards what is written after its reader has closed the pipe."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes


def survive_closed_pipes() -> None:
    """Go on working when the reader of the output has closed it (`unclip … | head -1`).

    What a command makes are files; the lines that it prints only name them.
    """
    sys.stdout, sys.stderr = _unread(sys.stdout), _unread(sys.stderr)


def _unread(stream: TextIO) -> TextIO:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without a buffer: python -u
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO:  # a console of Windows, none
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unread(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def discard_unwritten() -> None:
    """Discard what an output on a full disk still holds; Python would fail to write it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_anything() -> None:
    """Let both outputs print every text, on terminals of any encoding."""
    codecs.register_error("unclip", _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="unclip")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode a file name's bytes that are not UTF-8 as they are, and any other character as `?`."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    if error.encoding.lower().startswith("utf-8") and all("\udc80" <= one <= "\udcff" for one in found):
        return found.encode("utf-8", "surrogateescape"), error.end
    return "?" * len(found), error.end
