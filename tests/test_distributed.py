"""Distributed training: one, two and four processes have the same loss curve at equal global batch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from tiny_runs import assert_same_bits

from unclip.files import read_weights
from unclip.train.checkpoint import step_folders
from unclip.train.config import RunConfig
from unclip.train.loop import train

CONFIGS = Path(__file__).parent.parent / "configs/accelerate"
STREAMS = 4
KINDS = sorted(tiny_runs.STAGES)


def launch(runs: dict[str, Any], work: Path, *arguments: str) -> None:
    """Trains the runs (folder → config tree) under `accelerate launch`."""
    (work / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", *arguments]
    worker = Path(__file__).parent / "distributed_worker.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, str(worker), str(work / "runs.json")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def trees(train_shards: str, tiny_clip_folder: Path) -> Any:
    """Every stage's run of a global batch of eight, for a number of processes."""

    def make(
        processes: int, *, steps: int = 4, kinds: list[str] = KINDS, **train_options: Any
    ) -> dict[str, Any]:
        found = {}
        for kind in kinds:
            tree = tiny_runs.tree(
                kind, train_shards, tiny_clip_folder, streams=STREAMS, log_every=1, **train_options
            )
            tree["data"]["batch"] = 8 // processes
            tree["train"]["steps"] = steps
            if "unet" in tree["stage"]:
                tree["stage"]["unet"] = {**tree["stage"]["unet"], "dropout": 0.2}
            found[kind] = tree
        return found

    return make


@pytest.fixture
def alone(trees: Any, tmp_path: Path) -> Path:
    """The same runs on one process."""
    for kind, tree in trees(1).items():
        train(RunConfig.model_validate(tree), tmp_path / "alone" / kind, progress=False)
    return tmp_path / "alone"


def assert_same_curves(alone: Path, together: Path, kinds: list[str] = KINDS) -> None:
    for kind in kinds:
        ours, theirs = losses(alone / kind), losses(together / kind)
        assert len(ours) == 4 and len(set(ours)) == 4
        assert theirs == pytest.approx(ours, rel=1e-4), kind
        a, b = (
            read_weights(step_folders(folder / kind)[-1] / "model.safetensors")
            for folder in (alone, together)
        )
        far = max((a[name] - b[name]).abs().max().item() for name in a)
        # Where a gradient is almost nothing, Adam's first steps follow its sign, whatever rounding made of
        # it.
        assert far <= 4 * 2 * 0.001, kind
        apart = math.sqrt(
            sum((a[name] - b[name]).square().sum().item() for name in a) / sum(v.numel() for v in a.values())
        )
        assert apart < 1e-5, kind


def test_two_processes_have_the_curve_of_one_and_resume_exactly(
    trees: Any, alone: Path, tmp_path: Path
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    launch(
        {str(whole / kind): tree for kind, tree in trees(2).items()}
        | {str(halves / "decoder"): trees(2, steps=2)["decoder"]}
        | {f"{halves}/./decoder": trees(2)["decoder"]},
        tmp_path,
        "--config_file",
        str(CONFIGS / "cpu-gloo.yaml"),
    )
    assert_same_curves(alone, whole)
    assert_same_bits(step_folders(halves / "decoder")[-1], step_folders(whole / "decoder")[-1])
    # What two processes began, one goes on with.
    rest = train(RunConfig.model_validate(trees(1, steps=6)["decoder"]), halves / "decoder", progress=False)
    assert rest.name == "step-00000006"
    assert torch.isfinite(torch.tensor(losses(halves / "decoder"))).all()
