"""--dry-run: counts against closed forms, on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from unclip.cli import cli
from unclip.train.config import read_run
from unclip.train.plan import flops_per_image, plan

CONFIGS = Path(__file__).parent.parent / "configs"


def test_the_priors_flops_are_six_per_parameter_and_token() -> None:
    config = read_run(CONFIGS / "dalle2/prior.yaml", ["stage.depth=8"])
    tokens, width, depth = 256 + 4, 2048, 8
    blocks = 12 * width**2 * depth  # q, k, v, out, and four times the width up and down
    attention = 2 * tokens * width * depth  # each position's products with all keys and all values
    assert flops_per_image(config) == pytest.approx(6 * tokens * (blocks + attention), rel=0.01)


def test_memory_by_part_and_sharding() -> None:
    found = plan(read_run(CONFIGS / "dalle2/prior.yaml", ["stage.depth=8"]), devices=8)
    ddp, fsdp2 = found.memory["ddp"], found.memory["fsdp2"]
    for part, per_parameter in (("weights", 4), ("gradients", 4), ("optimizer", 8), ("averages", 4)):
        assert ddp[part] == per_parameter * found.parameters
        assert fsdp2[part] == per_parameter * found.parameters // 8
    assert ddp["copies of weights"] == 2 * found.parameters
    assert 0 < fsdp2["copies of weights"] < ddp["copies of weights"] / 3
    assert found.images == 600_000 * 64 * 8


@pytest.mark.parametrize("kind", ["clip", "decoder", "prior", "upsampler"])
def test_recomputing_keeps_less_and_counts_no_more(kind: str, run_of: Any) -> None:
    deep = ["stage.depth=3"] if kind == "prior" else []
    kept, recomputed = plan(run_of(kind, *deep), 1), plan(run_of(kind, *deep, "train.recompute=true"), 1)
    assert recomputed.flops == kept.flops > 0
    assert 0 < recomputed.memory["ddp"]["activations"] <= kept.memory["ddp"]["activations"]
    twice = plan(run_of(kind, *deep, "data.batch=8"), 1)
    assert twice.memory["ddp"]["activations"] == 2 * kept.memory["ddp"]["activations"]


def test_a_dry_run_prints_it_all_and_writes_nothing(tmp_path: Path) -> None:
    command = [
        "train",
        str(CONFIGS / "mini/prior.yaml"),
        "--dry-run",
        "--devices",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    for said in (
        "name: ",
        " parameters",
        "FLOPs per image",
        "on 4 devices",
        "device-hours",
        "fsdp2",
        "optimizer",
        "in all",
    ):
        assert said in done.output
    assert not list(tmp_path.iterdir())
