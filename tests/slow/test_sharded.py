"""Four processes, and weights sharded among two: the loss curve of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_distributed import CONFIGS, alone, assert_same_curves, launch, trees  # noqa: F401
from tiny_runs import assert_same_bits

from unclip.train.checkpoint import step_folders


@pytest.mark.slow
def test_four_processes_have_the_curve_of_one(trees: Any, alone: Path, tmp_path: Path) -> None:  # noqa: F811
    runs = {str(tmp_path / "four" / kind): tree for kind, tree in trees(4).items()}
    launch(runs, tmp_path, "--config_file", str(CONFIGS / "cpu-gloo.yaml"), "--num_processes", "4")
    assert_same_curves(alone, tmp_path / "four")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["fsdp2", "zero2"])
def test_sharded_weights_have_the_curve_of_one_and_resume_exactly(
    sharding: str,
    trees: Any,  # noqa: F811
    alone: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    kinds = ["decoder", "prior"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    launch(
        {str(whole / kind): tree for kind, tree in trees(2, kinds=kinds).items()}
        | {str(halves / "decoder"): trees(2, steps=2)["decoder"]}
        | {f"{halves}/./decoder": trees(2)["decoder"]},
        tmp_path,
        "--config_file",
        str(CONFIGS / f"{sharding}.yaml"),
        "--num_processes",
        "2",
    )
    assert_same_curves(alone, whole, kinds)
    assert_same_bits(step_folders(halves / "decoder")[-1], step_folders(whole / "decoder")[-1])
