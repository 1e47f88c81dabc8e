"""Configuration of a diffusion process. This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from unclip.config import Config, WrongValue

SCHEDULES = ("linear", "cosine", "scaled_linear")  # names in `schedule.BETAS`
Beta = Annotated[float, Field(gt=0, lt=1)]


class DiffusionConfig(Config):
    """Configuration of a diffusion process.

    Attributes:
        schedule: name of the noise schedule, a key of `BETAS`: linear, cosine, or scaled_linear, whose √β is
            linear (latent diffusion).
        betas: first and last β of a linear or scaled_linear schedule. None for the schedule's own.
        spacing: how sampling steps are spread over the timesteps: "linspace", from T − 1 to 0, or diffusers'
            "leading" or "trailing", which leave out the last or the first ones.
        offset: timesteps added to those of "leading" (diffusers' `steps_offset`).
        times: number of timesteps T.
        predict: what the network predicts: the noise ε, the clean x0, or v.
        variance: variance of the reverse step: the posterior's β̃ ("fixed_small"), the forward step's β
            ("fixed_large"), or learned between the two.
        objective: L_simple (eq. 14 of Ho et al. 2020), L_vlb (eq. 5), or their hybrid for learned variances.
        weight: weight of L_simple by timestep: "min_snr", min(SNR, gamma) on the error of x0 (Hang et al.
            2023), or "p2", 1 / (1 + SNR)^gamma on the error of ε (Choi et al. 2022), for any prediction.
        gamma: exponent or bound of that weight. None for the papers' 5 (min_snr) and 1 (p2).
        clamp: bound on |x0| while sampling; None for no bound.
        threshold: dynamic thresholding of x0 in place of the clamp, as (quantile, largest): x0 is clamped to
            that quantile s of its |x0|, with 1 ≤ s ≤ largest, and divided by s (Saharia et al. 2022, §2.3).
            None for none.
        levels: number of pixel levels, evenly spaced from −1 to 1, for bits per dimension.
        x0_variance: mean variance of x0 given x_t, measured on training data at evenly spaced timesteps from
            0 to T − 1, for the sampler `analytic_dpm`. None if not measured.
    """

    dropped_keys: ClassVar[dict[str, float]] = {"contrast": 0, "timestep_shift": 1}

    schedule: str = "cosine"
    betas: tuple[Beta, Beta] | None = None
    spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    offset: int = Field(0, ge=0)
    times: int = Field(1000, ge=2, le=100_000)
    predict: Literal["eps", "x0", "v"] = "eps"
    variance: Literal["fixed_small", "fixed_large", "learned"] = "fixed_small"
    objective: Literal["simple", "vlb", "hybrid"] = "simple"
    weight: Literal["none", "min_snr", "p2"] = "none"
    gamma: float | None = Field(None, gt=0)
    clamp: float | None = Field(1.0, gt=0)
    threshold: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(ge=1)]] | None = None
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

    @model_validator(mode="after")
    def _betas_of_a_linear_schedule(self) -> Self:
        if self.betas is not None and self.schedule == "cosine":
            raise WrongValue(
                "betas", "are of a linear or scaled_linear schedule; the cosine schedule has none"
            )
        return self
