"""The way back: from a picture to the noise that DDIM would have made it of (Song et al. 2020, §4.3)."""

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
    """Walks from clean data x up to x_T, so that `ddim` at eta = 0 on the same times leads back to x.

    A step of DDIM is x_s = f(x_t); going back means to solve it for x_t. Each evaluation of the network is
    one round of x_t ← x_t + (x_s − f(x_t)) / gain, from x_t = x_s, where `gain` is how much of x_t a step
    keeps: the first round is the usual explicit inversion, the next ones remove its error. They converge
        wherever the steps are short
    enough for the network (50 are; a strong guidance wants more).

    Args:
        times: the sampler's, from T−1 down.
        evaluations: of the network per step.
    """
    for t, s in reversed(list(pairwise([*times, CLEAN]))):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        gain = (alpha_s * alpha_t + sigma_s * sigma_t) / (alpha_t**2 + sigma_t**2)
        target = x
        for _ in range(evaluations):
            x0, eps, _ = denoise(x, t)
            x = x + (target - alpha_s * x0 - sigma_s * eps) / gain
        yield Step(t, x, x0)
