"""Inpainting with a diffusion model that was not trained for it (RePaint; Lugmayr et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.diffusion import Denoise
from unclip.diffusion.samplers import NoiseSource, Sampler, Step
from unclip.diffusion.schedule import CLEAN, Schedule


class Known(NamedTuple):
    """The part to keep: clean data [B, ...], and a mask, True where known, that broadcasts over it."""

    x0: Tensor
    keep: Tensor


def inpaint(
    sampler: Sampler,
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    times: Sequence[int],
    noise: NoiseSource,
    known: Known,
    *,
    repeats: int = 1,
) -> Iterator[Step]:
    """Samples the unknown part so that it matches the known part (algorithm 1).

    After every step the known part is replaced by the given data, noised to the new timestep. The forward
    process then undoes the step and it is repeated, which harmonises both parts.

    Args:
        sampler: takes the single steps.
        x: x at times[0].
        repeats: number of steps from each timestep (U in the paper).

    Yields:
        `repeats` × len(times) steps; the last x contains the known part exactly.
    """
    for t, s in pairwise([*times, CLEAN]):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
        ratio = alpha_t / alpha_s
        for repeat in range(repeats):
            if repeat:
                x = ratio * x + max(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0) ** 0.5 * noise(x)
            step = next(sampler(denoise, x, schedule, [t] if s == CLEAN else [t, s], noise))
            at_s = alpha_s * known.x0 + (sigma_s * noise(x) if sigma_s else 0.0)
            x = torch.where(known.keep, at_s, step.x)
            yield Step(t, x, torch.where(known.keep, known.x0, step.x0))
