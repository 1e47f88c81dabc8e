"""Config of a training run: stage, data, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from unclip.config import Config, WrongValue, parse, read_yaml
from unclip.data.config import DataConfig
from unclip.errors import ConfigError
from unclip.stages import stage_config
from unclip.stages.config import LoraConfig, StageConfig

NEEDS_INIT = "needs init, the reference of the stage to adapt"
Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """An optimizer with linear warm-up, then constant or cosine to zero, and gradient clipping.

    Attributes:
        kind: "adamw", or "muon" for the hidden weights of linear and convolution layers (Jordan et al. 2024)
            and AdamW for the rest. Muon's updates have the size of AdamW's, so `lr` means the same.
        lr: learning rate after the warm-up.
        betas: decay rates of AdamW's moments.
        eps: AdamW's ε.
        weight_decay: AdamW's weight decay.
        warmup: steps of linear warm-up.
        decay: "none" keeps the learning rate constant; "cosine" lowers it to 5 % at the last step.
        clip_norm: largest gradient norm; larger gradients are scaled down to it.
        skip_norm: a step whose gradient norm is larger than this, before clipping, is skipped. None skips
            only steps whose gradient is not finite.
        skip_limit: number of skipped steps in a row after which the run stops and names the step and its
            samples.
        fused: compute AdamW's step in one kernel: faster, the same up to rounding.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(1000, ge=0)
    decay: Literal["none", "cosine"] = "none"
    clip_norm: float = Field(1.0, gt=0)
    skip_norm: float | None = Field(None, gt=0)
    skip_limit: int = Field(20, ge=1)
    fused: bool = True


# YAML reads a bare no as false.
Precision = Annotated[
    Literal["auto", "no", "bf16", "fp16"], BeforeValidator(lambda x: "no" if x is False else x)
]


class TrainConfig(Config):
    """Length, precision and outputs of the training.

    Attributes:
        steps: optimizer steps of the whole run.
        seed: seed of initial weights, data order and noise.
        accumulate: batches per step whose gradients are averaged.
        streams: number of independent data streams, shared out evenly among the processes. The same number
            gives the same samples on any number of processes, at the same global batch. None: one per process
                of the first start.
        ema: decay of the averaged weights, warmed up as (1 + step) / (10 + step). With several, the first
            makes the checkpoint's model and the others are saved beside it as ema-DECAY.
        precision: precision of the forward and backward pass; weights stay float32. "fp16" needs a GPU and
            scales the loss. "auto" is bf16 where the device is fast in it, else "no" (float32).
        compile: compile the repeated blocks with torch.compile.
        recompute: compute the blocks' activations again in the backward pass instead of keeping them: less
            memory, a third more work, the same bits.
        log_every: steps between reports of the loss; the first step is always reported.
        save_every: steps between checkpoints.
        keep: number of the newest checkpoints that are kept.
        keep_every: checkpoints at multiples of this step are kept for ever; 0 for none.
        sample_every: steps between sample sheets; 0 for none.
        validate_every: steps between validation losses, if there is `data.validation`; 0 for none.
        validation_images: number of images that the validation loss is measured on.
        trackers: loggers of accelerate, beside metrics.jsonl. At W&B a resumed run stays one run.
        peak_tflops: peak of one device, for the model FLOP utilisation (mfu). None if it is known or not
            needed.
    """

    steps: int = Field(ge=1)
    seed: int = Field(0, ge=-(2**32), le=2**32)
    accumulate: int = Field(1, ge=1)
    streams: int | None = Field(None, ge=1)
    ema: Decay | Annotated[tuple[Decay, ...], Field(min_length=1)] = 0.9999
    precision: Precision = "auto"
    compile: bool = False
    recompute: bool = False
    log_every: int = Field(50, ge=1)
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
            raise WrongValue("ema", f"{self.decays} names a decay twice")
        return self

    @property
    def decays(self) -> tuple[float, ...]:
        """Decay of each averaged model; the first is the checkpoint's model."""
        return self.ema if isinstance(self.ema, tuple) else (self.ema,)


class DistillConfig(Config):
    """Distillation: the stage learns from a teacher's predictions instead of the data's.

    Attributes:
        teacher: reference of the stage to imitate, in whose shape and from whose weights the student starts.
        steps: the student's sampling steps.
        guidance: scale of classifier-free guidance to distil. None for the teacher's own.
        substeps: teacher's steps of DDIM that one of the student's replaces; 1 distils the guidance only.
    """

    teacher: str
    steps: int = Field(8, ge=1)
    guidance: float | None = Field(None, ge=0, le=100)
    substeps: int = Field(2, ge=1)


def _stage_config(value: Any) -> Any:
    """Parse the block with the config class of its `kind`."""
    if isinstance(value, dict):
        return stage_config(str(value.get("kind"))).model_validate(value)
    return value


class RunConfig(Config):
    """One run. `stage` is what becomes the checkpoint's config.json.

    Attributes:
        name: name of the run's folder, below runs/, if --out is not given.
        clip: reference of the frozen CLIP: mini, a run or folder of the CLIP stage, a model folder or Hub id,
            whose CLIP is taken, openclip:NAME/TAG, hf:NAME. None for stages that need no CLIP.
        init: reference of the stage whose weights a new run starts from: a run, a saved stage, mini/decoder,
            or a model, whose stage of the same role is taken. None for random weights, or for the teacher's.
        stage: the stage to train; its keys depend on its `kind`. With `distill`, the keys in which it differs
            from the teacher.
        distill: the teacher and what to distil. None to learn from the data.
        data: where the samples are and how they are batched.
        optim: optimizer and learning rate.
        train: length, precision, and what is kept.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    clip: str | None = None
    init: str | None = None
    stage: Annotated[SerializeAsAny[StageConfig], BeforeValidator(_stage_config)]
    distill: DistillConfig | None = None
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig

    @classmethod
    def blocks(cls, key: str, value: object) -> list[type[Config]]:
        if key == "stage" and isinstance(value, dict):
            return [stage_config(str(value.get("kind")))]
        return super().blocks(key, value)

    @model_validator(mode="after")
    def _stage_is_trainable(self) -> Self:
        if self.stage.lora is not None and self.init is None:
            raise WrongValue("stage.lora", NEEDS_INIT)
        try:
            self.stage.check_training()
        except WrongValue as error:
            raise WrongValue(f"stage.{error.key}", error.problem) from None
        return self


def read_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's YAML file, with `key.sub=value` overrides.

    With `stage.lora`, keys of `stage` that are left out are those of the stage that `init` names.

    Raises:
        ConfigError: the file or a key is wrong; the message names both.
        CheckpointError: with `stage.lora`, there is no such stage.
    """
    tree = read_yaml(path, overrides)
    if tree.get("distill") is not None:
        from unclip.train.distill import with_student  # imports torch, to read the teacher

        tree = with_student(tree, str(path))
    stage, init = tree.get("stage"), tree.get("init")
    if isinstance(stage, dict) and isinstance(stage.get("lora"), dict):
        parse(LoraConfig, stage["lora"], f"{path}: stage.lora")  # before torch is imported
        if not isinstance(init, str):
            raise ConfigError(f"{path}: stage.lora {NEEDS_INIT}")
        from unclip.train.start import base_config

        tree["stage"] = {**base_config(init, stage), **stage}
    return parse(RunConfig, tree, str(path))
