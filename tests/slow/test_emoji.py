"""configs/emoji on the emoji, with narrow networks: each stage reads the data and learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unclip.train.config import read_run
from unclip.train.loop import train

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared/data"
CONFIGS = ROOT / "configs/emoji"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "emoji").is_dir() or not (DATA / "emoji_1024").is_dir(),
        reason="the emoji are not beside the repository, in ../shared/data",
    ),
]

NARROW = "stage.unet.channels=32"
# What makes a stage small enough, its steps, and the share of its first validation loss that the last must be
# below.
SHORT = {
    "clip": (
        (
            "stage.architecture.vision_width=16",
            "stage.architecture.text_width=64",
            "stage.architecture.text_depth=2",
            "stage.architecture.embed=64",
            "data.batch=32",
        ),
        60,
        0.99,
    ),
    "prior": (
        ("stage.width=64", "stage.heads=2", "stage.depth=2", "stage.embed=64", "stage.token_width=64"),
        20,
        0.9,
    ),
    "decoder": (
        (
            NARROW,
            "stage.unet.depth=1",
            "stage.unet.head_channels=32",
            "stage.unet.patch=4",
            "stage.embed=64",
            "stage.token_width=64",
            "stage.context_width=64",
        ),
        40,
        0.95,
    ),
    "upsampler-256": ((NARROW, "stage.unet.depth=1"), 20, 0.99),
    "upsampler-1024": ((NARROW,), 20, 0.99),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emoji")


@pytest.mark.parametrize(
    "stage", list(SHORT)
)  # in this order: prior and decoder train with the CLIP of the first
def test_a_short_run_learns(stage: str, runs: Path) -> None:
    narrow, steps, factor = SHORT[stage]
    config = read_run(CONFIGS / f"{stage}.yaml")
    shards = DATA / Path(config.data.shards).relative_to("data")
    # The validation loss has fixed draws, so a few steps show in it; the thousand of 1024 px have no shard
    # for it.
    validation = (
        shards if config.data.validation is None else DATA / Path(config.data.validation).relative_to("data")
    )
    overrides = [
        *narrow,
        f"data.shards={shards}",
        f"data.validation={validation}",
        "data.shuffle=50",
        f"train.steps={steps}",
        "optim.warmup=2",
        "optim.lr=2.0e-3",
        "train.sample_every=0",
        "data.workers=0",
        "data.calibration=64",
        "train.ema=0.5",
        "train.validate_every=10",
        "train.validation_images=32",
    ]
    if stage != "clip":
        overrides.append(
            "data.batch=64"
            if stage == "prior"
            else "data.batch=4"
            if stage == "upsampler-1024"
            else "data.batch=16"
        )
    if config.clip:
        overrides.append(f"clip={runs / 'clip'}")
    train(read_run(CONFIGS / f"{stage}.yaml", overrides), runs / stage, progress=False)
    lines = map(json.loads, (runs / stage / "metrics.jsonl").read_text().splitlines())
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < factor * losses[0], losses
