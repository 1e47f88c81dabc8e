"""What one training run is: a stage, its data, its optimizer, its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from unclip.config import Config, parse, read_yaml
from unclip.data.shards import DataConfig
from unclip.stages import stage_class
from unclip.stages.base import StageConfig


class OptimConfig(Config):
    """AdamW with linear warm-up, then constant or cosine to zero, and gradient clipping.

    Attributes:
        warmup: steps. decay: "none" keeps the rate, "cosine" brings it to a twentieth at the last step.
        clip_norm: the largest gradient norm.
    """

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(1000, ge=0)
    decay: Literal["none", "cosine"] = "none"
    clip_norm: float = Field(1.0, gt=0)


class TrainConfig(Config):
    """How long, how precisely, and what is kept.

    Attributes:
        steps: of the optimizer.
        seed: of initial weights, data order and noise.
        accumulate: batches per step.
        ema: decay of the averaged weights, warmed up as (1 + step) / (10 + step).
        precision: of the forward and backward pass; weights stay float32. "auto" is bf16 where the device is quick in it,
            else "no" (float32).
        save_every: steps between checkpoints. keep: how many are kept.
        sample_every: steps between sample grids; 0 draws none.
        trackers: accelerate's, beside metrics.jsonl.
    """

    steps: int = Field(ge=1)
    seed: int = 0
    accumulate: int = Field(1, ge=1)
    ema: float = Field(0.9999, ge=0, lt=1)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    save_every: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1)
    sample_every: int = Field(1000, ge=0)
    trackers: tuple[Literal["tensorboard"], ...] = ()


def _stage_config(value: Any) -> Any:
    """Reads the block as the config class of its own kind."""
    if isinstance(value, dict):
        return stage_class(str(value.get("kind"))).Config.model_validate(value)
    return value


class RunConfig(Config):
    """One run. `stage` is what becomes the checkpoint's config.json.

    Attributes:
        name: of the run's folder.
        clip: reference of the frozen CLIP (a folder saved by the clip stage, openclip:…, hf:…); not for stages that need none.
        init: a saved stage or run whose weights a fresh run starts from, instead of from chance.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    clip: str | None = None
    init: str | None = None
    stage: Annotated[SerializeAsAny[StageConfig], BeforeValidator(_stage_config)]
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig


def read_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A YAML file with `key.sub=value` overrides as a run; errors name the file and the key."""
    return parse(RunConfig, read_yaml(path, overrides), str(path))
