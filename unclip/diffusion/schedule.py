"""Noise schedules: how much of the picture and how much noise there is at each time.

x_t = alpha_t · x_0 + sigma_t · eps, kept as float64 tables on the CPU: half precision or a meta device would
ruin them, so they are never buffers of a module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.diffusion.gaussian import broadcast_to
from unclip.errors import ConfigError

CLEAN = -1  # the time below t = 0, where alpha = 1 and sigma = 0


def linear_betas(times: int) -> Tensor:
    """1e-4 … 0.02 for T = 1000, scaled to other T so that the end is equally noisy (Ho et al. 2020, §4)."""
    scale = 1000 / times
    return torch.linspace(1e-4 * scale, 0.02 * scale, times, dtype=torch.float64, device="cpu").clamp(
        max=0.999
    )


def cosine_betas(times: int) -> Tensor:
    """The squared-cosine schedule with betas capped at 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    grid = torch.arange(times + 1, dtype=torch.float64, device="cpu") / times
    alpha_bar = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[int], Tensor]] = {"linear": linear_betas, "cosine": cosine_betas}


@dataclass(frozen=True)
class Schedule:
    """alpha and sigma for every time t = 0 … T−1, as float64 tables of shape [T] on the CPU.

    `x0_variance`, where it was measured, is what a model of the data leaves open of them: the mean variance
        of x_0 given x_t, per
    dimension.
    """

    alpha: Tensor
    sigma: Tensor
    x0_variance: Tensor | None = None

    @classmethod
    def named(cls, name: str, times: int = 1000) -> Schedule:
        """The schedule of that name in BETAS."""
        if name not in BETAS:
            raise ConfigError(f"no noise schedule {name!r}; there are {', '.join(BETAS)}")
        alpha_bar = torch.cumprod(1 - BETAS[name](times), dim=0)
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    @property
    def times(self) -> int:
        """T, the number of times."""
        return len(self.alpha)

    def at(self, t: int) -> tuple[float, float]:
        """(alpha_t, sigma_t) as Python floats, so that samplers are exact and need no device."""
        return (1.0, 0.0) if t == CLEAN else (self.alpha[t].item(), self.sigma[t].item())

    def log_snr_step(self, t: int, s: int) -> float:
        """h, by how much log(alpha / sigma) grows from t down to s: the length of a step for solvers of the
        ODE.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        return math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)

    def grid(self, steps: int) -> list[int]:
        """`steps` times from T−1 down to 0, evenly strided as in guided-diffusion and Karlo; one step starts
        at T−1.
        """
        if not 1 <= steps <= self.times:
            raise ConfigError(f"{steps} sampling steps: must be between 1 and {self.times}")
        if steps == 1:
            return [self.times - 1]
        return [round(i * (self.times - 1) / (steps - 1)) for i in reversed(range(steps))]

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) for a batch of times [B], shaped to broadcast over `like` [B, ...]."""
        alpha, sigma = (
            broadcast_to(table[t.cpu()], like, torch.float32) for table in (self.alpha, self.sigma)
        )
        return alpha, sigma

    def posterior(self, t: int, s: int) -> Posterior:
        """q(x_s | x_t, x_0) for two times s < t, strided or adjacent (Ho et al. 2020, eq. 6 and 7)."""
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
    """Mean weights and the two variance bounds of one reverse step: `small` is β̃, `large` is β."""

    x_weight: float
    x0_weight: float
    small: float
    large: float
