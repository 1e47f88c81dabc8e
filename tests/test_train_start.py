"""What a training run looks at before its first step, and what it says while it runs."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_train_keys import lines, wandb  # noqa: F401  (a fixture)

from unclip.data.tar import find_shards, read_samples, write_shard
from unclip.errors import ConfigError, DataError, TrainingError, UnclipError
from unclip.stages.base import Stage
from unclip.train.loop import train


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that a run has taken."""
    taken: list[int] = []

    def passes(self: Any, norm: float, step: int, keys: Any) -> bool:
        taken.append(step)
        return True

    monkeypatch.setattr("unclip.train.guard.GradientGuard.passes", passes)
    return taken


# --- before the first step ---


@pytest.mark.parametrize(
    ("kind", "overrides", "says"),
    [
        ("decoder", ["stage.sampling.sampler=nope"], "no sampler 'nope'; there are"),
        ("prior", ["stage.sampling.sampler=unipc", "stage.sampling.eta=0.5"], "'unipc' takes no eta"),
        ("prior", ["stage.sampling.sampler=analytic_dpm"], "analytic_dpm needs a trained stage"),
        ("upsampler", ["data.validation=nope.tar"], "nope.tar"),
        ("upsampler", ["train.trackers=[wandb]"], "wandb is not installed"),
    ],
)
def test_what_is_needed_later_is_looked_at_first(
    kind: str,
    overrides: list[str],
    says: str,
    run_of: Any,
    tmp_path: Path,
    steps: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "wandb" in says:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnclipError, match=says):
        train(run_of(kind, *overrides), tmp_path / "run", progress=False)
    assert not steps and not (tmp_path / "run").exists()


@pytest.mark.parametrize("bad", ["no captions", "no pictures"])
def test_validation_shards_without_a_usable_sample_are_found_first(
    bad: str, run_of: Any, train_shards: str, tmp_path: Path, steps: list[int]
) -> None:
    good = list(read_samples(find_shards(train_shards)))
    removed = ("json", "txt") if bad == "no captions" else ("png",)
    spoilt = [{key: value for key, value in sample.items() if key not in removed} for sample in good]
    for number in range(2):
        write_shard(tmp_path / f"bad-{number}.tar", spoilt)
    with pytest.raises(DataError, match="cannot be used"):
        train(run_of("decoder", f"data.validation={tmp_path}/bad-*.tar"), tmp_path / "run", progress=False)
    assert not steps


def test_a_validation_loss_that_is_no_number_is_found_first(
    run_of: Any, train_shards: str, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unclip.stages.upsampler import Upsampler

    forward = Upsampler.forward
    monkeypatch.setattr(
        Upsampler,
        "forward",
        lambda self, batch: forward(self, batch) * (1 if self.training else float("nan")),
    )
    with pytest.raises(ConfigError, match=r"data\.validation .* the untrained stage's loss is nan"):
        train(run_of("upsampler", f"data.validation={train_shards}"), tmp_path / "run", progress=False)
    assert not steps


@pytest.mark.parametrize("kind", ["prior", "prior_onepass", "prior_ar"])
@pytest.mark.parametrize("data", ["one image", "copies of one"])
def test_statistics_of_one_image_are_refused(
    kind: str, data: str, run_of: Any, train_shards: str, tmp_path: Path, steps: list[int]
) -> None:
    overrides = ["data.calibration=1", "data.batch=1"]
    if data == "copies of one":
        one = next(iter(read_samples(find_shards(train_shards))))
        write_shard(tmp_path / "copies.tar", [{**one, "__key__": f"{i}"} for i in range(4)])
        overrides = [f"data.shards={tmp_path / 'copies.tar'}"]
    with pytest.raises(DataError, match=r"data\.calibration.*two different images"):
        train(run_of("prior", f"stage.kind={kind}", *overrides), tmp_path / "run", progress=False)
    assert not steps


def test_a_prior_of_a_fixed_scale_trains_on_one_image(run_of: Any, tmp_path: Path) -> None:
    overrides = ("stage.normalise=scale", "data.calibration=1", "data.batch=1", "train.steps=1")
    train(run_of("prior", *overrides), tmp_path / "run", progress=False)
    assert lines(tmp_path / "run", "loss")[0] > 0


@pytest.mark.parametrize("kind", ["upsampler", "decoder"])
def test_guidance_that_a_stage_has_not_is_refused(kind: str, run_of: Any) -> None:
    override = "stage.sampling.guidance=3"
    if kind == "decoder":
        assert run_of(kind, override).stage.sampling.guidance == 3
    else:
        with pytest.raises(ConfigError, match=r"stage\.sampling\.guidance must be 1"):
            run_of(kind, override)


# --- while it runs ---


def test_the_first_step_is_reported_and_then_every_nth(run_of: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run_of("upsampler", "train.steps=5", "train.log_every=2"), run, progress=False)
    assert lines(run, "step") == [1, 2, 4, 5]


def test_a_run_that_goes_on_says_from_where(
    run_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run_of("upsampler", "train.steps=2"), tmp_path / "run", progress=False)
    assert "resumed" not in capsys.readouterr().err
    train(run_of("upsampler", "train.log_every=50"), tmp_path / "run", progress=False)
    assert "upsampler: resumed at step 2 of 4" in capsys.readouterr().err
    train(run_of("upsampler"), tmp_path / "run", progress=False)
    assert "upsampler: has its 4 steps, nothing to do" in capsys.readouterr().err
    assert lines(tmp_path / "run", "step") == [1, 2, 3, 4]


def test_tensorboard_gets_the_sheets_and_the_config(run_of: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ("train.trackers=[tensorboard]", "train.sample_every=2", "train.steps=2")
    train(run_of("upsampler", *options), tmp_path / "run", progress=False)
    events = EventAccumulator(str(tmp_path / "run/upsampler"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert tags["images"] == ["samples"] and "config/text_summary" in tags["tensors"]
    (sheet,) = events.Images("samples")
    with Image.open(io.BytesIO(sheet.encoded_image_string)) as shown:
        assert sheet.step == 2 and shown.size == (4 * 36 - 4, 3 * 36 - 4)
    (text,) = events.Tensors("config/text_summary")
    assert b"log_every: 50" in text.tensor_proto.string_val[0]


def test_wandb_gets_the_sheets(wandb: Path, run_of: Any, tmp_path: Path) -> None:  # noqa: F811
    options = ("train.trackers=[wandb]", "train.sample_every=2", "train.steps=2")
    train(run_of("upsampler", *options), tmp_path / "run", progress=False)
    told = [json.loads(line) for line in (wandb / "told.jsonl").read_text().splitlines()]
    (sheet,) = [line["sheet"] for line in told if "sheet" in line]
    assert sheet == {"step": 2, "shapes": [[3 * 36 - 4, 4 * 36 - 4, 3]]}


def test_a_second_interrupt_stops_at_once(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import os
    import signal

    from unclip.stages.upsampler import Upsampler

    forward, done = Upsampler.forward, []

    def interrupted(self: Stage, batch: Any) -> Any:
        done.append(1)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Upsampler, "forward", interrupted)
    caplog.set_level(logging.WARNING)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(run_of("upsampler"), tmp_path / "run", progress=False)
    assert len(done) == 1 and "Ctrl-C again stops at once" in caplog.text
    assert signal.getsignal(signal.SIGINT) == before and not list((tmp_path / "run").glob("step-*"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_too_little_memory_is_one_line_and_a_bug_is_not(
    error: Exception, told: bool, run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from unclip.cli import cli
    from unclip.stages.upsampler import Upsampler

    def fails(self: Stage, batch: Any) -> Any:
        raise error

    run_of("upsampler")
    monkeypatch.setattr(Upsampler, "forward", fails)
    arguments = ["train", str(tmp_path / "upsampler.yaml"), "-q", "--out", str(tmp_path / "run")]
    caught = CliRunner().invoke(cli, arguments).exception
    assert isinstance(caught, TrainingError if told else RuntimeError)
    assert ("Lower data.batch" in str(caught)) == told
