"""Read the schedulers of diffusers' latent diffusion models: their process, not their solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unclip.config import parse
from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json
from unclip.models.convert.diffusers_configs import Foreign

# Our sampler for each scheduler, and the timestep spacing and the clamping that its class defaults to.
# DDIM at eta = 0 is Euler's method; 2M stands for the other multistep solvers.
SCHEDULERS: dict[str, tuple[str, str, bool]] = {
    "DDIMScheduler": ("ddim", "leading", True),
    "DDPMScheduler": ("ddpm", "leading", True),
    "PNDMScheduler": ("dpmpp_2m", "leading", False),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "linspace", False),
    "UniPCMultistepScheduler": ("unipc", "linspace", False),
    "EulerDiscreteScheduler": ("ddim", "linspace", False),
}


class Scheduler(Foreign):
    """Fields of the schedulers above. Defaults are diffusers'."""

    num_train_timesteps: int = Field(1000, ge=2)
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"]
    steps_offset: int = Field(0, ge=0)
    clip_sample: bool
    clip_sample_range: float = Field(1.0, gt=0)
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "learned_range"] | None = None
    thresholding: Literal[False] = False
    rescale_betas_zero_snr: Literal[False] = False


def read_schedule(folder: Path) -> tuple[dict[str, Any], str]:
    """The fields of a `DiffusionConfig`, and the name of our sampler.

    Raises:
        CheckpointError: an unknown scheduler, or an unsupported value.
    """
    path = folder / "scheduler_config.json"
    tree = read_json(path)
    kind = str(tree.get("_class_name"))
    if kind not in SCHEDULERS:
        raise CheckpointError(f"{path}: is a {kind}; unclip reads {', '.join(SCHEDULERS)}")
    sampler, spacing, clips = SCHEDULERS[kind]
    try:
        theirs = parse(Scheduler, {"timestep_spacing": spacing, "clip_sample": clips, **tree}, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    cosine = theirs.beta_schedule == "squaredcos_cap_v2"
    # Betas of a config are those of its T; ours are those of T = 1000.
    scale = theirs.num_train_timesteps / 1000
    learned = theirs.variance_type == "learned_range"
    diffusion = {
        "schedule": "cosine" if cosine else theirs.beta_schedule,
        "betas": None if cosine else (theirs.beta_start * scale, theirs.beta_end * scale),
        "spacing": theirs.timestep_spacing,
        "offset": theirs.steps_offset,
        "times": theirs.num_train_timesteps,
        "predict": {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[theirs.prediction_type],
        "variance": "learned" if learned else (theirs.variance_type or "fixed_small").removesuffix("_log"),
        "objective": "hybrid" if learned else "simple",
        "clamp": theirs.clip_sample_range if theirs.clip_sample else None,
    }
    return diffusion, sampler
