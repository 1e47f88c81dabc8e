"""Step distillation: targets for a student whose one DDIM step does what several of its teacher's do.

Progressive distillation (Salimans & Ho 2022, algorithm 2) with any number of teacher's steps in the place of
two, so that one round is enough; the teacher is guided (Meng et al. 2023), so the student needs no guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.diffusion import Cond, Denoise
from unclip.diffusion.samplers import ddim
from unclip.diffusion.schedule import CLEAN, Schedule


class Target(NamedTuple):
    """Data x0 [B, ...] and noise eps [B, ...] that an ordinary loss at timesteps t [B] learns from."""

    x0: Tensor
    t: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Teacher:
    """A frozen denoiser that a student of few steps imitates.

    Attributes:
        denoiser: the guided denoiser for a condition and its null condition (None without guidance).
        schedule: noise schedule of the teacher and the student.
        steps: the student's sampling steps.
        substeps: teacher's steps of DDIM in the place of one of the student's.
    """

    denoiser: Callable[[Cond, Cond | None], Denoise]
    schedule: Schedule
    steps: int
    substeps: int

    @torch.no_grad()
    def target(self, x0: Tensor, eps: Tensor, step: Tensor, cond: Cond, null: Cond | None) -> Target:
        """The target of each example: the same x_t, from the x0 to which the teacher's path leads.

        One DDIM step towards that x0 ends where the teacher does.

        Args:
            x0: data [B, ...]. eps: noise shaped as x0.
            step: number of the student's step, int64 [B] on the CPU.
            cond, null: tensors with the batch first.
        """
        times = self.schedule.grid(self.steps)
        t = torch.tensor(times, device="cpu")[step]
        alpha, sigma = self.schedule.coefficients(t, x0)
        x = alpha * x0 + sigma * eps
        found = torch.empty_like(x)
        for i in step.unique().tolist():
            rows = (step == i).nonzero().flatten().to(x.device)
            denoise = self.denoiser(_rows(cond, rows), None if null is None else _rows(null, rows))
            found[rows] = self._x0(denoise, x[rows], times[i], [*times, CLEAN][i + 1])
        return Target(found, t, (x - alpha * found) / sigma)

    def _x0(self, denoise: Denoise, x: Tensor, t: int, s: int) -> Tensor:
        """The x0 for which one DDIM step from t to s ends where the teacher's substeps do."""
        if s == CLEAN:
            return denoise(x, t).x0
        between = sorted({round(t + i * (s - t) / self.substeps) for i in range(self.substeps)}, reverse=True)
        # The sampler would go on to clean data; only the steps as far as s are taken.
        *_, last = islice(ddim(denoise, x, self.schedule, [*between, s], torch.zeros_like), len(between))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule.at(t), self.schedule.at(s)
        ratio = sigma_s / sigma_t
        return (last.x - ratio * x) / (alpha_s - ratio * alpha_t)


def _rows(cond: Cond, rows: Tensor) -> Cond:
    return {name: value[rows] for name, value in cond.items()}
