"""What a call needs to know of a model: its stages, the sizes that it makes, and how presets fit it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from unclip.clip import Clip
from unclip.errors import RequestError
from unclip.pipeline.lora import LoadedLora
from unclip.pipeline.options import SamplingOptions, StageChanges
from unclip.pipeline.presets import EXPERT, WITH_UNDISTILLED, find_preset
from unclip.pipeline.sizes import SizeGrid
from unclip.stages.decoder_base import BaseDecoder
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import EmbeddingPrior
from unclip.stages.upsampler import Upsampler

WITHOUT = {"prior": "so it cannot generate from a prompt", "decoder": "so it cannot make pictures"}


class Model(Protocol):
    """The part of `Pipeline` that a call uses: its stages and its name."""

    prior: EmbeddingPrior | None
    upsamplers: tuple[Upsampler, ...]
    device: torch.device
    dtype: torch.dtype | None
    loras: tuple[LoadedLora, ...]
    name: str

    @property
    def clip(self) -> Clip:
        """The CLIP; RequestError if the model has none."""

    @property
    def decoder(self) -> BaseDecoder:
        """The decoder; RequestError if the model has none."""

    @property
    def stages(self) -> dict[str, EmbeddingPrior | DiffusionStage]:
        """The stages by role, in the order of sampling."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images that the stages make."""

    def undistilled(self) -> Model:
        """The model with the decoder from which its own was distilled; itself if it holds none."""


def size_grid(model: Model) -> SizeGrid:
    """The sizes of the images that a model makes; RequestError if it makes none."""
    stages = model.sizes
    units = {u.size // u.factor: 1 for u in model.upsamplers} | {u.size: u.unit for u in model.upsamplers}
    if "decoder" not in model.stages:
        return SizeGrid(model.name, units, stages)
    units[model.decoder.size] = model.decoder.unit
    return SizeGrid(model.name, units, stages, flexible=model.decoder.flexible and not model.upsamplers)


def beyond_distilled(model: Model, options: SamplingOptions, forced: StageChanges) -> bool:
    """Whether a request asks a distilled decoder for other sampling than that for which it was trained."""
    stage = model.stages.get("decoder")
    if not isinstance(stage, DiffusionStage) or stage.distilled is None:
        return False
    # Verbs that force a sampler invert, or repaint: a student of few steps knows its own walk only.
    if options.negative.strip() or options.preset in WITH_UNDISTILLED or "decoder" in forced:
        return True
    own = stage.config.sampling
    try:
        return own.updated(options.stages.get("decoder", {})) != own
    except RequestError:
        return False  # `Call` refuses it, with the stage's name


def preset_for(model: Model, name: str) -> dict[str, dict[str, Any]]:
    """The preset's changes, adapted to this model.

    Analytic-DPM is replaced by ddpm for a stage without a measured x0 variance. An upsampler with a
    last-step expert has settings of its own, and a distilled stage keeps its steps.
    """
    changes = {role: dict(fields) for role, fields in find_preset(name).items()}
    expert = changes.pop(EXPERT, {})
    for role, stage in model.stages.items():
        analytic = changes.get(role, {}).get("sampler") == "analytic_dpm"
        if analytic and not (
            isinstance(stage, DiffusionStage) and stage.diffusion.schedule.x0_variance is not None
        ):
            changes[role]["sampler"] = "ddpm"
        if isinstance(stage, Upsampler) and stage.expert:
            changes[role] = expert
        elif isinstance(stage, DiffusionStage) and stage.distilled is not None:
            changes.pop(role, None)
    return changes
