"""What one training run is: a stage, its data, its optimizer, its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from unclip.config import Config, parse, read_yaml
from unclip.data.shards import DataConfig
from unclip.stages import stage_class
from unclip.stages.base import StageConfig


class OptimConfig(Config):
    """AdamW with linear warm-up, then constant or cosine to zero, and gradient clipping.

    Attributes:
        warmup: steps. decay: "none" keeps the rate, "cosine" brings it to a twentieth at the last step.
        clip_norm: the largest gradient norm.
        skip_norm: a step whose gradient is longer than this, before clipping, is skipped, as one that is not finite
            always is. None skips only the latter.
        skip_limit: skipped steps in a row after which the run stops.
        fused: all of a step in one kernel; the same step up to rounding, and quicker.
    """

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(1000, ge=0)
    decay: Literal["none", "cosine"] = "none"
    clip_norm: float = Field(1.0, gt=0)
    skip_norm: float | None = Field(None, gt=0)
    skip_limit: int = Field(20, ge=1)
    fused: bool = True


Decay = Annotated[float, Field(ge=0, lt=1)]
# YAML reads a bare no as false.
Precision = Annotated[Literal["auto", "no", "bf16", "fp16"], BeforeValidator(lambda x: "no" if x is False else x)]


class TrainConfig(Config):
    """How long, how precisely, and what is kept.

    Attributes:
        steps: of the optimizer.
        seed: of initial weights, data order and noise.
        accumulate: batches per step.
        streams: independent streams of data, shared out evenly among the processes; the same number of them gives the
            same samples on any number of processes, at the same global batch. None is one for each process that the run
            began with.
        ema: decay of the averaged weights, warmed up as (1 + step) / (10 + step). Of several, the first makes the
            checkpoint's model and the others lie beside it as ema-DECAY.
        precision: of the forward and backward pass; weights stay float32. "auto" is bf16 where the device is quick in it,
            else "no" (float32).
        compile: the repeated blocks, by torch.compile.
        recompute: the blocks' activations in the backward pass, instead of keeping them.
        save_every: steps between checkpoints. keep: how many are kept. keep_every: those of its multiples are always
            kept; 0 for none.
        sample_every: steps between sample grids; 0 draws none.
        validate_every: steps between validation losses, if there is `data.validation`; 0 for none.
        validation_images: how many they are measured on.
        trackers: accelerate's, beside metrics.jsonl.
        peak_tflops: of one device, for the model FLOP utilisation; None where it is known or of no interest.
    """

    steps: int = Field(ge=1)
    seed: int = 0
    accumulate: int = Field(1, ge=1)
    streams: int | None = Field(None, ge=1)
    ema: Decay | Annotated[tuple[Decay, ...], Field(min_length=1)] = 0.9999
    precision: Precision = "auto"
    compile: bool = False
    recompute: bool = False
    save_every: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1)
    keep_every: int = Field(0, ge=0)
    sample_every: int = Field(1000, ge=0)
    validate_every: int = Field(1000, ge=0)
    validation_images: int = Field(256, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    peak_tflops: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _decays_differ(self) -> Self:
        if len(set(self.decays)) < len(self.decays):
            raise ValueError(f"ema {self.decays} names a decay twice")
        return self

    @property
    def decays(self) -> tuple[float, ...]:
        """Of the averages; the first makes the model."""
        return self.ema if isinstance(self.ema, tuple) else (self.ema,)


def _stage_config(value: Any) -> Any:
    """Reads the block as the config class of its own kind."""
    if isinstance(value, dict):
        return stage_class(str(value.get("kind"))).Config.model_validate(value)
    return value


class RunConfig(Config):
    """One run. `stage` is what becomes the checkpoint's config.json.

    Attributes:
        name: of the run's folder.
        clip: reference of the frozen CLIP: mini, a run or folder of the CLIP stage, a model folder or Hub id, whose CLIP is
            taken, openclip:NAME/TAG, hf:NAME. None for stages that need no CLIP.
        init: reference of the stage whose weights a fresh run starts from: a run, a saved stage, mini/decoder, or a model,
            whose stage of the same role is taken. None starts from random weights.
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
