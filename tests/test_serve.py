"""The server: requests of the official client, and plain HTTP for what it would never send."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
openai = pytest.importorskip("openai")
from serving import KEY, PROMPT, Running, parse_generation, picture  # noqa: E402

from unclip.cli import cli  # noqa: E402
from unclip.errors import Cancelled, RequestError  # noqa: E402
from unclip.pipeline import Pipeline  # noqa: E402
from unclip.pipeline.sizes import SizeGrid  # noqa: E402
from unclip.provenance.header import read_header  # noqa: E402
from unclip.provenance.metadata import settings_text  # noqa: E402
from unclip.provenance.watermark import detect  # noqa: E402
from unclip.serve.app import Policy  # noqa: E402
from unclip.serve.envelope import ApiError  # noqa: E402
from unclip.serve.requests import GenerationRequest  # noqa: E402
from unclip.serve.run import log_prompt  # noqa: E402
from unclip.serve.schema import GenerationBody, Rules, VariationBody, validate  # noqa: E402
from unclip.serve.store import Store  # noqa: E402
from unclip.serve.worker import Worker  # noqa: E402


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    server = Running(
        Worker(pipe),
        Store(tmp_path_factory.mktemp("images")),
        Policy(keys=("sk-other", "schlüssel", KEY), models=("dall-e-2", "tiny")),
    )
    yield server
    server.stop()


# --- the official client ---


def test_the_official_client_generates_by_url(running: Running) -> None:
    made = running.client().images.generate(model="dall-e-2", prompt=PROMPT, n=2, size="256x256")
    assert len(made.data) == 2 and abs(made.created - time.time()) < 60
    paths = [one.url.partition(str(running.port))[2] for one in made.data]
    assert all("/v1/files/images/img-" in path and ".png?" in path for path in paths)
    for path in paths:  # as a browser fetches it, without the key
        status, headers, data = running.ask("GET", path, headers={"Authorization": ""})
        assert status == 200 and headers["content-type"] == "image/png"
        assert picture(data).size == (256, 256) and detect(picture(data)).found
        assert read_header(io.BytesIO(data)).generated == (
            "xmp: trainedAlgorithmicMedia",
            "settings of unclip",
        )
        told = json.loads(settings_text(picture(data)) or "")
        assert (
            {"seed", "model", "stages"} <= set(told) and "prompt" not in told and PROMPT.encode() not in data
        )
    assert running.ask("HEAD", paths[0])[0] == 200


def test_a_seed_gives_the_same_picture_alone_and_beside_others(running: Running) -> None:
    client = running.client()

    def pixels(n: int) -> list[np.ndarray]:
        made = client.images.generate(
            prompt=PROMPT, n=n, size="256x256", response_format="b64_json", extra_body={"seed": 5}
        )
        assert [one.seed for one in made.data] == [5 + i for i in range(n)] and made.x_unclip["seconds"] > 0
        return [np.asarray(picture(base64.b64decode(one.b64_json))).astype(int) for one in made.data]

    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(pixels, (1, 2, 1, 3)))
    for one in several:
        assert np.abs(one[0] - several[0][0]).max() <= 1
    assert np.abs(several[3][1] - several[1][1]).max() <= 1 < np.abs(several[1][1] - several[1][0]).max()


@pytest.mark.parametrize("size", [512, 1024])
def test_sizes_are_as_asked_for(running: Running, size: int) -> None:
    made = running.client().images.generate(prompt="a cat", size=f"{size}x{size}", response_format="b64_json")
    assert picture(base64.b64decode(made.data[0].b64_json)).size == (size, size)


def test_models_are_listed(running: Running) -> None:
    client = running.client()
    assert [model.id for model in client.models.list()] == ["dall-e-2", "tiny"]
    assert client.models.retrieve("tiny").owned_by == "unclip"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_errors_reach_the_client_as_openais_own(running: Running) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        running.client().images.generate(prompt="a cat", n=11)
    assert refused.value.body["message"] == "11 is greater than the maximum of 10 - 'n'"
    assert refused.value.type == "invalid_request_error" and refused.value.request_id.startswith("req_")
    with pytest.raises(openai.AuthenticationError) as locked:
        running.client("sk-wrong").images.generate(prompt="a cat")
    assert locked.value.code == "invalid_api_key" and "sk-wrong" not in str(locked.value)


# --- plain HTTP ---


def test_the_bodies_of_real_applications_work(running: Running) -> None:
    open_webui = {
        "model": "dall-e-2",
        "prompt": "a cat",
        "n": 1,
        "size": "512x512",
        "response_format": "b64_json",
    }
    nextcloud = {"prompt": "a cat", "size": "1024x1024", "n": 1, "model": "tiny"}
    later = {
        "prompt": "a cat",
        "model": "gpt-image-1",
        "size": "256x256",
        "quality": "auto",
        "background": "auto",
        "user": "u",
    }
    for path, body in (("/v1", open_webui), ("", nextcloud), ("/v1", later)):
        status, _, answer = running.ask("POST", f"{path}/images/generations", body)
        assert status == 200, answer
        assert set(answer["data"][0]) == {"seed", "url" if body is nextcloud else "b64_json"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"prompt": 5}',
        b'{"prompt": "a\\u0000b"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "n": 1e99}',
        b'{"prompt": "x", "n": NaN}',
        b'{"prompt": "x", "seed": -1}',
        b'{"prompt": "x", "seed": 99999999999999999999999}',
        b'{"prompt": "x", "steps": Infinity}',
        b'{"prompt": "x", "model": {}}',
    ],
)
def test_hostile_bodies_get_an_envelope(running: Running, body: bytes) -> None:
    status, _, answer = running.ask("POST", "/v1/images/generations", body)
    assert status == 400 and set(answer["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer["error"]["message"]


def test_too_large_a_body_is_not_read_to_its_end(running: Running) -> None:
    status, _, answer = running.ask("POST", "/v1/images/generations", b" " * (2 << 20))
    assert status == 413 and answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "expected"), [("GET", "/v1/nothing", 404), ("GET", "/v1/images/generations", 405)]
)
def test_unknown_routes_have_the_envelope_too(
    running: Running, method: str, path: str, expected: int
) -> None:
    status, _, answer = running.ask(method, path)
    assert status == expected and answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/models", "/models/tiny", "/health", "/health/ready", "/metrics"])
def test_what_answers_get_answers_head_and_options(running: Running, path: str) -> None:
    status, headers, body = running.ask("HEAD", path)
    assert (status, body) == (200, b"")
    assert headers["content-type"] == running.ask("GET", path)[1]["content-type"]
    status, headers, body = running.ask("OPTIONS", path)
    assert (status, headers["allow"], body) == (204, "GET, HEAD, OPTIONS", b"")


def test_allow_names_the_methods_of_the_route(running: Running) -> None:
    for method, path, status, allowed in (
        ("OPTIONS", "/v1/images/edits", 204, "OPTIONS, POST"),
        ("GET", "/v1/images/edits", 405, "OPTIONS, POST"),
        ("DELETE", "/v1/models/tiny", 405, "GET, HEAD, OPTIONS"),
    ):
        found, headers, _ = running.ask(method, path)
        assert (found, headers["allow"]) == (status, allowed)
    assert running.ask("OPTIONS", "/v1/nothing")[0] == 404


def test_health_and_metrics_need_no_key(running: Running) -> None:
    nobody = {"Authorization": ""}
    assert running.ask("GET", "/health", headers=nobody)[2] == {"status": "ok"}
    assert running.ask("GET", "/health/ready", headers=nobody)[2] == {"ready": True}
    text = running.ask("GET", "/metrics", headers=nobody)[2].decode()
    assert "unclip_images_total " in text and 'unclip_requests_total{code="200"}' in text
    status, _, answer = running.ask("GET", "/v1/models", headers=nobody)
    assert status == 401 and "didn't provide an API key" in answer["error"]["message"]
    for key in (KEY, "schlüssel".encode().decode("latin-1")):  # which is how http.client sends UTF-8
        assert running.ask("GET", "/v1/models", headers={**nobody, "api-key": key})[0] == 200


def test_urls_name_the_proxy_that_the_client_sees(running: Running) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "art.example"}
    _, _, answer = running.ask(
        "POST", "/v1/images/generations", {"prompt": "a cat", "size": "256x256"}, headers
    )
    assert answer["data"][0]["url"].startswith("https://art.example/v1/files/images/img-")


# --- signed URLs ---


def test_urls_outlive_the_server_but_not_their_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = Store(tmp_path).add(b"picture")
    path, _, query = url.partition("?")
    name, (end, signature) = path.rpartition("/")[2], (part.partition("=")[2] for part in query.split("&"))
    again = Store(tmp_path)
    assert again.find(name, end, signature).read_bytes() == b"picture"
    for wrong in (
        (name, str(int(end) + 1), signature),
        (name, end, "0" * 64),
        (name, end, "é"),
        ("../.key", end, signature),
    ):
        with pytest.raises(ApiError, match="signature"):
            again.find(*wrong)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    with pytest.raises(ApiError, match="expired"):
        again.find(name, end, signature)
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    again.sweep()
    assert not (tmp_path / name).exists()


# --- the queue ---


class Painter:
    """A pipeline that paints when it is let, and tells what it was asked for."""

    name, sizes = "painter", (64, 256)
    grid = SizeGrid("painter", {64: 8, 256: 32}, (64, 256))

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.let, self.started = threading.Event(), threading.Event()

    def generate(self, prompts: list[str], *, seeds: list[int], size: int, on_step: Any, **how: Any) -> Any:
        self.calls.append(prompts)
        self.started.set()
        while not self.let.wait(0.01):
            on_step("decoder", 1, 2, None)
        on_step("decoder", 2, 2, None)
        if "fail" in prompts:
            raise ZeroDivisionError("a bug")
        return SimpleNamespace(
            images=[Image.new("RGB", (size, size), (s % 256,) * 3) for s in seeds],
            seeds=seeds,
            seconds={"decoder": 1.0},
        )


def wanted(prompt: str = "a", n: int = 1, **more: Any) -> GenerationRequest:
    return GenerationRequest(prompt, n, 256, "b64_json", **more)


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def worker(painter: Painter) -> Iterator[Worker]:
    pipeline: Any = painter
    worker = Worker(pipeline, capacity=6, batch=4)
    worker.start()
    yield worker
    painter.let.set()
    worker.stop()


def test_requests_of_a_kind_are_drawn_together_and_each_gets_its_own(
    worker: Worker, painter: Painter
) -> None:
    first = worker.submit(wanted("first"))
    painter.started.wait()
    others = wanted("c", preset="fast"), wanted("d", options=(("decoder", "steps", 3),))
    jobs = [worker.submit(request) for request in (wanted("a", 2, seed=7), wanted("b", seed=9), *others)]
    assert worker.waiting == 5
    painter.let.set()
    results = [job.result.result(10) for job in (first, *jobs)]
    assert painter.calls == [["first"], ["a", "a", "b"], ["c"], ["d"]]
    assert results[1].seeds == [7, 8] and [i.getpixel((0, 0))[0] for i in results[1].images] == [7, 8]
    assert results[2].seeds == [9] and results[2].images[0].getpixel((0, 0))[0] == 9


def test_prompts_are_logged_only_where_somebody_asks_for_them(
    worker: Worker, painter: Painter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # as a program may that logs everything
    worker.submit(wanted("a secret"))
    assert "a secret" not in caplog.text
    pipeline: Any = painter
    Worker(pipeline, on_prompt=log_prompt).submit(wanted("a hat\nERROR forged", 2))
    assert "2 pictures of 'a hat\\nERROR forged'" in caplog.text


def test_a_full_queue_says_when_to_come_again(worker: Worker, painter: Painter) -> None:
    worker.submit(wanted("first"))
    painter.started.wait()
    worker.submit(wanted(n=6))
    with pytest.raises(ApiError) as full:
        worker.submit(wanted())
    assert (
        full.value.status == 429
        and full.value.code == "rate_limit_exceeded"
        and full.value.kind == "requests"
    )
    assert 1 <= int(full.value.headers["Retry-After"]) <= 60


def test_who_leaves_frees_the_place_and_stops_the_work(worker: Worker, painter: Painter) -> None:
    first = worker.submit(wanted("first"))
    painter.started.wait()
    second = worker.submit(wanted("second"))
    worker.cancel(second)
    worker.cancel(first)
    assert second.result.cancelled()
    with pytest.raises(Cancelled):
        first.result.result(10)
    painter.let.set()
    assert worker.submit(wanted("third")).result.result(10).images
    assert painter.calls == [["first"], ["third"]] and worker.cancelled == 2


def test_a_failure_hurts_only_its_batch(worker: Worker, painter: Painter) -> None:
    painter.let.set()
    with pytest.raises(ZeroDivisionError):
        worker.submit(wanted("fail")).result.result(10)
    assert worker.submit(wanted("fine")).result.result(10).images


def test_stopping_draws_what_waits_and_takes_nothing_new(worker: Worker, painter: Painter) -> None:
    jobs = [worker.submit(wanted()), worker.submit(wanted(n=3))]
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    while worker.alive:
        time.sleep(0.01)
    with pytest.raises(ApiError, match="shutting down"):
        worker.submit(wanted())
    painter.let.set()
    stopping.join(10)
    assert [len(job.result.result(0).images) for job in jobs] == [1, 3]


def test_a_client_that_goes_away_is_noticed_and_health_never_waits(painter: Painter, tmp_path: Path) -> None:
    pipeline: Any = painter
    worker = Worker(pipeline, capacity=2)
    server = Running(worker, Store(tmp_path), Policy())
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request(
            "POST",
            "/v1/images/generations",
            json.dumps({"prompt": "a cat"}),
            {"Content-Type": "application/json"},
        )
        assert painter.started.wait(10)
        assert server.ask("GET", "/health")[0] == 200
        connection.close()
        for _ in range(500):
            if worker.cancelled:
                break
            time.sleep(0.01)
        assert worker.cancelled == 1
        painter.let.set()
        made = server.client(retries=2).images.generate(
            prompt="a dog", response_format="b64_json", size="512x512"
        )
        assert picture(base64.b64decode(made.data[0].b64_json)).size == (512, 512)
        status, headers, answer = server.ask("POST", "/v1/images/generations", {"prompt": "fail"})
        assert (
            status == 500 and headers["x-should-retry"] == "false" and "bug" not in answer["error"]["message"]
        )
    finally:
        painter.let.set()
        server.stop()


def test_the_official_client_comes_again_when_it_is_told_to(painter: Painter, tmp_path: Path) -> None:
    pipeline: Any = painter
    worker = Worker(pipeline, capacity=1)
    server = Running(worker, Store(tmp_path), Policy())
    try:
        worker.submit(wanted("drawn"))
        assert painter.started.wait(10)
        worker.submit(
            wanted("waits"), client="127.0.0.1"
        )  # the official client's own, or it would be a newcomer
        with ThreadPoolExecutor(1) as pool:
            ask = server.client(retries=5).images.generate
            late = pool.submit(ask, prompt="late", size="256x256", response_format="b64_json")
            while b'unclip_requests_total{code="429"} 1' not in server.ask("GET", "/metrics")[2]:
                time.sleep(0.01)
            painter.let.set()
            assert len(late.result(30).data) == 1
        assert painter.calls == [["drawn"], ["waits"], ["late"]]
    finally:
        painter.let.set()
        server.stop()


def test_a_request_beyond_the_drain_timeout_gets_a_503_and_the_log_no_traceback(
    painter: Painter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline: Any = painter  # which never finishes this picture
    worker = Worker(pipeline)
    server = Running(worker, Store(tmp_path), Policy(), timeout_graceful_shutdown=1)
    uvicorn_log = logging.getLogger("uvicorn.error")  # whose records do not reach the root logger
    uvicorn_log.addHandler(caplog.handler)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(
            server.ask, "POST", "/v1/images/generations", {"prompt": "late", "size": "256x256"}
        )
        assert painter.started.wait(10)
        server.stop()
        status, _, answer = late.result(10)
    uvicorn_log.removeHandler(caplog.handler)
    assert "timeout graceful shutdown exceeded" in caplog.text
    assert status == 503 and answer["error"]["message"] == "The server is shutting down."
    assert worker.cancelled == 1
    assert not [record for record in caplog.records if record.exc_info]


# --- what may be asked for ---


def test_requests_have_dall_e_2s_defaults() -> None:
    for strict in (False, True):
        assert parse_generation({"prompt": "a"}, strict=strict) == GenerationRequest("a", 1, 1024, "url")
        assert (
            parse_generation(
                {"prompt": "a", "n": None, "size": None, "response_format": None}, strict=strict
            ).n
            == 1
        )
        assert len(parse_generation({"prompt": "🐶" * 1000}, strict=strict).prompt) == 1000


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "'prompt' is a required property"),
        ({"prompt": ""}, "too short"),
        ({"prompt": "x" * 1001}, "is too long - 'prompt'"),
        ({"prompt": "x", "n": 0}, "0 is less than the minimum of 1 - 'n'"),
        ({"prompt": "x", "n": True}, "not of type 'integer'"),
        ({"prompt": "x", "size": "0x0"}, "is not one of"),
        ({"prompt": "x", "size": 256}, "is not one of"),
        ({"prompt": "x", "response_format": "webp"}, "is not one of"),
        ({"prompt": "x", "preset": "slow"}, r"'slow' is not one of \['fast', 'balanced'"),
        ({"prompt": "x", "steps": 251}, "251 is greater than the maximum of 250 - 'steps'"),
        ({"prompt": "x", "guidance_scale": "high"}, "not of type 'number'"),
    ],
)
def test_what_cannot_be_is_refused(body: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        parse_generation(body, strict=False)
    assert caught.value.status == 400 and caught.value.body["error"]["type"] == "invalid_request_error"


def test_strict_serves_the_models_of_its_list() -> None:
    body = {"prompt": "x", "n": 11}  # refused for n once the model is taken
    for name in ("dall-e-2", "tiny"):
        with pytest.raises(ApiError, match="'n'"):
            validate(GenerationBody, {**body, "model": name}, Rules(strict=True, models=("dall-e-2", "tiny")))
    with pytest.raises(ApiError, match=r"'dall-e-3' is not one of \['dall-e-2'\] - 'model'"):
        parse_generation({"prompt": "x", "model": "dall-e-3"}, strict=True)
    assert parse_generation({"prompt": "x", "model": "dall-e-3"}, strict=False).n == 1
    form = validate(VariationBody, {"image": b"", "n": "2"}, Rules(strict=True, form=True))
    assert form.n == 2  # in a form, every field is text


def test_lenient_makes_the_best_of_it_and_strict_does_not() -> None:
    for extra in (
        {"size": "auto"},
        {"size": "1792x1024"},
        {"quality": "hd"},
        {"seed": 5},
        {"n": "2"},
        {"model": "dall-e-3"},
    ):
        parse_generation({"prompt": "x", **extra}, strict=False)
        with pytest.raises(ApiError):
            parse_generation({"prompt": "x", **extra}, strict=True)
    assert parse_generation({"prompt": "x", "n": "2", "size": "1536x1024"}, strict=False).size == "1536x1024"
    options = parse_generation({"prompt": "x", "steps": 9, "prior_guidance_scale": 2.5}, strict=False).options
    assert options == (("decoder", "steps", 9), ("prior", "guidance", 2.5))


def test_nobody_listens_to_the_world_by_mistake() -> None:
    said = CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0"])
    assert isinstance(said.exception, RequestError) and "give an --api-key, or --insecure" in str(
        said.exception
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--keep-prompts", "--no-metadata"], "prompts are kept in the metadata"),
        (
            ["--credentials", ".", "--no-metadata"],
            "--credentials and --no-metadata: one says that a model made",
        ),
        (
            ["--credentials", ".", "--no-watermark"],
            "--credentials and --no-watermark: one says that a model made",
        ),
    ],
)
def test_marks_that_contradict_each_other_are_refused(given: list[str], says: str) -> None:
    assert says in str(CliRunner().invoke(cli, ["serve", *given]).exception)
