"""The start, direction and known part of a sampling walk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from unclip.diffusion.diffusion import Denoise
from unclip.diffusion.inpainting import Known, inpaint
from unclip.diffusion.inversion import invert
from unclip.diffusion.samplers import NoiseSource, Sampler, Step
from unclip.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Trajectory:
    """A walk along a schedule's timesteps. The default goes from pure noise to data.

    Attributes:
        start: x at the first timestep of the walk, [B, ...]. Default: noise.
        known: the part of the data to keep (RePaint).
        repeats: how often each step towards data is taken when a part is known.
        strength: share of the schedule to walk, in (0, 1]. Below 1 the walk takes this share of the steps,
            at least one, evenly from timestep strength · (T − 1) to 0. It starts from the data of `known`,
            noised to that timestep (SDEdit).
        evaluations: evaluations of the network per step of DDIM inversion. Above 0 the walk goes from
            the data `start` to noise.
    """

    start: Tensor | None = None
    known: Known | None = None
    repeats: int = 1
    strength: float = 1.0
    evaluations: int = 0

    def rows(self, rows: slice) -> Trajectory:
        """The walk of some images of a batch. The known part is that of all images."""
        return self if self.start is None else replace(self, start=self.start[rows])

    def length(self, schedule: Schedule, steps: int) -> int:
        """The number of steps that `walk` yields."""
        return len(self._times(schedule, steps)) * (1 if self.known is None else self.repeats)

    def walk(
        self,
        sampler: Sampler,
        denoise: Denoise,
        schedule: Schedule,
        steps: int,
        noise: NoiseSource,
        like: Tensor,
    ) -> Iterator[Step]:
        """Yields the walk's steps.

        Args:
            steps: number of timesteps over the whole schedule.
            like: has the shape, device and dtype of x; its values are ignored.
        """
        times = self._times(schedule, steps)
        x = noise(like) if self.start is None else self.start.to(like)
        if self.evaluations:
            yield from invert(denoise, x, schedule, times, evaluations=self.evaluations)
        elif self.known is None:
            yield from sampler(denoise, x, schedule, times, noise)
        else:
            if self.strength < 1:
                alpha, sigma = schedule.at(times[0])
                x = alpha * self.known.x0 + sigma * x
            yield from inpaint(sampler, denoise, x, schedule, times, noise, self.known, repeats=self.repeats)

    def _times(self, schedule: Schedule, steps: int) -> Sequence[int]:
        times = schedule.grid(steps)
        if self.strength == 1:
            return times
        count, first = max(1, round(self.strength * steps)), self.strength * (schedule.times - 1)
        # Timesteps are distinct: a sampler cannot step from one to itself.
        walked = {round(first - i * first / max(count - 1, 1)) for i in range(count)}
        return sorted(walked, reverse=True)


FROM_NOISE = Trajectory()
