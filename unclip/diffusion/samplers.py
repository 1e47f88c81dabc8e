"""Samplers: generators that walk from noise to data, one step at a time.

Progress bars, previews, streaming and cancellation belong to the caller's `for` loop. To add a sampler, write
a generator with this signature under `@sampler`; the command line, the API and configs then know its name.
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
    """One sampling step: the timestep it started from, the new x, and the predicted x0."""

    t: int
    x: Tensor
    x0: Tensor


NoiseSource = Callable[[Tensor], Tensor]
Sampler = Callable[[Denoise, Tensor, Schedule, Sequence[int], NoiseSource], Iterator[Step]]
SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {}


def sampler(function: Callable[..., Iterator[Step]]) -> Callable[..., Iterator[Step]]:
    """Registers a sampler under the name of its function."""
    SAMPLERS[function.__name__] = function
    return function


def find_sampler(name: str, eta: float = 0.0) -> Sampler:
    """The sampler with the given name; only DDIM takes an `eta`."""
    if name not in SAMPLERS:
        raise RequestError(f"no sampler {name!r}; there are {', '.join(sorted(SAMPLERS))}")
    found = SAMPLERS[name]
    if "eta" in inspect.signature(found).parameters:
        return partial(found, eta=eta)
    if eta:
        raise RequestError(f"sampler {name!r} takes no eta; use ddim")
    return found


@sampler
def ddpm(
    denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], noise: NoiseSource
) -> Iterator[Step]:
    """Ancestral sampling on strided timesteps (Ho et al. 2020, algorithm 2; Nichol & Dhariwal 2021, §4)."""
    for t, s in pairwise([*times, CLEAN]):
        x0, _, variance_mix = denoise(x, t)
        q = schedule.posterior(t, s)
        x = q.x_weight * x + q.x0_weight * x0
        if s != CLEAN:
            small, large = math.log(max(q.small, 1e-20)), math.log(max(q.large, 1e-20))
            log_variance = torch.as_tensor(
                small + (large - small) * variance_mix, dtype=x.dtype, device=x.device
            )
            x = x + torch.exp(0.5 * log_variance) * noise(x)
        yield Step(t, x, x0)


@sampler
def analytic_dpm(
    denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], noise: NoiseSource
) -> Iterator[Step]:
    """Ancestral sampling with the optimal scalar variance (Bao et al. 2022, theorem 1).

    The paper's eq. 8 adds to β̃ a squared weight times (sigma/alpha)² · (1 − sigma² E‖score‖²/D). The weight
    is that of x0 in the posterior's mean; the factor is, by Tweedie's formula, `schedule.x0_variance`.

    Raises:
        RequestError: the stage's x0_variance was not measured.
    """
    if schedule.x0_variance is None:
        raise RequestError(
            "sampler 'analytic_dpm' needs a variance measured on training data, which this stage has not: "
            "`unclip calibrate` measures it, or take ddpm"
        )
    for t, s in pairwise([*times, CLEAN]):
        x0 = denoise(x, t).x0
        q = schedule.posterior(t, s)
        x = q.x_weight * x + q.x0_weight * x0
        if s != CLEAN:
            x = x + math.sqrt(q.small + q.x0_weight**2 * schedule.x0_variance[t].item()) * noise(x)
        yield Step(t, x, x0)


@sampler
def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    times: Sequence[int],
    noise: NoiseSource,
    *,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM (Song et al. 2020, eq. 12): deterministic at eta = 0, ancestral with variance β̃ at eta = 1."""
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

    The last step, where the log-SNR becomes infinite, is of first order: x is the predicted x0.
    """
    last_x0: Tensor | None = None
    last_h = 0.0
    for t, s in pairwise([*times, CLEAN]):
        x0 = denoise(x, t).x0
        if s == CLEAN:
            x = x0
        else:
            (alpha_s, sigma_s), (_, sigma_t), h = schedule.at(s), schedule.at(t), schedule.log_snr_step(t, s)
            slope = x0 if last_x0 is None else x0 + (x0 - last_x0) * (h / (2 * last_h))
            x = (sigma_s / sigma_t) * x - alpha_s * math.expm1(-h) * slope
            last_x0, last_h = x0, h
        yield Step(t, x, x0)


@sampler
def unipc(
    denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int], noise: NoiseSource
) -> Iterator[Step]:
    """UniPC-2 in data prediction, with B(h) = e^h − 1 (Zhao et al. 2023, algorithms 5 and 6).

    Each evaluation first corrects the previous step and then predicts the next one, so a step costs one
    evaluation. The first step, without history, and the last one, to clean data, are of first order.
    """
    last: _Predicted | None = None
    for t, s in pairwise([*times, CLEAN]):
        x0 = denoise(x, t).x0
        if last is not None:
            x = last.corrected(x0)
        if s == CLEAN:
            x = x0
        else:
            (alpha_s, sigma_s), (_, sigma_t), h = schedule.at(s), schedule.at(t), schedule.log_snr_step(t, s)
            weight = -alpha_s * math.expm1(-h)
            first_order = (sigma_s / sigma_t) * x + weight * x0
            slope = None if last is None else (x0 - last.x0) / last.h
            last = _Predicted(first_order, x0, weight, h, slope, 0.0 if last is None else last.h)
            x = first_order if slope is None else first_order + weight * slope * (h / 2)
        yield Step(t, x, x0)


class _Predicted(NamedTuple):
    """A step that UniPC predicted and has yet to correct.

    Attributes:
        first_order: x at its end if x0 were constant over the step.
        x0: the prediction at its start.
        weight: weight of a change in x0.
        h: the step's length in log-SNR.
        slope: slope of x0 over the previous step, of length `h_before`; None for the first step.
    """

    first_order: Tensor
    x0: Tensor
    weight: float
    h: float
    slope: Tensor | None
    h_before: float

    def corrected(self, x0: Tensor) -> Tensor:
        """x at the end of the step, given the x0 predicted there."""
        rise = x0 - self.x0
        if self.slope is None:
            return self.first_order + self.weight * rise / 2
        # The paper's R ρ = b in closed form: exact where x0 is a parabola in the log-SNR.
        grown = -math.expm1(-self.h)
        first = 1 / grown - 1 / self.h
        second = (1 - 2 * (1 - grown / self.h) / self.h) / grown
        old = (first - second) / (1 + self.h_before / self.h)
        return self.first_order + self.weight * (old * self.h * self.slope + (first - old) * rise)
