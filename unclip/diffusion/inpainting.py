"""Filling in a part of something known, with a diffusion that was never trained for it (RePaint; Lugmayr et
al. 2022).
"""

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
    """What is to be kept: clean data [B, ...], and True where it is known (shaped to broadcast over it)."""

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
    """Samples what is not known, so that it goes with what is.

    After every step the known part is put in, noised to that time. The unknown part has not seen it yet, so
    the step is taken back (by the forward process) and repeated: with every repeat both agree better
    (algorithm 1 of the paper, where `repeats` is U).

    Args:
        sampler: takes the single steps.
        x: at times[0].
        repeats: steps taken from each time.

    Yields:
        `repeats` × len(times) steps; the last x has the known part as it was given.
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
