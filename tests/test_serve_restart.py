"""The server as a process: killed and started again; and the files to deploy it with, as far as they can be read."""

from __future__ import annotations

import json
import re
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
import yaml
from click.testing import CliRunner

from unclip.cli import cli

pytest.importorskip("uvicorn", reason="needs unclip[serve]")
DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"


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


def test_the_files_to_deploy_with_say_what_the_command_line_knows() -> None:
    known = CliRunner().invoke(cli, ["serve", "--help"]).output
    for name in ("Dockerfile", "compose.yaml", "unclip.service"):
        for option in re.findall(
            r"(?<=[\s\"])--[a-z-]+",
            "\n".join(
                line for line in (DEPLOY / name).read_text().splitlines() if "unclip" in line and "serve" in line
            ),
        ):
            assert option in known, f"{name}: {option}"
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["unclip"]
    build = DEPLOY / service["build"]["context"]
    assert (build / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    docker = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", docker, re.MULTILINE):
        assert all((build / source).exists() for source in line.split()[:-1]), line
    assert docker.index("USER unclip") < docker.index('CMD ["unclip"')  # it does not run as root
    kept = {volume.partition(":")[2] for volume in service["volumes"]}
    assert kept == set(re.findall(r'--image-dir", "([^"]+)"', docker))
