"""Jobs of many prompts: split over processes, resumed after a kill, with the same images."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.cli.jobs import RECORD, Share
from unclip.errors import RequestError
from unclip.pipeline import Pipeline

COUNT, BATCH = 7, 3


@pytest.fixture(autouse=True)
def _prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["unclip.cli.jobs"], "BATCH", BATCH)
    write_prompts(COUNT)


def write_prompts(count: int) -> None:
    Path("prompts.txt").write_text(
        "".join(f"a cat with {i % 6} hats\n" for i in range(count))
    )  # some of them twice


@pytest.fixture
def generate(tiny_model: Path) -> Any:
    """Runs the job and returns the files it names."""

    def run(*arguments: str, out: str = "out") -> list[str]:
        more = ["--prompts-file", "prompts.txt", "--model", str(tiny_model), "--size", "64", "-q", *arguments]
        if out:
            more += ["-o", f"{out}/"]
        return CliRunner().invoke(cli, ["generate", *more], catch_exceptions=False).stdout.split()

    return run


def pictures(folder: str) -> dict[str, np.ndarray]:
    return {
        path.name: np.asarray(Image.open(path)).astype(int) for path in sorted(Path(folder).glob("*.png"))
    }


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    """This one process, as one of several that agree with each other."""

    def init(self: Share) -> None:
        self.rank, self.processes, self.device = rank, processes, None

    monkeypatch.setattr(Share, "__init__", init)
    monkeypatch.setattr(Share, "broadcast", lambda self, seed, resumed: (seed, resumed))
    monkeypatch.setattr(Share, "first_process_first", lambda self: nullcontext())


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_every_picture_is_one_processs(processes: int) -> None:
    share, found = Share(), []
    for share.rank in range(processes):
        share.processes = processes
        found += share.batches(COUNT, BATCH)
    assert sorted(i for batch in found for i in batch) == list(range(COUNT))
    assert sorted(map(len, found)) == [1, 3, 3]  # as one process draws them


def test_processes_together_draw_what_one_draws(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(generate("--seed", "7")) == COUNT
    with monkeypatch.context() as patched:
        as_process(patched, 0, 2)
        first = generate("--seed", "7", out="two")
    as_process(monkeypatch, 1, 2)
    rest = generate("--seed", "7", out="two")  # what the first has drawn is none of its business
    assert len(first) == 4 and len(rest) == 3
    one, two = pictures("out"), pictures("two")
    assert one.keys() == two.keys() and len(one) == COUNT
    assert max(np.abs(one[name] - two[name]).max() for name in one) <= 1


def test_the_same_command_goes_on_where_it_was_stopped(
    generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Pipeline.generate
    drawn: list[Any] = []

    def stopping(self: Pipeline, captions: Any, **options: Any) -> Any:
        if len(drawn) == 1:
            raise KeyboardInterrupt
        drawn.append(list(captions))
        return draw(self, captions, **options)

    monkeypatch.setattr(Pipeline, "generate", stopping)
    generate()  # its seed is random
    before = pictures("out")
    assert len(before) == 3
    missing = min(Path("out").glob("*.png"))
    missing.unlink()  # as if it had been killed between two pictures of a batch
    drawn[:] = [[], []]
    generate()
    assert drawn[2:] == [
        ["a cat with 0 hats"],
        [f"a cat with {i} hats" for i in (3, 4, 5)],
        ["a cat with 0 hats"],
    ]
    after = pictures("out")
    assert (
        len(after) == COUNT and len({name.rpartition("-")[2] for name in after}) == 1
    )  # the seed is the first run's
    assert max(np.abs(before[name] - after[name]).max() for name in before) <= 1
    assert generate() == [] and len(drawn) == 5


def test_another_request_does_not_go_on_in_the_same_folder(generate: Any) -> None:
    generate("--seed", "7", "--steps", "1")
    for changed, says in (
        (("--seed", "8", "--steps", "1"), "seed 7, now it is 8"),
        (("--seed", "7", "--steps", "2"), "options"),
        (("--seed", "7", "--steps", "1", "-n", "2"), "num_images 1, now it is 2"),
        (("--seed", "7", "--steps", "1", "--preset", "fast"), "preset 'balanced', now it is 'fast'"),
    ):
        with pytest.raises(RequestError, match=f"{RECORD}: the pictures there were asked for with {says}"):
            generate(*changed)
    Path("prompts.txt").write_text("another\n")
    with pytest.raises(RequestError, match="with prompts '7: .*', now it is '1: "):
        generate("--steps", "1")
    assert len(generate("--steps", "1", "--overwrite")) == 1
    assert json.loads(Path("out", RECORD).read_text())["prompts"].startswith("1: ")


def test_pictures_of_no_job_are_kept_and_a_refused_job_leaves_no_record(generate: Any) -> None:
    Path("out").mkdir()
    Path("out/3-a-cat-with-3-hats-7.png").write_bytes(b"mine")
    with pytest.raises(RequestError, match="exists already and is kept"):
        generate("--seed", "7")
    assert [path.name for path in Path("out").iterdir()] == ["3-a-cat-with-3-hats-7.png"]


def test_a_damaged_record_is_named(generate: Any) -> None:
    Path("out").mkdir()
    Path("out", RECORD).write_text("{")
    with pytest.raises(Exception, match=f"{RECORD}: not readable as JSON"):
        generate("--seed", "7")
