"""Attacks on the server: other sites' pages, greedy clients, idle connections, full disks, bad keys."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
from serving import KEY, Running

from unclip.cli import cli
from unclip.cli.serve_setup import api_keys
from unclip.errors import RequestError
from unclip.pipeline.sizes import SizeGrid
from unclip.serve import connections, store
from unclip.serve.access import KeylessGuard
from unclip.serve.app import Policy
from unclip.serve.connections import BoundedProtocol
from unclip.serve.envelope import ApiError
from unclip.serve.limits import cost
from unclip.serve.requests import EmbeddingRequest, GenerationRequest
from unclip.serve.store import Store
from unclip.serve.worker import Worker

JSON = {"Content-Type": "application/json"}


class Model:
    """A model that draws at once, or when it is let."""

    name, sizes = "model", (64, 256, 1024)
    grid = SizeGrid("model", {64: 8, 256: 32, 1024: 128}, (64, 256, 1024))

    def __init__(self, let: threading.Event | None = None) -> None:
        self.let, self.batches = let, list[list[str]]()
        self.started = threading.Event()

    def generate(self, prompts: list[str], *, seeds: list[int], size: int, **how: Any) -> Any:
        self.batches.append(prompts)
        self.started.set()
        if self.let:
            self.let.wait(30)
        images = [Image.new("RGB", (size, size), (seed % 256,) * 3) for seed in seeds]
        return SimpleNamespace(images=images, seeds=seeds, seconds={"decoder": 0.5})


def worker_of(model: Any, **how: Any) -> Worker:
    return Worker(model, **how)


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = Running(
        worker_of(Model()), Store(tmp_path_factory.mktemp("images")), Policy(origins=("https://app.example",))
    )
    yield server
    server.stop()


# --- keys ---


def test_a_key_is_one_key_and_an_empty_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCLIP_API_KEY", "my secret key")
    assert api_keys((), None) == ("my secret key",)
    file = tmp_path / "keys"
    for text in ("", "\n \n"):
        file.write_text(text)
        for arguments in (["--api-key-file", str(file)], ["--host", "0.0.0.0", "--api-key-file", str(file)]):
            refused = CliRunner().invoke(cli, ["serve", *arguments])
            assert isinstance(refused.exception, RequestError) and "holds no key" in str(refused.exception)
    file.write_text("one two\n\nthree\n")
    assert api_keys(("given",), file) == ("given", "one two", "three")
    monkeypatch.setenv("UNCLIP_API_KEY", " ")
    for given in ((), ("",)):
        with pytest.raises(RequestError, match="is empty"):
            api_keys(given, None)


@pytest.mark.parametrize(
    "url", ["ftp://example.org", "example.org", "javascript:alert(1)//", "https://", "http://a?b"]
)
def test_public_urls_are_http(url: str) -> None:
    assert "--public-url" in str(CliRunner().invoke(cli, ["serve", "--public-url", url]).exception)


# --- other sites' pages in the user's browser ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("app.localhost", 200),
        ("127.8.9.1", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("0.0.0.0", 403),
    ],
)
def test_a_keyless_server_answers_to_names_of_this_machine_only(
    keyless: Running, host: str, status: int
) -> None:
    for path in ("/v1/models", "/health"):
        assert keyless.ask("GET", path, headers={"Host": host})[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:1"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),  # browsers that do not send Sec-Fetch-Site
        ({"Origin": "null"}, 403),  # sandboxed frames, files
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}, 200),  # --cors-origin
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_other_sites_cannot_draw_on_a_keyless_server(
    keyless: Running, headers: dict[str, str], status: int
) -> None:
    body = {"prompt": "a cat", "size": "256x256", "response_format": "b64_json"}
    found, _, answer = keyless.ask("POST", "/v1/images/generations", body, {**JSON, **headers})
    assert found == status and (status == 200 or set(answer["error"]) == {"message", "type", "param", "code"})


@pytest.mark.parametrize("path", ["/v1/images/embeddings", "/v1/responses", "/responses"])
def test_bodies_that_browsers_send_without_asking_are_refused_everywhere(keyless: Running, path: str) -> None:
    assert keyless.ask("POST", path, {"prompt": "a"}, {"Content-Type": "text/plain"})[0] == 415
    assert keyless.ask("POST", path, {"prompt": 5}, JSON)[0] == 400


def test_only_the_allowed_site_reads_answers(keyless: Running) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    status, headers, _ = keyless.ask(
        "OPTIONS", "/v1/images/generations", headers={"Origin": "https://app.example", **ask}
    )
    assert status == 200 and headers["access-control-allow-origin"] == "https://app.example"
    status, headers, _ = keyless.ask(
        "OPTIONS", "/v1/images/generations", headers={"Origin": "https://evil.example", **ask}
    )
    assert status == 400 and "access-control-allow-origin" not in headers


def test_links_to_the_server_and_its_images_on_other_sites_work(keyless: Running) -> None:
    body = {"prompt": "a cat", "size": "256x256"}
    url = keyless.ask("POST", "/v1/images/generations", body)[2]["data"][0]["url"]
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert keyless.ask("GET", url.partition(str(keyless.port))[2], headers=embedded)[0] == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert keyless.ask("GET", "/health", headers=link)[0] == 200
    assert keyless.ask("GET", "/v1/models", headers=embedded)[0] == 403


def test_a_server_behind_a_name_of_its_own_answers_to_it() -> None:
    guard = KeylessGuard(lambda *_: None, hosts=("pictures.example",))  # type: ignore[arg-type]
    for host, passes in (("pictures.example", True), ("localhost:80", True), ("other.example", False)):
        if passes:
            guard._check("GET", "/", {"host": host})  # type: ignore[arg-type]
        else:
            with pytest.raises(ApiError, match="answers to this machine only"):
                guard._check("GET", "/", {"host": host})  # type: ignore[arg-type]


# --- greedy clients ---


def test_a_request_may_not_cost_more_than_the_limit(keyless: Running) -> None:
    wanted = GenerationRequest(
        "a", 10, 1024, "url", options=(("decoder", "steps", 250), ("prior", "steps", 250))
    )
    assert cost(wanted) == 10 * 4 * 500
    assert cost(GenerationRequest("a", 2, 256, "url", preset="paper")) == 2 * 314
    embedding = EmbeddingRequest("a", 10, 1024, "url", options=(("prior", "steps", 250),), image=None)
    assert cost(embedding) == 10 * 250
    body = {"prompt": "a cat", "n": 10, "steps": 250, "prior_steps": 250}
    for more in ({}, {"response_format": "b64_json"}):
        status, _, answer = keyless.ask("POST", "/v1/images/generations", {**body, **more})
        assert status == 400 and answer["error"]["code"] == "request_too_large"
    streamed = {**body, "n": 1, "stream": True, "steps": 250}
    assert keyless.ask("POST", "/v1/images/generations", streamed)[0] == 200  # 2,000 for one


def small(prompt: str, n: int = 1) -> GenerationRequest:
    return GenerationRequest(prompt, n, 256, "b64_json")


def test_a_greedy_client_delays_others_by_one_batch() -> None:
    let = threading.Event()
    model = Model(let)
    worker = worker_of(model, capacity=100, batch=4)
    greedy = [worker.submit(small("greedy", 10), client="greedy") for _ in range(7)]
    worker.start()
    assert model.started.wait(10)
    polite = [worker.submit(small(f"polite {i}"), client=f"polite {i}") for i in range(3)]
    let.set()
    for one in (*polite, *greedy):
        one.result.result(30)
    worker.stop()
    assert model.batches[0] == ["greedy"] * 4  # which had begun
    assert set(model.batches[1]) >= {"polite 0", "polite 1", "polite 2"}
    seeds = [seed for one in greedy for seed in one.result.result().seeds]
    levels = [image.getpixel((0, 0))[0] for one in greedy for image in one.result.result().images]
    assert levels == [seed % 256 for seed in seeds]  # drawn in parts, and yet in order
    assert len(seeds) == 70


def test_a_full_queue_still_takes_a_newcomers_request() -> None:
    worker = worker_of(Model(), capacity=6)
    worker.submit(small("a", 6), client="greedy")
    with pytest.raises(ApiError, match="queue is full"):
        worker.submit(small("b"), client="greedy")
    worker.submit(small("c"), client="polite")
    with pytest.raises(ApiError, match="queue is full"):
        worker.submit(small("d"), client="polite")
    for number in range(5):
        worker.submit(small("e"), client=f"other {number}")
    with pytest.raises(ApiError, match="queue is full"):  # twice as long as it should be
        worker.submit(small("f"), client="one more")


# --- connections ---


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(connections, "HEADER_DEADLINE", 0.5)
    monkeypatch.setattr(BoundedProtocol, "max_connections", 20)
    server = Running(worker_of(Model()), Store(tmp_path), Policy(), http=BoundedProtocol)
    yield server
    server.stop()


def connect(server: Running, data: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    made.sendall(data)
    return made


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def test_connections_without_a_request_are_closed(impatient: Running) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    idle, begun, again = connect(impatient), connect(impatient, whole[:20]), connect(impatient, whole)
    assert b"200 OK" in again.recv(4096)
    again.sendall(whole[:20])
    slow = connect(impatient)

    def drip() -> None:
        for byte in whole:
            time.sleep(0.1)
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert all(map(is_closed, (idle, begun, again, slow)))
    dripping.join()
    patient = connect(impatient, whole)
    assert b"200 OK" in patient.recv(4096)


def test_more_connections_than_descriptors_are_turned_away(impatient: Running) -> None:
    held = [connect(impatient) for _ in range(60)]
    with ThreadPoolExecutor(60) as pool:
        assert all(pool.map(is_closed, held))
    assert impatient.ask("GET", "/health")[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(
    keyless: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unclip.serve import bodies

    monkeypatch.setattr(bodies, "BODY_DEADLINE", 0.5)
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert b" 408 " in connect(keyless, head + b"Content-Length: 100\r\n\r\n{").recv(4096)


# --- images on disk ---


def test_the_folder_is_its_owners_and_its_leftovers_go(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    Store(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ".key").stat().st_mode) == 0o600
    key = (folder / ".key").read_bytes()
    names = ("img-0.png", ".tmp-1-img.png", ".key-2", "other.png")
    for name in names:
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (1, 1))
    again = Store(folder)
    assert [name for name in names if (folder / name).exists()] == ["other.png"]
    assert (folder / ".key").read_bytes() == key and len(key) == 32
    again.sweep()


def test_servers_that_start_together_sign_with_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: Store(tmp_path)._key, range(64)))
    assert len(set(keys)) == 1 and [path.name for path in tmp_path.iterdir()] == [".key"]


def test_adding_an_image_looks_at_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Store(tmp_path)
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("lists the folder"))
    images.add(b"x")


def test_expired_images_go_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SWEEP", 0.01)
    images = Store(tmp_path)
    images.add(b"old")
    [path] = tmp_path.glob("img-*")
    os.utime(path, (1, 1))
    images.start()
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    images.stop()
    assert not path.exists()


def test_a_full_folder_refuses_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    images = Store(tmp_path, quota=1000)
    server = Running(worker_of(model), images, Policy(keys=(KEY,)))
    try:
        assert server.ask("GET", "/health/ready")[0] == 200
        images.add(bytes(1000))
        status, _, answer = server.ask(
            "POST", "/v1/images/generations", {"prompt": "a cat", "size": "256x256"}
        )
        assert status == 507 and "no room" in answer["error"]["message"] and not model.batches
        assert server.ask("GET", "/health/ready")[0] == 503
        b64 = {"prompt": "a cat", "size": "256x256", "response_format": "b64_json"}
        assert server.ask("POST", "/v1/images/generations", b64)[0] == 200  # needs no room
        images.quota = None
        monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        assert server.ask("POST", "/v1/images/generations", {"prompt": "a cat"})[0] == 507
    finally:
        server.stop()


def test_a_disk_that_fills_meanwhile_is_a_507(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Store(tmp_path)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ApiError) as refused:
        images.add(b"x")
    assert refused.value.status == 507 and not list(tmp_path.glob("*img*"))


# --- what is written down ---


def test_the_log_holds_no_prompt_key_or_signature(keyless: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    body = {"prompt": "a secret", "size": "256x256"}
    url = keyless.ask("POST", "/v1/images/generations", body)[2]["data"][0]["url"]
    keyless.ask("GET", url.partition(str(keyless.port))[2])
    deadline = time.monotonic() + 10
    while "/v1/files/images" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (
        "POST /v1/images/generations 200" in caplog.text and "GET /v1/files/images/{name} 200" in caplog.text
    )
    for private in ("a secret", KEY, url.partition("sig=")[2], url.rpartition("/")[2].partition("?")[0]):
        assert private not in caplog.text
