"""The server as a process: killed, restarted and terminated."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs unclip[serve]")


@contextmanager
def process(model: Path | str, images: Path, port: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "unclip",
        "serve",
        "--model",
        str(model),
        "--image-dir",
        str(images),
        *more,
    ]
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


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


def ask(port: int, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"prompt": "a cat", "size": "256x256", **fields}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/generations", body, {"Content-Type": "application/json"}
    )
    answer: dict[str, Any] = json.load(urllib.request.urlopen(asked))
    return answer


@pytest.mark.slow
def test_a_url_outlives_the_server_that_made_it(tiny_model: Path, tmp_path: Path, port: int) -> None:
    with process(tiny_model, tmp_path, port) as server:
        url = ask(port)["data"][0]["url"]
        before = urllib.request.urlopen(url).read()
        server.send_signal(signal.SIGKILL)
        server.wait()
    with process(tiny_model, tmp_path, port):
        assert urllib.request.urlopen(url).read() == before
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url[:-1] + ("0" if url[-1] != "0" else "1"))


@pytest.mark.slow
def test_told_to_end_it_finishes_what_is_under_way_and_takes_nothing_new(
    tiny_model: Path, tmp_path: Path, port: int
) -> None:
    patient = "--drain-timeout", "600"  # as slow as a busy machine may be
    with process(tiny_model, tmp_path, port, *patient) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(ask, port, n=4, steps=250, prior_steps=250)
        time.sleep(1)
        assert not answer.done()
        server.send_signal(signal.SIGTERM)
        assert len(answer.result(600)["data"]) == 4
        assert server.wait(60) in (0, -signal.SIGTERM)
        with pytest.raises(urllib.error.URLError):
            ask(port)


@pytest.mark.slow
def test_who_waits_longer_than_the_server_is_told_that_it_ends(
    tiny_model: Path, tmp_path: Path, port: int
) -> None:
    with (
        process(tiny_model, tmp_path, port, "--drain-timeout", "1") as server,
        ThreadPoolExecutor(1) as client,
    ):
        answer = client.submit(ask, port, n=10, steps=250, prior_steps=250)
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        with pytest.raises(urllib.error.HTTPError) as refused:
            answer.result(600)
        assert refused.value.code == 503
        assert json.load(refused.value)["error"]["message"] == "The server is shutting down."
        assert server.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_the_cookbooks_program_runs_unchanged_with_mini(tmp_path: Path, port: int) -> None:
    pytest.importorskip("openai")
    program = Path(__file__).parents[2] / "tools/benchmarks/clients/cookbook.py"
    surroundings = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "OPENAI_API_KEY": "none",
        "SIZE": "256x256",
    }
    with process("mini", tmp_path / "images", port):
        ran = subprocess.run(
            [sys.executable, program],
            env={**os.environ, **surroundings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "2 models, 1 picture, 2 variations, 1 edit\n"
