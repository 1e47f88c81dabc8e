"""The base of every stage whose network is a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond, Denoise, Diffusion, Guidance
from unclip.diffusion.distillation import Teacher
from unclip.diffusion.noise import ExampleRng, SeededNoise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import RequestError
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.config import DiffusionStageConfig as DiffusionStageConfig
from unclip.stages.config import SamplingConfig


class DiffusionStage(Stage):
    """A stage whose network is a denoiser. Subclasses set `network` and build its condition.

    Attributes:
        walked: prefix of the names of the weights that sampling needs; "" for all.
        in_place: `in_place(prefix)` is a context that is held while weights of that prefix are used; a
            pipeline that offloads weights loads and unloads them in it.
    """

    network: nn.Module
    walked: ClassVar[str] = ""

    def __init__(self, config: DiffusionStageConfig) -> None:
        super().__init__(config)
        self.diffusion, self.distilled = Diffusion(config.diffusion), config.distilled
        self.in_place: Callable[..., AbstractContextManager[None]] = nullcontext
        # What the loss imitates instead of the data; set by a run that distils.
        self.teacher: Teacher | None = None

    def _draw(self, rng: ExampleRng, x0: Tensor) -> tuple[Tensor, Tensor]:
        """A timestep and noise for every example."""
        return rng.integers(self.diffusion.schedule.times), rng.normal(x0)

    def loss(
        self,
        batch: Batch,
        rng: ExampleRng,
        x0: Tensor,
        cond: Cond,
        null: Cond | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """The diffusion's loss of each example, [B], at random timesteps; with a teacher, of its targets.

        Args:
            x0: clean data.
            cond, null: the network's condition, and the null condition of the teacher's guidance.
            keep: see `Diffusion.loss`.
        """
        if self.teacher is None:
            t, eps = self._draw(rng, x0)
        else:
            step, eps = rng.integers(self.teacher.steps), rng.normal(x0)
            x0, t, eps = self.teacher.target(x0, eps, step, cond, null)
        return self.diffusion.loss(self.network, x0, {**cond, **batch.dropout()}, t, eps, keep)

    def check_options(self, options: SamplingConfig) -> None:
        """Checks what this stage alone cannot do.

        Raises:
            RequestError: guidance of a stage that has guidance distilled into its weights.
        """
        if self.distilled is not None and self.distilled.guidance != 1 and options.guidance != 1:
            raise RequestError(
                f"{self.role}: guidance {self.distilled.guidance:g} is distilled into its weights; it cannot be "
                "guided further, so its guidance is always 1"
            )

    def walk(
        self,
        shape: tuple[int, ...],
        cond: Cond,
        null: Cond | None,
        options: SamplingConfig,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
    ) -> Iterator[Step]:
        """Samples x of the given shape; all sampling of a stage goes through this method.

        Args:
            cond, null: the network's condition, and the null condition of guidance.
            noise: for shape[0] examples.
            trajectory: start, direction and known part of the walk.

        Raises:
            RequestError: no such sampler.
            ConfigError: more steps than the schedule has.
        """
        sampler, schedule = find_sampler(options.sampler, options.eta), self.diffusion.schedule
        trajectory.length(schedule, options.steps)  # raises now, not at the first step

        def steps() -> Iterator[Step]:
            with self.in_place(self.walked):
                denoise = self.denoiser(cond, null, options)
                # x is at least float32: in half precision the sum of many small steps drifts.
                dtype = torch.promote_types(next(self.network.parameters()).dtype, torch.float32)
                like = torch.empty(shape, device=self.device, dtype=dtype)
                yield from trajectory.walk(sampler, denoise, schedule, options.steps, noise, like)

        return steps()

    def denoiser(self, cond: Cond, null: Cond | None, options: SamplingConfig) -> Denoise:
        """The guided network as samplers call it: (x_t, t) → Prediction. Call it inside `in_place` only."""
        guidance = Guidance(options.guidance, options.interval, options.rescale)
        return self.diffusion.denoiser(self.network, cond, null, guidance)
