"""Numbers and names in a training config that cannot be right: one line that names the key, at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import STAGES, tree

from unclip.diffusion.config import SCHEDULES
from unclip.diffusion.schedule import BETAS
from unclip.errors import ConfigError
from unclip.stages import stage_class, stage_config
from unclip.stages.configs import CONFIGS
from unclip.train.config import RunConfig, read_run

PIXELS = {
    "kind": "pixels",
    "size": 16,
    "unet": {"channels": 32, "multipliers": [1, 1], "depth": 1},
    "sampling": {"steps": 2},
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a tiny run of a kind of stage with overrides; it names shards and a CLIP that are not there."""

    def run(kind: str, *overrides: str) -> RunConfig:
        content = tree(kind if kind in STAGES else "upsampler", "nowhere.tar", Path("nowhere"))
        if kind == "pixels":
            content["stage"] = PIXELS
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content))
        return read_run(path, overrides)

    return run


@pytest.mark.parametrize(
    ("kind", "override", "says"),
    [
        ("decoder", "stage.size=30 stage.unet.multipliers=[1,1,1]", "stage.size 30 pixels"),
        ("decoder", "stage.size=0", "stage.size: "),
        ("decoder", "stage.size=-32", "stage.size: "),
        ("decoder", "stage.unet.patch=64", "stage.size 32 pixels"),
        ("decoder", "stage.size=2", "stage.size 2 pixels, but groups of one channel"),
        ("decoder", "stage.sampling.interval=[1]", "stage.sampling.interval.1: "),
        ("decoder", "stage.embed=0", "stage.embed: "),
        ("decoder", "stage.token_width=0", "stage.token_width: "),
        ("decoder", "stage.context_width=0", "stage.context_width: "),
        ("decoder", "stage.unet.channels=33", "stage.unet.channels: "),
        ("decoder", "stage.unet.norm_groups=5", "stage.unet.norm_groups 5"),
        ("decoder", "stage.unet.attention=[7]", "stage.unet.attention (7,)"),
        ("decoder", "stage.unet.head_channels=24", "stage.unet.head_channels 24"),
        ("decoder", "stage.diffusion.times=1", "stage.diffusion.times: "),
        ("decoder", "stage.diffusion.clamp=0", "stage.diffusion.clamp: "),
        ("decoder", "stage.diffusion.times=100 stage.sampling.steps=500", "stage.sampling.steps 500"),
        ("decoder", "stage.sampling.interval=[0.9,0.1]", "stage.sampling.interval [0.9, 0.1]"),
        ("decoder", "stage.sampling.interval=[0,2]", "stage.sampling.interval.1: "),
        ("decoder", "stage.sampling.guidance=.nan", "stage.sampling.guidance: "),
        ("pixels", "stage.size=18 stage.unet.multipliers=[1,1,1]", "stage.size 18 pixels"),
        ("pixels", "stage.channels=2", "stage.channels: "),
        ("pixels", "stage.continuous=true stage.diffusion.predict=x0", "stage.continuous needs"),
        ("upsampler", "stage.factor=0", "stage.factor: "),
        ("upsampler", "stage.size=0", "stage.size: "),
        (
            "upsampler",
            "stage.size=50 stage.crop_fraction=1.0 stage.unet.multipliers=[1,1,1]",
            "stage.size 50 pixels",
        ),
        (
            "upsampler",
            "stage.crop_fraction=0.42 stage.unet.multipliers=[1,1,1]",
            "stage.crop_fraction 27 pixels",
        ),
        ("upsampler", "stage.crop_fraction=0.001", "stage.crop_fraction 0.001 of 64 pixels is 0"),
        ("upsampler", "stage.crop_fraction=0.125", "stage.crop_fraction 0.125 of 64 pixels is 8"),
        ("upsampler", "stage.factor=64", "stage.crop_fraction 0.5 of 64 pixels is 32"),
        ("prior", "stage.width=33", "stage.heads 2 does not divide width 33"),
        ("prior", "stage.width=0", "stage.width: "),
        ("prior", "stage.depth=-1", "stage.depth: "),
        ("prior", "stage.context=0", "stage.context: "),
        ("prior", "stage.scale=0", "stage.scale: "),
        ("prior", "stage.diffusion.variance=learned", "stage.diffusion.variance learned"),
        ("clip", "stage.architecture.patch=64", "stage.architecture.patch 64 pixels, but image_size is 32"),
        ("clip", "stage.architecture.patch=0", "stage.architecture.patch: "),
        ("clip", "stage.architecture.vision_width=33", "stage.architecture.vision_width 33"),
        ("clip", "stage.architecture.vision_width=8", "stage.architecture.vision_width 8"),
        ("clip", "stage.architecture.text_width=33", "stage.architecture.text_width 33"),
        ("clip", "stage.architecture.vision_depth=[1,1]", "stage.architecture.vision_depth one depth"),
        (
            "clip",
            "stage.architecture.vision_depth=[1,1,1,1] stage.architecture.image_size=16",
            "stage.architecture.image_size 16",
        ),
        ("clip", "stage.architecture.vision_queries=2", "stage.architecture.vision_queries needs"),
        (
            "clip",
            "stage.architecture.vision_queries=2 stage.architecture.vision_depth=[1,1,1] stage.architecture.image_size=36",
            "stage.architecture.image_size 36",
        ),
        ("upsampler", "optim.betas=[1,1]", "optim.betas.0: "),
        ("upsampler", "optim.betas=[0.9,-0.1]", "optim.betas.1: "),
        ("upsampler", "optim.eps=-1", "optim.eps: "),
        ("upsampler", "optim.eps=0", "optim.eps: "),
        ("upsampler", "optim.lr=.inf", "optim.lr: "),
        ("upsampler", "optim.weight_decay=.nan", "optim.weight_decay: "),
        ("upsampler", "train.ema=.nan", "train.ema: "),
        ("upsampler", "train.seed=99999999999999999999", "train.seed: "),
    ],
)
def test_a_number_that_cannot_be_right_is_named(kind: str, override: str, says: str, read: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read(kind, *override.split())
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "override"),
    [
        ("decoder", "stage.size=30"),
        ("pixels", "stage.size=18"),
        ("upsampler", "stage.size=100 stage.crop_fraction=0.13"),
        ("upsampler", "stage.degradation=none stage.crop_fraction=0.0625"),
        ("prior", "stage.width=33 stage.heads=3"),
        ("clip", "stage.architecture.patch=32"),
    ],
)
def test_an_odd_number_that_can_be_right_trains(kind: str, override: str, read: Any) -> None:
    from unclip.train.plan import flops_per_image  # runs a step on the meta device

    assert flops_per_image(read(kind, *override.split())) > 0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps=3", "steps: no such key; did you mean train.steps?"),
        ("train.stepz=3", "train.stepz: no such key; did you mean train.steps?"),
        ("trian.steps=3", "trian: no such key; did you mean train?"),
        ("stage.steps=3", "did you mean stage.sampling.steps?"),
        ("stage.lr=3", "did you mean optim.lr?"),
        ("data.batch_size=3", "did you mean data.batch?"),
        ("stage.unet.chanels=5", "did you mean stage.unet.channels?"),
        ("stage.channels=5", "did you mean stage.unet.channels?"),
        ("optim.learning_rate=3", "the keys of optim are kind, lr, betas, "),
        ("wandb=3", "the keys of a run are name, clip, "),
    ],
)
def test_a_key_that_is_not_there_is_answered_with_one_that_is(override: str, says: str, read: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read("decoder", override)
    assert says in str(caught.value)


def test_the_name_of_a_union_is_no_part_of_a_key(read: Any) -> None:
    with pytest.raises(ConfigError, match=r"train\.ema: Input should be less than 1"):
        read("decoder", "train.ema=1")


def test_mistakes_are_found_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    content = tree("decoder", "nowhere.tar", Path("nowhere"))
    path.write_text(yaml.safe_dump({**content, "stage": {**content["stage"], "size": 31}}))
    code = (
        "import sys; from unclip.cli import cli\n"
        f"try: cli.main(['train', {str(path)!r}], standalone_mode=False)\n"
        "except Exception as error: print(error)\n"
        "print(sorted({'torch', 'transformers', 'open_clip', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    error, loaded = done.stdout.splitlines()
    assert "stage.size 31 pixels" in error and loaded == "[]"


def test_every_kind_of_stage_has_its_config_without_torch() -> None:
    assert sorted(CONFIGS) == [
        "clip",
        "decoder",
        "decoder_kandinsky",
        "decoder_stable",
        "pixels",
        "prior",
        "prior_ar",
        "prior_onepass",
        "prior_vectors",
        "upsampler",
    ]
    assert all(stage_class(kind).Config is stage_config(kind) is CONFIGS[kind] for kind in CONFIGS)


def test_the_schedules_that_configs_know_are_those_that_there_are() -> None:
    assert tuple(BETAS) == SCHEDULES
