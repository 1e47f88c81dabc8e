"""--dry-run: counts against closed forms, on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from unclip.cli import cli
from unclip.stages.configs import CONFIGS as KINDS
from unclip.train.config import RunConfig, read_run
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


def test_a_dry_run_here_opens_the_data_and_the_clip(run_of: Any, tmp_path: Path) -> None:
    config = run_of("decoder", "data.validation=0.2")
    path = tmp_path / "decoder.yaml"
    before = sorted(tmp_path.iterdir())
    command = ["train", str(path), "--dry-run", "data.validation=0.2"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    for said in (
        f"# data: opened {config.data.shards} (shards: 1)",
        "# validation: holds out 20.0% of the data",
        "# clip: tiny-clip@",
        "which runs in every step",
        "s per step (measured), 4 steps in",
        "# memory: about",
    ):
        assert said in done.output, done.output
    assert sorted(tmp_path.iterdir()) == before
    for override, says in (
        ("data.shards=nowhere.tar", "nowhere.tar"),
        ("clip=nowhere", "nowhere"),
        ("data.validation=nothing.tar", "nothing.tar"),
        ("stage.sampling.sampler=nope", "no sampler 'nope'"),
    ):
        done = CliRunner().invoke(cli, [*command, override])
        assert done.exit_code == 1 and says in str(done.exception)


def test_what_does_not_fit_is_said(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from unclip.train import preflight

    monkeypatch.setattr(preflight, "_memory", lambda device: 2**20)
    said = preflight.describe_here(run_of("upsampler"))
    assert "too little; lower data.batch or set train.recompute=true" in said
    assert "(estimated without the CLIP)" in said


# --- the reference of keys ---


@pytest.mark.parametrize("kind", [None, "clip", "decoder", "pixels", "prior", "prior_ar", "upsampler"])
def test_every_key_is_printed_with_its_type_default_and_meaning(kind: str | None) -> None:
    done = CliRunner().invoke(cli, ["train", "--keys", *([kind] if kind else [])])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    keys = [line.partition(": ")[0] for line in lines if line[:1].isalpha() and ": " in line][
        : -1 if not kind else None
    ]
    expected = KINDS[kind].model_fields if kind else RunConfig.model_fields
    prefix = "stage." if kind else ""
    assert {f"{prefix}{name}" for name in expected} <= set(keys)
    assert all(
        lines[i + 1].startswith("    ") for i, line in enumerate(lines) if line.partition(": ")[0] in keys
    )
    if kind is None:
        assert (
            "data.batch: integer, ≥ 1, required" in lines
            and "train.log_every: integer, ≥ 1, default 50" in lines
        )
        assert "optim.betas: list of 2 number ≥ 0 < 1, default [0.9, 0.999]" in lines


def test_keys_of_a_stage_that_is_not_are_refused() -> None:
    done = CliRunner().invoke(cli, ["train", "--keys", "piror"])
    assert done.exit_code == 1 and "no stage 'piror'" in str(done.exception)
