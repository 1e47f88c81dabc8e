"""Training LoRA adapters: what trains, what is saved, exact resuming, and configs that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
import yaml
from click.testing import CliRunner
from test_distributed import CONFIGS, launch
from tiny_lora import load, picture
from tiny_runs import assert_same_bits, everything

from unclip.cli import cli
from unclip.errors import ConfigError, UnclipError
from unclip.files import read_json, read_weights
from unclip.nn.lora import projections
from unclip.stages import load_stage
from unclip.train.config import RunConfig, read_run
from unclip.train.loop import train

ROLES = {"prior": "prior", "decoder": "decoder", "upsampler": "upsampler-256"}


@pytest.fixture
def tree(tiny_model: Path, train_shards: str) -> Any:
    """Makes the run of an adapter of one of the tiny model's stages."""

    def make(kind: str = "decoder", **train_options: Any) -> dict[str, Any]:
        made = tiny_runs.tree(kind, train_shards, tiny_model, **train_options)
        lora = {"kind": kind, "lora": {"rank": 2}}
        return {
            **made,
            "stage": lora,
            "init": str(tiny_model / ROLES[kind]),
            "optim": {"lr": 0.01, "warmup": 0},
        }

    return make


@pytest.fixture
def read(tree: Any, tmp_path: Path) -> Any:
    """Reads that run with overrides, from a YAML file."""

    def make(kind: str = "decoder", *overrides: str) -> RunConfig:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree(kind)))
        return read_run(tmp_path / "run.yaml", overrides)

    return make


@pytest.mark.parametrize("kind", list(ROLES))
def test_a_run_trains_saves_and_draws_with_the_adapter_only(
    kind: str, read: Any, tiny_model: Path, tmp_path: Path
) -> None:
    folder = train(read(kind, "train.steps=2", "train.sample_every=2"), tmp_path / "run", progress=False)
    base = load_stage(tiny_model / ROLES[kind])
    layers = dict(projections(base))
    wanted = {
        f"{name}.lora_{side}.weight": (2, n) for name, layer in layers.items() for side, n in _widths(layer)
    }
    assert wanted and wanted.keys() == {
        name.partition(":")[2] for name in everything(folder) if ".lora_" in name
    }
    for file in ("model.safetensors", "state/weights.safetensors"):
        saved = read_weights(folder / file)
        assert {name: t.numel() for name, t in saved.items()} == {n: a * b for n, (a, b) in wanted.items()}
    moments = read_weights(folder / "state/optimizer.safetensors")
    assert sum(name.endswith("exp_avg") for name in moments) == len(wanted)
    config = read_json(folder / "config.json")
    assert (config["kind"], config["rank"], config["alpha"]) == ("lora", 2, 2.0)
    assert config["base"].startswith(f"{kind}@") and config["stage"]["kind"] == kind
    adapted = load(tiny_model, tmp_path / "run")
    assert picture(adapted) != picture(load(tiny_model))
    assert picture(adapted) == picture(load(tiny_model, folder / "model.safetensors"))


def _widths(layer: Any) -> list[tuple[str, int]]:
    return [("A", layer.weight.shape[1]), ("B", layer.weight.shape[0])]


@pytest.mark.parametrize("kind", ["prior", "decoder"])
def test_a_resumed_run_ends_in_the_same_bits(kind: str, read: Any, tmp_path: Path) -> None:
    more = ["train.ema=[0.9,0.5]", "train.recompute=true"]
    whole = train(read(kind, *more), tmp_path / "whole", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half/step-00000004")
    resumed = train(read(kind, *more), tmp_path / "half", progress=False)
    assert_same_bits(resumed, whole)
    assert_same_bits(train(read(kind, more[0]), tmp_path / "plain", progress=False), whole)


def test_the_loss_falls(read: Any, train_shards: str, tmp_path: Path) -> None:
    often = ["train.steps=8", "train.validate_every=4", "train.validation_images=8", "train.ema=0.5"]
    often += [f"data.validation={train_shards}", "train.precision=bf16", "train.save_every=8"]
    train(read("decoder", *often), tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < losses[0]


def test_two_processes_have_the_same_losses(tree: Any, read: Any, tmp_path: Path) -> None:
    config = read("decoder").model_dump(mode="json")
    runs = {}
    for name, batch in (("alone", 4), ("together", 2)):
        changed = {**config["train"], "streams": 2, "log_every": 1}
        runs[name] = {**config, "data": {**config["data"], "batch": batch}, "train": changed}
    train(RunConfig.model_validate(runs["alone"]), tmp_path / "alone", progress=False)
    launch(
        {str(tmp_path / "together"): runs["together"]},
        tmp_path,
        "--config_file",
        str(CONFIGS / "cpu-gloo.yaml"),
    )
    alone, together = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in runs
    )
    assert together == pytest.approx(alone, rel=1e-4)


def test_the_config_is_that_of_the_base_but_for_own_keys(read: Any, tiny_model: Path) -> None:
    config = read("decoder", "stage.text_drop=0.25", "stage.lora.alpha=16").stage
    base = read_json(tiny_model / "decoder/config.json")
    own = config.model_dump(mode="json")
    assert own.pop("lora") == {"rank": 2, "alpha": 16.0, "base": None}
    del base["lora"]
    assert own == {**base, "text_drop": 0.25}


def test_dry_run_tells_how_much_trains(read: Any, tmp_path: Path, tiny_model: Path) -> None:
    read("decoder")
    for more in ([], ["--devices", "8"]):
        done = CliRunner().invoke(cli, ["train", str(tmp_path / "run.yaml"), "--dry-run", *more])
        trained = sum(
            2 * sum(layer.weight.shape[:2]) for _, layer in projections(load_stage(tiny_model / "decoder"))
        )
        assert f"parameters, of which {trained:,} train (LoRA)" in done.output, done.output


# --- bad input ---


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["init=null"], "stage.lora needs init, the reference of the stage to adapt"),
        (["stage.lora.rank=0"], "rank: Input should be greater than or equal to 1, not 0"),
        (["stage.lora.rank=4096"], "stage.lora.rank 4096: must be below 128"),
        (["stage.lora.alpha=.nan"], "alpha: Input should be "),
        (["stage.lora.ranks=4"], "ranks: no such key; did you mean rank"),
        (["init=nowhere"], "nowhere: no such model"),
        (["stage.kind=prior"], "is a decoder, not a prior"),
        (
            ["stage.context_width=64"],
            "has another shape than this run's stage: stage.context_width is 32 there, 64",
        ),
        (["clip=mini"], "is trained with CLIP tiny@"),
        (["stage.clip=mini"], "was trained with CLIP tiny@"),
    ],
)
def test_configs_that_cannot_be_right(overrides: list[str], says: str, read: Any, tmp_path: Path) -> None:
    with pytest.raises(UnclipError, match=says.replace(".", r"\.")) as failure:
        train(read("decoder", *overrides), tmp_path / "run", progress=False)
    assert "\n" not in str(failure.value) and not (tmp_path / "run").exists()


def test_a_clip_has_no_adapter(run_of: Any) -> None:
    with pytest.raises(ConfigError, match="lora is for priors, decoders and upsamplers"):
        run_of("clip", "stage.lora={rank: 2}", "init=mini/clip")


def test_a_run_goes_on_with_its_own_base_only(tree: Any, tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")

    def go(*overrides: str) -> Path:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({**tree(), "init": str(base / "decoder")}))
        return train(read_run(tmp_path / "run.yaml", overrides), tmp_path / "run", progress=False)

    first = go("train.steps=1")
    with pytest.raises(ConfigError, match="stage.lora.rank was 2, is 3"):
        go("stage.lora.rank=3")
    with pytest.raises(UnclipError, match="is a lora, not a decoder"):
        go(f"init={first}")
    stage = load_stage(base / "decoder")
    with torch.no_grad():
        next(stage.parameters()).add_(1)
    stage.save(base / "decoder")
    with pytest.raises(ConfigError, match=r"the weights of init .* have changed since this run began"):
        go()
    shutil.rmtree(base)
    with pytest.raises(UnclipError, match=r"base/decoder: no such model"):
        go()
