"""The base of every stage whose network is a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond, Denoise, Diffusion, Guidance
from unclip.diffusion.noise import ExampleRng, SeededNoise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.stages.base import Stage
from unclip.stages.config import SamplingConfig
from unclip.stages.configs import DiffusionStageConfig as DiffusionStageConfig


class DiffusionStage(Stage):
    """A stage whose network is a denoiser. Subclasses set `network` and build its condition."""

    network: nn.Module

    def __init__(self, config: DiffusionStageConfig) -> None:
        super().__init__(config)
        self.diffusion = Diffusion(config.diffusion)
        # A context held while sampling; a pipeline that offloads weights loads and unloads them in it.
        self.in_place: Callable[[], AbstractContextManager[None]] = nullcontext

    def _draw(self, rng: ExampleRng, x0: Tensor) -> tuple[Tensor, Tensor]:
        """A timestep and noise for every example."""
        times, shift = self.diffusion.schedule.times, self.diffusion.config.timestep_shift
        t = rng.integers(times)
        if shift != 1:
            u = t / times
            t = (times * shift * u / (1 + (shift - 1) * u)).long()
        return t, rng.normal(x0)

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
            with self.in_place():
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
