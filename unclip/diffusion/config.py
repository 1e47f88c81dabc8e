"""Configuration of a diffusion process. This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from unclip.config import Config

SCHEDULES = ("linear", "cosine")  # names in `schedule.BETAS`


class DiffusionConfig(Config):
    """Configuration of a diffusion process.

    Attributes:
        schedule: name of the noise schedule, a key of `BETAS`: linear, cosine ….
        times: number of timesteps T.
        predict: what the network predicts: the noise ε, the clean x0, or v.
        variance: variance of the reverse step: the posterior's β̃ ("fixed_small"), the forward step's β
            ("fixed_large"), or learned between the two.
        objective: L_simple (eq. 14 of Ho et al. 2020), L_vlb (eq. 5), or their hybrid for learned variances.
        weight: weight of L_simple by timestep: "min_snr", min(SNR, gamma) on the error of x0 (Hang et al.
            2023), or "p2", 1 / (1 + SNR)^gamma on the error of ε (Choi et al. 2022), for any prediction.
        gamma: exponent or bound of that weight. None for the papers' 5 (min_snr) and 1 (p2).
        timestep_shift: factor s by which training favours high noise: a uniform u in [0, 1) becomes
            t/T = s u / (1 + (s − 1) u) (Esser et al. 2024, §5.3.2). 1 leaves timesteps uniform.
        clamp: bound on |x0| while sampling; None for no bound.
        levels: number of pixel levels, evenly spaced from −1 to 1, for bits per dimension.
        x0_variance: mean variance of x0 given x_t, measured on training data at evenly spaced timesteps from
            0 to T − 1, for the sampler `analytic_dpm`. None if not measured.
    """

    schedule: str = "cosine"
    times: int = Field(1000, ge=2, le=100_000)
    predict: Literal["eps", "x0", "v"] = "eps"
    variance: Literal["fixed_small", "fixed_large", "learned"] = "fixed_small"
    objective: Literal["simple", "vlb", "hybrid"] = "simple"
    weight: Literal["none", "min_snr", "p2"] = "none"
    gamma: float | None = Field(None, gt=0)
    timestep_shift: float = Field(1.0, gt=0, allow_inf_nan=False)
    clamp: float | None = Field(1.0, gt=0)
    levels: int = Field(256, ge=2)
    x0_variance: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = Field(
        None, min_length=2
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, tree: Any) -> Any:
        """Reads version 0.1.0's name of `x0_variance`."""
        if isinstance(tree, dict) and "doubt" in tree:
            tree = {"x0_variance" if key == "doubt" else key: value for key, value in tree.items()}
        return tree

    @field_validator("schedule")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEDULES:
            raise ValueError(f"no noise schedule {name!r}; there are {', '.join(SCHEDULES)}")
        return name
