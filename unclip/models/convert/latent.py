"""Read what decoders over latents share from diffusers' folders: U-Net, autoencoder and scheduler."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from unclip import files
from unclip.config import parse
from unclip.errors import CheckpointError, ConfigError
from unclip.models.convert.diffusers_configs import Foreign
from unclip.models.convert.weights import read_component
from unclip.stages.latent_configs import AUTOENCODERS

# Names of attention's weights in autoencoders that diffusers saved before version 0.17.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Scheduler(Foreign):
    """The diffusion process in the config of any of diffusers' schedulers for discrete timesteps."""

    num_train_timesteps: int = Field(1000, ge=2)
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: None = None
    rescale_betas_zero_snr: Literal[False] = False
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    variance_type: str | None = "fixed_small"
    clip_sample: bool | None = None
    clip_sample_range: float = Field(1.0, gt=0)
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, gt=0, le=1)
    sample_max_value: float = Field(1.0, ge=1)
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    steps_offset: int = Field(0, ge=0)


def read_diffusion(folder: Path, *, learned: bool, parity: bool = False) -> dict[str, Any]:
    """Our diffusion config of a scheduler's folder.

    Args:
        learned: whether the network predicts the variance. diffusers drops it where the scheduler has no use.
        parity: take the scheduler's spacing of timesteps. Otherwise they reach from T − 1 to 0: diffusers'
            default leaves out the noisiest ones.

    Raises:
        CheckpointError: missing, or a diffusion process that unclip has not.
    """
    path = folder / "scheduler_config.json"
    tree = files.read_json(path)
    try:
        theirs = parse(Scheduler, tree, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if learned:
        variance, objective = "learned", "hybrid"
    else:
        variance = "fixed_large" if str(theirs.variance_type).startswith("fixed_large") else "fixed_small"
        objective = "simple"
    # The default of the two schedulers that can clip.
    clips = tree.get("_class_name") in ("DDPMScheduler", "DDIMScheduler")
    clips = clips if theirs.clip_sample is None else theirs.clip_sample
    cosine = theirs.beta_schedule == "squaredcos_cap_v2"
    dynamic = theirs.dynamic_thresholding_ratio, theirs.sample_max_value
    return {
        "schedule": "cosine" if cosine else theirs.beta_schedule,
        "betas": None if cosine else (theirs.beta_start, theirs.beta_end),
        "spacing": theirs.timestep_spacing if parity else "linspace",
        "offset": theirs.steps_offset if parity else 0,
        "times": theirs.num_train_timesteps,
        "predict": {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[theirs.prediction_type],
        "variance": variance,
        "objective": objective,
        "clamp": theirs.clip_sample_range if clips else None,
        "threshold": dynamic if theirs.thresholding else None,
    }


def read_module(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """The config of one of diffusers' modules, as its class is built from it.

    Raises:
        CheckpointError: missing, or another class.
    """
    tree = files.read_json(folder / "config.json")
    found = tree.get("_class_name")
    if found not in classes:
        raise CheckpointError(
            f"{folder}: is a {found or 'module of no named class'}, not a {' or '.join(classes)}"
        )
    return {key: value for key, value in tree.items() if not key.startswith("_") or key == "_class_name"}


def read_unet(folder: Path) -> dict[str, Any]:
    """The config of a UNet2DConditionModel; see `read_module`."""
    return read_module(folder, ("UNet2DConditionModel",))


def read_autoencoder(folder: Path) -> dict[str, Any]:
    """The config of an autoencoder; see `read_module`."""
    return read_module(folder, AUTOENCODERS)


def read_networks(unet: Path, autoencoder: Path) -> dict[str, Tensor]:
    """The weights of both networks, named as in the stage's state dict."""
    found = {f"network.unet.{name}": tensor for name, tensor in read_component(unet).items()}
    for name, tensor in read_component(autoencoder).items():
        new = re.sub(
            r"(attentions\.\d+\.)(query|key|value|proj_attn)\b", lambda m: m[1] + OLD_NAMES[m[2]], name
        )
        found[f"autoencoder.{new}"] = tensor
    return found
