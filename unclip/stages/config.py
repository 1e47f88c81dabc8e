"""The part of a config that all stages share, and how to read it from a saved stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from unclip.config import Config, WrongValue, parse
from unclip.diffusion.config import DiffusionConfig
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.files import read_json

Share = Annotated[float, Field(ge=0, le=1)]


class SamplingConfig(Config):
    """How a stage is sampled by default; every field can be overridden per request.

    Attributes:
        steps: denoising steps.
        sampler: name of the sampler: ddpm, ddim, dpmpp_2m, unipc, analytic_dpm.
        eta: DDIM's share of fresh noise.
        guidance: scale of classifier-free guidance; 1 is none.
        interval: guide only where low ≤ t/T ≤ high.
        rescale: share by which the guided prediction is rescaled to the standard deviation of the unguided
            one.
        candidates: number of z_i that the prior samples, or of images that the decoder starts; the one nearest
            to the caption's z_t is kept.
        noise_level: noise level s at which an upsampler gets its input l, as √(1 − s²) l + s ε; 0 is none.
            For upsamplers with `noise_level` in their config.
    """

    steps: int = Field(25, ge=1, le=1000)
    sampler: str = "ddpm"
    eta: float = Field(0.0, ge=0, le=1)
    guidance: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    interval: tuple[Share, Share] | None = None
    rescale: float = Field(0.0, ge=0, le=1)
    candidates: int = Field(1, ge=1, le=64)
    noise_level: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _interval_ascends(self) -> Self:
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise WrongValue("interval", f"{list(self.interval)} must be [low, high] with low ≤ high")
        return self

    def updated(self, changes: Mapping[str, Any]) -> SamplingConfig:
        """A copy with some fields changed.

        Raises:
            RequestError: unknown field, or a value out of its range.
        """
        try:
            return type(self).model_validate({**self.model_dump(), **changes})
        except ValueError as error:
            problems: list[Any] = getattr(error, "errors", list)()
            lines = "; ".join(
                f"{'.'.join(map(str, p['loc']))}: {p['msg']}, not {p['input']!r}" for p in problems
            )
            raise RequestError(lines or str(error)) from None


class LoraConfig(Config):
    """Low-rank adaptation of a frozen stage (Hu et al. 2021): W + alpha / rank · B A for each projection W.

    Attributes:
        rank: number of rows of A and of columns of B.
        alpha: numerator of the scale alpha / rank. None for the rank, a scale of 1.
        base: identity of the frozen weights; training fills it in.
    """

    rank: int = Field(ge=1)
    alpha: float | None = Field(None, gt=0)
    base: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _alpha_is_rank(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("alpha") is None:
            return {**value, "alpha": value.get("rank")}
        return value

    @property
    def scaling(self) -> float:
        """The factor of B A."""
        assert self.alpha is not None
        return self.alpha / self.rank


class DistilledConfig(Config):
    """What was distilled into a stage's weights; `unclip distill` fills it in.

    Attributes:
        steps: sampling steps that the stage was trained for.
        guidance: scale of classifier-free guidance that its predictions contain; 1 is none.
    """

    steps: int = Field(ge=1)
    guidance: float = Field(1.0, ge=0)


class StageConfig(Config):
    """The part of a config that all stages share.

    Attributes:
        kind: the stage's module in `unclip.stages`, or the full name of a module.
        clip: identity of the CLIP that the stage is trained with; training fills it in. Stages of different
            CLIPs refuse to work together.
        lora: train a low-rank adapter of the stage that `init` names, and nothing else. Keys of `stage` that
            are left out are that stage's. None to train all weights.
        sampling: how the stage is sampled by default.
    """

    kind: str
    clip: str | None = None
    lora: LoraConfig | None = None
    sampling: SamplingConfig = SamplingConfig()

    def check_training(self) -> None:
        """Check what a saved stage may have, but a stage to train must not.

        Raises:
            WrongValue: the stage cannot be trained, or not be sampled as its config says.
        """


class DiffusionStageConfig(StageConfig):
    """The config fields of every denoising stage.

    Attributes:
        diffusion: the diffusion's schedule, prediction and loss.
        distilled: what was distilled into the weights. None for a stage trained on data.
    """

    diffusion: DiffusionConfig = DiffusionConfig()
    distilled: DistilledConfig | None = None

    def check_training(self) -> None:
        steps, times = self.sampling.steps, self.diffusion.times
        if steps > times:
            raise WrongValue("sampling.steps", f"{steps} is more than diffusion.times, {times}")


C = TypeVar("C", bound=StageConfig)


def parse_checkpoint(kind: type[C], folder: Path, tree: dict[str, Any] | None = None) -> C:
    """The config of a saved stage, from its config.json.

    Args:
        tree: the content of that file, if it is already read.

    Raises:
        CheckpointError: missing or invalid.
    """
    path = folder / "config.json"
    try:
        return parse(kind, read_json(path) if tree is None else tree, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
