"""Samplers: generators that walk from noise to data, one step at a time.

Progress bars, previews, streaming and cancellation are the caller's `for` loop. To add one, write a generator with
this signature under `@sampler`; its name is then known to the command line, the API and every config.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.diffusion import Denoise
from unclip.diffusion.schedule import CLEAN, Schedule
from unclip.errors import RequestError


class Step(NamedTuple):
    """One step taken: the time it left, the new x, and the x0 predicted on the way."""

    t: int
    x: Tensor
    x0: Tensor


NoiseSource = Callable[[Tensor], Tensor]
Sampler = Callable[[Denoise, Tensor, Schedule, Sequence[int], NoiseSource], Iterator[Step]]
SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {}


def sampler(function: Callable[..., Iterator[Step]]) -> Callable[..., Iterator[Step]]:
    """Makes a sampler known by its function's name."""
    SAMPLERS[function.__name__] = function
    return function


def find_sampler(name: str, eta: float = 0.0) -> Sampler:
    """The sampler of that name; `eta` is for those that take one (DDIM)."""
    if name not in SAMPLERS:
        raise RequestError(f"no sampler {name!r}; there are {', '.join(sorted(SAMPLERS))}")
    found = SAMPLERS[name]
    if "eta" in inspect.signature(found).parameters:
        return partial(found, eta=eta)
    if eta:
        raise RequestError(f"sampler {name!r} takes no eta; use ddim")
    return found


@sampler
def ddpm(denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], noise: NoiseSource) -> Iterator[Step]:
    """Ancestral sampling on strided times (Ho et al. 2020, algorithm 2; Nichol & Dhariwal 2021, §4)."""
    for t, s in pairwise([*times, CLEAN]):
        x0, _, spread = denoise(x, t)
        q = schedule.posterior(t, s)
        x = q.x_weight * x + q.x0_weight * x0
        if s != CLEAN:
            small, large = math.log(max(q.small, 1e-20)), math.log(max(q.large, 1e-20))
            log_variance = torch.as_tensor(small + (large - small) * spread, dtype=x.dtype, device=x.device)
            x = x + torch.exp(0.5 * log_variance) * noise(x)
        yield Step(t, x, x0)


@sampler
def ddim(
    denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], noise: NoiseSource, *, eta: float = 0.0
) -> Iterator[Step]:
    """Non-Markovian sampling (Song et al. 2020, eq. 12): deterministic at eta = 0, ancestral with β̃ at eta = 1."""
    for t, s in pairwise([*times, CLEAN]):
        x0, eps, _ = denoise(x, t)
        alpha, sigma = schedule.at(s)
        fresh = eta * math.sqrt(max(schedule.posterior(t, s).small, 0.0))
        x = alpha * x0 + math.sqrt(max(sigma**2 - fresh**2, 0.0)) * eps
        if fresh:
            x = x + fresh * noise(x)
        yield Step(t, x, x0)


@sampler
def dpmpp_2m(
    denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], noise: NoiseSource
) -> Iterator[Step]:
    """DPM-Solver++(2M), the second-order multistep solver in data prediction (Lu et al. 2022, algorithm 2).

    The last step, to the clean end where the log-SNR is infinite, is of first order: x becomes the predicted x0.
    """
    last_x0: Tensor | None = None
    last_h = 0.0
    for t, s in pairwise([*times, CLEAN]):
        x0 = denoise(x, t).x0
        if s == CLEAN:
            x = x0
        else:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
            h = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)
            slope = x0 if last_x0 is None else x0 + (x0 - last_x0) * (h / (2 * last_h))
            x = (sigma_s / sigma_t) * x - alpha_s * math.expm1(-h) * slope
            last_x0, last_h = x0, h
        yield Step(t, x, x0)
