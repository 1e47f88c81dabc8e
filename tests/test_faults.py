"""Faults in training: bad steps, signals, a full disk, another number of processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from tiny_runs import assert_same_bits, everything
from torch import Tensor

from unclip.errors import CheckpointError, ConfigError, TrainingError
from unclip.stages.batch import Batch
from unclip.stages.upsampler import Upsampler
from unclip.train.checkpoint import read_progress, step_folders
from unclip.train.loop import train

# --- bad steps ---


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Multiplies the loss of some steps (from 1) by a number."""
    forward = Upsampler.forward

    def by(factor: float, *steps: int) -> None:
        done = 0

        def spoiled(self: Upsampler, batch: Batch) -> Tensor:
            nonlocal done
            done += 1
            return forward(self, batch) * (factor if done in steps else 1.0)

        monkeypatch.setattr(Upsampler, "forward", spoiled)

    return by


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e6])
def test_a_bad_step_changes_nothing_and_is_counted(
    factor: float, run_of: Any, tmp_path: Path, spoil: Any
) -> None:
    spoil(factor, 3)
    config = run_of("upsampler", "train.save_every=1", "optim.skip_norm=1000", "train.log_every=1")
    train(config, tmp_path / "run", progress=False)
    _, before, skipped, after = (everything(folder) for folder in step_folders(tmp_path / "run"))
    assert all(torch.equal(before[name], skipped[name]) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert [read_progress(folder).skipped for folder in step_folders(tmp_path / "run")] == [0, 0, 1, 1]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ["loss" in line for line in lines] == [True, True, False, True]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1]


def test_a_streak_of_bad_steps_stops_the_run_and_names_them(run_of: Any, tmp_path: Path, spoil: Any) -> None:
    spoil(float("nan"), 2, 4, 5, 6)
    config = run_of("upsampler", "train.steps=9", "train.save_every=3", "optim.skip_limit=3")
    with pytest.raises(TrainingError) as caught:
        train(config, tmp_path / "run", progress=False)
    said = str(caught.value)
    assert (
        "step 6 of the upsampler is bad (gradient norm nan), the last of 3 in a row" in said
        and "\n" not in said
    )
    keys = said.split("its samples: ")[1].split(". Lower")[0].split(", ")
    assert len(keys) == 4 and all(key.isdigit() for key in keys)
    assert [folder.name for folder in step_folders(tmp_path / "run")] == ["step-00000003"]


def test_a_rate_that_destroys_the_weights_stops_the_run(run_of: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Lower optim\.lr"):
        train(
            run_of("upsampler", "optim.lr=1.0e+30", "optim.skip_limit=2", "train.save_every=9"),
            tmp_path,
            progress=False,
        )
    assert not step_folders(tmp_path)


def test_one_process_trains_in_one_precision_and_then_in_another(run_of: Any, tmp_path: Path) -> None:
    for precision in ("bf16", "no"):
        config = run_of("upsampler", "train.steps=1", f"train.precision={precision}", "data.batch=1")
        train(config, tmp_path / precision, progress=False)


# --- signals ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)])
def test_signals_to_the_whole_group_save_and_the_run_goes_on_exactly(
    number: signal.Signals, code: int, run_of: Any, tmp_path: Path
) -> None:
    # Two loader workers get the signal as well, as from a scheduler or a terminal.
    config = run_of("upsampler", "train.steps=100000", "train.save_every=100000", "data.workers=2")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "unclip", "train", str(tmp_path / "run.yaml"), "-q", "--out", str(run)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (run / "metrics.jsonl").is_file():
            time.sleep(0.05)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code, said.decode()
    assert b"Traceback" not in said
    (folder,) = step_folders(run)
    assert b"told to stop; saved step" in said
    steps = read_progress(folder).step + 2
    short = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    rest, whole = train(short, run, progress=False), train(short, tmp_path / "whole", progress=False)
    assert_same_bits(rest, whole)


# --- the disk ---


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")]
)
@pytest.mark.parametrize("at", ["state/optimizer.safetensors", "model.safetensors"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    error: Exception, at: str, run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    whole = train(run_of("upsampler"), tmp_path / "whole", progress=False)

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        if str(path).endswith(at) and "step-00000004" in str(path):
            raise error
        save(tensors, path)

    save = safetensors.torch.save_file
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(
            CheckpointError,
            match=r"step-00000004: cannot be written .*No space left.*step-00000002 is still good",
        ):
            train(run_of("upsampler", "train.keep=1"), run, progress=False)
    assert [path.name for path in run.glob("*step-*")] == ["step-00000002"]
    assert_same_bits(train(run_of("upsampler"), run, progress=False), whole)


# --- streams of data ---


def test_streams_must_fit_the_processes(run_of: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.streams=3 must be a multiple of the 1 processes, and data\.batch=4"
    ):
        train(run_of("upsampler", "train.streams=3"), tmp_path, progress=False)


def test_a_run_keeps_its_streams_where_they_fit_and_says_where_not(
    run_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(run_of("upsampler", "train.streams=2"), tmp_path / "whole", progress=False)
    train(run_of("upsampler", "train.streams=2", "train.steps=2"), tmp_path / "half", progress=False)
    with caplog.at_level(logging.WARNING, "unclip"):
        rest = train(
            run_of("upsampler"), tmp_path / "half", progress=False
        )  # as many streams as it began with
        assert_same_bits(rest, whole)
        assert not caplog.records
        train(run_of("upsampler", "train.steps=6", "data.batch=3"), tmp_path / "half", progress=False)
    assert "1 streams of data and 3 images a step, instead of 2 and 4" in caplog.text


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_reads_the_same_however_it_was_interrupted(workers: int, run_of: Any, tmp_path: Path) -> None:
    options = (f"data.workers={workers}", "train.streams=2", "train.save_every=3", "train.steps=5")
    whole = train(run_of("upsampler", *options), tmp_path / "whole", progress=False)
    for steps in (1, 4):
        train(run_of("upsampler", *options, f"train.steps={steps}"), tmp_path / "parts", progress=False)
    assert_same_bits(train(run_of("upsampler", *options), tmp_path / "parts", progress=False), whole)


def test_kills_at_random_moments_lose_nothing() -> None:
    tool = Path(__file__).parent.parent / "tools/benchmarks/stress_resume.py"
    done = subprocess.run([sys.executable, tool, "--kills", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the same bits as the run that was never killed" in done.stdout
