"""The server as a process: killed and started again, and told to end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs unclip[serve]")


@contextmanager
def process(model: Path, images: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "unclip", "serve", "--model", str(model), "--image-dir", str(images)]
    started = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            time.sleep(0.1)
            assert started.poll() is None, "the server ended by itself"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready")
                break
            except OSError:
                continue
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.mark.slow
def test_a_url_outlives_the_server_that_made_it(tiny_model: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with process(tiny_model, tmp_path, port) as server:
        body = json.dumps({"prompt": "a cat", "size": "256x256"}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/images/generations", body)
        url = json.load(urllib.request.urlopen(asked))["data"][0]["url"]
        before = urllib.request.urlopen(url).read()
        server.send_signal(signal.SIGKILL)
        server.wait()
    with process(tiny_model, tmp_path, port):
        assert urllib.request.urlopen(url).read() == before
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url[:-1] + ("0" if url[-1] != "0" else "1"))
