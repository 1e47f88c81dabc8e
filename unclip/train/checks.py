"""Checks before the first step of what a run needs only later."""

from __future__ import annotations

import math

import torch
from torch import nn

from unclip.diffusion.samplers import find_sampler
from unclip.errors import ConfigError, RequestError
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.diffusion import DiffusionStage
from unclip.train.config import RunConfig


def check_sampling(stage: Stage, config: RunConfig) -> None:
    """Check the sampler by which sample sheets are drawn and users will sample.

    Raises:
        ConfigError: no such sampler, or it needs what a new stage has not.
    """
    options = stage.config.sampling
    if not isinstance(stage, DiffusionStage):
        return
    try:
        find_sampler(options.sampler, options.eta)
    except RequestError as error:
        raise ConfigError(f"{config.name}: stage.sampling: {error}") from None
    if options.sampler == "analytic_dpm" and stage.diffusion.schedule.x0_variance is None:
        raise ConfigError(
            f"{config.name}: stage.sampling.sampler analytic_dpm needs a trained stage (`unclip calibrate`); "
            "train with another sampler"
        )


@torch.no_grad()
def check_validation(wrapped: nn.Module, batch: Batch, config: RunConfig) -> None:
    """Compute the loss of one validation batch. Every process must call this.

    Raises:
        ConfigError: the loss is not finite.
        DataError: the samples do not fit the stage.
    """
    wrapped.eval()
    loss = wrapped(batch).mean().item()
    wrapped.train()
    if not math.isfinite(loss):
        raise ConfigError(
            f"{config.name}: data.validation {config.data.validation}: the untrained stage's loss is {loss}; "
            "the samples do not fit the stage"
        )
