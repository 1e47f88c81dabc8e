"""`unclip serve` as a process on loopback, for the benchmarks of the server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

KEY = "sk-fuzz"
TIMEOUT = 30.0  # seconds to wait for a response


def request(path: str, body: bytes, content_type: str, method: str = "POST", more: str = "") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode("utf-8", "surrogateescape") + body


def send(port: int, sent: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes to the server, and return all that it answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server stopped reading; its answer is still to be read
        try:
            while more := connection.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
    return answer


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[int, int]]:
    """Start `unclip serve`. Yields its port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "unclip", "serve", "--port", str(port), "--api-key", KEY, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(3000):
            time.sleep(0.1)
            try:
                if b'"ready":true' in send(port, request("/health/ready", b"", "", "GET")):
                    break
            except OSError:
                continue
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def usage(pid: int) -> tuple[float, int]:
    """Resident memory in MiB and number of open files."""
    with open(f"/proc/{pid}/statm") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))
