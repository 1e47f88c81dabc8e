"""A Hub on loopback that serves one repository, and may be slow, strict or gone."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

MODEL, COMMITS = "someone/tiny", {"main": "a" * 40, "v2": "b" * 40}


class Hub(ThreadingHTTPServer):
    """Serves one repository. Its revision v2 has another name in its index."""

    def __init__(self, model: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}
        self.files["prior/training.bin"] = self.files["prior/optimizer.ckpt"] = b"a pickle, for all one knows"
        self.seen: list[tuple[str, str | None]] = []
        self.token: str | None = None  # that it asks for
        self.gated = False
        self.cuts = 0  # how often the line breaks in the middle of the decoder's weights
        self.starts: list[int] = []  # where the files' bodies were asked for from

    def content(self, commit: str) -> dict[str, bytes]:
        index = {**json.loads(self.files.get("model_index.json", "{}")), "name": "second"}
        return (
            {**self.files, "model_index.json": json.dumps(index).encode()} if commit[0] == "b" else self.files
        )


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        hub.seen.append((f"{self.command} {path}", self.headers["Authorization"]))
        if hub.token and self.headers["Authorization"] != f"Bearer {hub.token}":
            return self.answer(401, X_Error_Code="RepoNotFound")
        if hub.gated:
            return self.answer(403, X_Error_Code="GatedRepo")
        if not (found := re.fullmatch(rf"(?:/api/models)?/{MODEL}/(\w+)/(\w+)(?:/(.+))?", path)):
            return self.answer(404, X_Error_Code="RepoNotFound")
        verb, revision, name = found.groups()
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            return self.answer(404, X_Error_Code="RevisionNotFound")
        files = hub.content(commit)
        if verb == "revision":
            return self.answer(200, json.dumps({"id": MODEL, "sha": commit, "siblings": []}).encode())
        if verb == "tree":
            rows = [{"type": "file", "path": n, "size": len(d), "oid": etag(d)} for n, d in files.items()]
            return self.answer(200, json.dumps(rows).encode())
        data, start = files[name], int((self.headers["Range"] or "bytes=0-")[6:].partition("-")[0])
        if self.command == "GET":
            hub.starts.append(start)
        if name == "decoder/model.safetensors" and self.command == "GET" and hub.cuts:
            hub.cuts -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        more = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return self.answer(
            206 if start else 200, data[start:], X_Repo_Commit=commit, ETag=f'"{etag(data)}"', **more
        )

    do_HEAD = do_GET


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serve(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of the model's folder, for the Hub's client with an empty cache."""
    server = Hub(model)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between one try and the next
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
