"""Noise schedules: the coefficients of x_t = alpha_t · x_0 + sigma_t · eps at each timestep.

They are float64 tables on the CPU, not buffers of a module: half precision or a meta device would ruin them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.diffusion.gaussian import broadcast_to
from unclip.errors import ConfigError

CLEAN = -1  # the timestep before t = 0, with alpha = 1 and sigma = 0


def linear_betas(times: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """β for T = 1000, scaled for other T to the same final noise level (Ho et al. 2020, §4)."""
    scale = 1000 / times
    return torch.linspace(first * scale, last * scale, times, dtype=torch.float64, device="cpu").clamp(
        max=0.999
    )


def scaled_linear_betas(times: int, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """√β is linear in t; scaled for T other than 1000 as `linear_betas` (Rombach et al. 2022)."""
    scale = 1000 / times
    ends = math.sqrt(first * scale), math.sqrt(last * scale)
    return torch.linspace(*ends, times, dtype=torch.float64, device="cpu").square().clamp(max=0.999)


def cosine_betas(times: int) -> Tensor:
    """The squared-cosine schedule with betas capped at 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    grid = torch.arange(times + 1, dtype=torch.float64, device="cpu") / times
    alpha_bar = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[..., Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "scaled_linear": scaled_linear_betas,
}


@dataclass(frozen=True)
class Schedule:
    """alpha and sigma for every timestep t = 0 … T−1, as float64 tables of shape [T] on the CPU.

    Attributes:
        x0_variance: mean variance of x_0 given x_t, per dimension; None if not measured.
        spacing, offset: which timesteps `grid` takes, see `DiffusionConfig`.
    """

    alpha: Tensor
    sigma: Tensor
    x0_variance: Tensor | None = None
    spacing: str = "linspace"
    offset: int = 0

    @classmethod
    def named(cls, name: str, times: int = 1000, ends: tuple[float, float] | None = None) -> Schedule:
        """The schedule with the given name in `BETAS`; `ends` are its first and last β for T = 1000."""
        if name not in BETAS:
            raise ConfigError(f"no noise schedule {name!r}; there are {', '.join(BETAS)}")
        alpha_bar = torch.cumprod(1 - BETAS[name](times, *(ends or ())), dim=0)
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    @property
    def times(self) -> int:
        """T, the number of timesteps."""
        return len(self.alpha)

    def at(self, t: int) -> tuple[float, float]:
        """(alpha_t, sigma_t) as Python floats, so that samplers need no device synchronisation."""
        return (1.0, 0.0) if t == CLEAN else (self.alpha[t].item(), self.sigma[t].item())

    def log_snr_step(self, t: int, s: int) -> float:
        """The increase of log(alpha / sigma) from t down to s: the step size h of ODE solvers."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        return math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)

    def grid(self, steps: int) -> list[int]:
        """`steps` evenly strided timesteps, descending.

        "linspace" is from T−1 to 0 (guided-diffusion, Karlo), and T−1 for one step. "leading" and "trailing"
        are diffusers' spacings, which begin below T−1 and end above 0.
        """
        if not 1 <= steps <= self.times:
            raise ConfigError(f"{steps} sampling steps: must be between 1 and {self.times}")
        if self.spacing == "leading":
            ratio = self.times // steps
            offset = min(self.offset, self.times - 1 - (steps - 1) * ratio)
            return [i * ratio + offset for i in reversed(range(steps))]
        if self.spacing == "trailing":
            return [round(self.times - i * self.times / steps) - 1 for i in range(steps)]
        if steps == 1:
            return [self.times - 1]
        return [round(i * (self.times - 1) / (steps - 1)) for i in reversed(range(steps))]

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) for timesteps [B], shaped to broadcast over `like` [B, ...]."""
        alpha, sigma = (
            broadcast_to(table[t.cpu()], like, torch.float32) for table in (self.alpha, self.sigma)
        )
        return alpha, sigma

    def posterior(self, t: int, s: int) -> Posterior:
        """q(x_s | x_t, x_0) for timesteps s < t, strided or adjacent (Ho et al. 2020, eq. 6 and 7)."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        ratio = alpha_t / alpha_s
        beta = sigma_t**2 - (ratio * sigma_s) ** 2  # the variance of q(x_t | x_s)
        return Posterior(
            x_weight=ratio * sigma_s**2 / sigma_t**2,
            x0_weight=alpha_s * beta / sigma_t**2,
            small=beta * sigma_s**2 / sigma_t**2,
            large=beta,
        )


@dataclass(frozen=True)
class Posterior:
    """The mean weights and variance bounds of one reverse step: `small` is β̃, `large` is β."""

    x_weight: float
    x0_weight: float
    small: float
    large: float
