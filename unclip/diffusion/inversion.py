"""DDIM inversion: from an image to the noise that DDIM maps to it (Song et al. 2020, §4.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from unclip.diffusion.diffusion import Denoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.schedule import CLEAN, Schedule


def invert(
    denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], *, evaluations: int = 2
) -> Iterator[Step]:
    """Walks from clean data x up to x_T, so that `ddim` at eta = 0 on the same timesteps leads back to x.

    A DDIM step is x_s = f(x_t). Its inversion solves for x_t by the fixed-point iteration
    x_t ← x_t + (x_s − f(x_t)) / slope from x_t = x_s, where slope approximates ∂f/∂x_t. The first iteration
    is the usual explicit inversion, the next ones remove its error. They converge if the steps are short
    enough: 50 steps suffice without guidance, strong guidance needs more.

    Args:
        times: the sampler's timesteps, from T−1 down.
        evaluations: evaluations of the network per step.
    """
    for t, s in reversed(list(pairwise([*times, CLEAN]))):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        slope = (alpha_s * alpha_t + sigma_s * sigma_t) / (alpha_t**2 + sigma_t**2)
        target = x
        for _ in range(evaluations):
            x0, eps, _ = denoise(x, t)
            x = x + (target - alpha_s * x0 - sigma_s * eps) / slope
        yield Step(t, x, x0)
