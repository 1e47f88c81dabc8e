"""Several models on one server: chosen by name, unloaded when idle, loaded again for the next request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
pytest.importorskip("openai")
from serving import Running

from unclip.cli import cli
from unclip.cli.serve_setup import load_models, model_names
from unclip.errors import CheckpointError, RequestError
from unclip.pipeline import Pipeline
from unclip.pipeline.sizes import SizeGrid
from unclip.serve.app import Policy
from unclip.serve.models import ServedModel
from unclip.serve.queueing import QueuedRequest
from unclip.serve.requests import GenerationRequest
from unclip.serve.store import Store
from unclip.serve.worker import Worker

GREY = {"first": 10, "second": 200}


class Painter:
    """A model whose pictures have one grey level each, so that they tell who drew."""

    sizes, vocabulary = (64, 256), frozenset({"a", "cat"})
    grid = SizeGrid("painter", {64: 8, 256: 32}, (64, 256))
    clip = SimpleNamespace(identity="a clip", width=4)

    def __init__(self, name: str) -> None:
        self.name = name

    def generate(self, prompts: list[str], *, seeds: list[int], size: int, **how: Any) -> Any:
        images = [Image.new("RGB", (size, size), (GREY[self.name],) * 3) for _ in seeds]
        return SimpleNamespace(images=images, seeds=seeds, seconds={"decoder": 0.1})


class Shelf:
    """Loads painters, and counts how often."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gone, self.slowly = False, threading.Event()
        self.slowly.set()

    def model(self, name: str) -> ServedModel:
        def load(device: int) -> Pipeline:
            self.loads.append(name)
            self.slowly.wait(10)
            if self.gone:
                raise CheckpointError(f"/srv/{name}: no model there")
            made: Any = Painter(name)
            return made

        return ServedModel([load(0)], name, load)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def server_of(shelf: Shelf, folder: Path, **how: Any) -> Running:
    worker = Worker(shelf.model("first"), shelf.model("second"), **how)
    return Running(worker, Store(folder), Policy(models=("dall-e-2", "first", "second")))


@pytest.fixture
def running(shelf: Shelf, tmp_path: Path) -> Iterator[Running]:
    server = server_of(shelf, tmp_path, unload_after=0.3)
    yield server
    server.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def draw(server: Running, **body: Any) -> tuple[int, Any]:
    whole = {"prompt": "a cat", "size": "256x256", "response_format": "b64_json", **body}
    status, _, answer = server.ask("POST", "/v1/images/generations", whole)
    return status, answer


def test_requests_choose_by_name_and_the_first_is_the_default(shelf: Shelf, tmp_path: Path) -> None:
    server = server_of(shelf, tmp_path)
    try:
        assert [one["id"] for one in server.ask("GET", "/v1/models")[2]["data"]] == [
            "dall-e-2",
            "first",
            "second",
        ]
        for asked, name in (
            ("first", "first"),
            ("second", "second"),
            (None, "first"),
            ("dall-e-2", "first"),
            ("no-such", "first"),
        ):
            status, answer = draw(server, model=asked)
            assert (status, answer["x_unclip"]["model"]) == (200, name)
        text = server.ask("GET", "/metrics")[2].decode()
        assert 'unclip_model_loaded{model="second"} 1.0' in text
    finally:
        server.stop()


def test_requests_for_two_models_are_never_one_batch(shelf: Shelf) -> None:
    worker = Worker(shelf.model("first"), shelf.model("second"))
    names = ("first", "second", "first", "")
    jobs = [worker.submit(GenerationRequest("a", 1, 256, "b64_json", model=name)) for name in names]
    worker.start()
    levels = [job.result.result(10).images[0].getpixel((0, 0)) for job in jobs]
    worker.stop()
    assert levels == [(GREY[name or "first"],) * 3 for name in names]
    assert worker.batches == 2


def test_prompts_with_other_negatives_are_not_one_batch(shelf: Shelf) -> None:
    model = shelf.model("first")

    def kind(negative: str) -> object:
        return QueuedRequest(GenerationRequest("a", 1, 256, "url", negative=negative), model, 256).kind

    assert kind("blurry") == kind("blurry") != kind("")


# --- unloading ---


def test_an_idle_model_is_unloaded_and_loaded_again(running: Running, shelf: Shelf) -> None:
    wait_for(lambda: "unloaded" in running.ask("GET", "/health")[2])
    wait_for(lambda: running.ask("GET", "/health")[2].get("unloaded") == ["first", "second"])
    assert running.ask("GET", "/health/ready")[0] == 200  # requests are taken
    assert 'unclip_model_loaded{model="first"} 0.0' in running.ask("GET", "/metrics")[2].decode()
    assert running.worker.sizes == (64, 256)
    facts = running.worker.default.facts
    assert (facts.clip, facts.width, facts.unknown_words("a cat, a dog")) == ("a clip", 4, ["dog"])
    assert draw(running, model="second")[0] == 200
    assert shelf.loads == ["first", "second", "second"]


def test_requests_that_come_while_it_loads_wait_for_it(running: Running, shelf: Shelf) -> None:
    wait_for(lambda: not running.worker.default.loaded)
    running.worker.unload_after = 1000
    shelf.slowly.clear()
    jobs = [running.worker.submit(GenerationRequest("a", 1, 256, "b64_json")) for _ in range(3)]
    wait_for(lambda: len(shelf.loads) == 3)
    jobs += [running.worker.submit(GenerationRequest("b", 1, 256, "b64_json")) for _ in range(3)]
    shelf.slowly.set()
    assert all(job.result.result(10).images for job in jobs) and len(shelf.loads) == 3


def test_a_model_whose_files_are_gone_is_a_500_without_its_path(running: Running, shelf: Shelf) -> None:
    wait_for(lambda: not running.worker.default.loaded)
    shelf.gone = True
    status, answer = draw(running)
    assert status == 500 and "/srv" not in str(answer)
    streamed = {"prompt": "a cat", "stream": True}
    assert b"/srv" not in running.ask("POST", "/v1/images/generations", streamed)[2]
    shelf.gone = False
    assert draw(running)[0] == 200


def test_a_model_is_idle_from_the_end_of_its_last_batch(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    model = shelf.model("first")
    with model.use(0):
        now[0] = 500.0  # a long batch
    assert model.drop_idle(0, 60) == 60 and model.loaded
    now[0] = 559.0
    assert model.drop_idle(0, 60) == 1 and model.loaded
    now[0] = 560.0
    assert model.drop_idle(0, 60) is None and not model.loaded
    assert model.drop_idle(0, 60) is None
    painter: Any = Painter("first")
    kept = ServedModel([painter])  # which nobody could load again
    now[0] = 9999.0
    assert kept.drop_idle(0, 60) is None and kept.loaded


def test_a_real_model_draws_the_same_after_it_was_unloaded(tiny_model: Path) -> None:
    [model] = load_models({"tiny": str(tiny_model)}, ["cpu"], reload=True)
    worker = Worker(model, unload_after=0.05)
    worker.start()

    def pixels() -> np.ndarray:
        job = worker.submit(GenerationRequest("a cat", 1, 256, "b64_json", seed=5))
        return np.asarray(job.result.result(60).images[0])

    before = pixels()
    wait_for(lambda: not model.loaded)
    assert (pixels() == before).all()
    worker.stop()


# --- names on the command line ---


def test_models_are_named_by_their_references_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    given = ["mini", "./runs/mine", "owner/karlo@main", "x=runs/mine", "a=b/"]
    with pytest.raises(RequestError, match="name it by letters and digits, as in --model mine=a=b/"):
        model_names(given)
    assert model_names(given[:-1]) == {
        "mini": "mini",
        "mine": "./runs/mine",
        "karlo": "owner/karlo@main",
        "x": "runs/mine",
    }
    for wrong, says in (
        (["mini", "owner/mini"], "--model owner/mini: mini is mini; name one, as in other=owner/mini"),
        (["a b=mini"], "name it by letters and digits"),
        (["x="], "name it by letters and digits"),
    ):
        refused = CliRunner().invoke(cli, ["serve", *(part for one in wrong for part in ("--model", one))])
        assert isinstance(refused.exception, RequestError) and says in str(refused.exception)
