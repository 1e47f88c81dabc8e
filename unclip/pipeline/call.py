"""One call of a pipeline: the stages it runs, the seeds of its images, and where images leave the pipeline,
marked.

Every verb is a few lines on top of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Clip, Text, encode_pictures
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import RequestError
from unclip.images import centre_square, lanczos, on_white, plain, to_pil
from unclip.pipeline.generation import Generation
from unclip.pipeline.masks import resized_mask
from unclip.pipeline.options import SamplingOptions, StageChanges, check_negative
from unclip.pipeline.presets import find_preset
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder import Decoder
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import BasePrior
from unclip.stages.upsampler import Upsampler

LARGEST = 1024  # pixels of a side: DALL·E 2's
TOGETHER = 4 * 256**2  # pixels that an upsampler makes at a time: more are no quicker, and memory stays flat

DEFAULTS = SamplingOptions()
WITHOUT = {"prior": "so it draws nothing from a prompt", "decoder": "so it draws no pictures"}


class Model(Protocol):
    """What a call needs of a pipeline: its stages and its name."""

    prior: BasePrior | None
    upsamplers: tuple[Upsampler, ...]
    device: torch.device
    dtype: torch.dtype | None
    name: str

    @property
    def clip(self) -> Clip:
        """The CLIP; a RequestError where the model has none."""

    @property
    def decoder(self) -> Decoder:
        """The decoder; a RequestError where the model has none."""

    @property
    def stages(self) -> dict[str, BasePrior | DiffusionStage]:
        """The stages that it has by role, in the order of the chain."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels at which a generation can end."""


class Call:
    """One call of a verb.

    Args:
        seeds: one per image.
        options: what the verb was asked for.
        defaults: the verb's own sampling by stage, which presets and options replace.
        forced: the verb's own sampling by stage, which only the options' `stages` replace.
        needs: the stages without which the verb can do nothing: a pipeline may be a stage by itself.

    Raises:
        RequestError: a size, stage or field of its sampling that does not exist.
    """

    def __init__(
        self,
        model: Model,
        seeds: list[int],
        options: SamplingOptions = DEFAULTS,
        *,
        defaults: StageChanges | None = None,
        forced: StageChanges | None = None,
        needs: Sequence[str] = ("decoder",),
    ) -> None:
        self.model, self.seeds, self.options = model, seeds, options
        self.negative = check_negative(options.negative)
        for role in needs:
            if role not in model.stages:
                raise RequestError(f"{model.name}: has no {role}, {WITHOUT[role]}")
        draws = options.size is not None or list(model.stages) != ["prior"]
        self.size = (model.sizes[-1] if draws else 0) if options.size is None else options.size
        if draws and self.size not in (sides := reachable(model)):
            raise RequestError(
                f"size {self.size}: {model.name} makes pictures of {', '.join(map(str, sides))} pixels"
            )
        self.chain = [u for u in model.upsamplers if u.size <= self.size]
        self.seconds: dict[str, float] = {}
        self.sampling = self._sampling(
            [defaults or {}, preset_for(model, options.preset), forced or {}, options.stages]
        )

    def _sampling(self, layers: Sequence[StageChanges]) -> dict[str, SamplingConfig]:
        """The sampling of each stage that runs: its own, changed layer by layer."""
        stages = self.model.stages
        for role in layers[-1]:
            if role not in stages:
                raise RequestError(f"options for {role!r}: the stages are {', '.join(stages)}")
        chosen = {}
        beyond = {f"upsampler-{u.size}" for u in self.model.upsamplers if u not in self.chain}
        for role in (role for role in stages if role not in beyond):
            changes = {name: value for layer in layers for name, value in layer.get(role, {}).items()}
            try:
                chosen[role] = stages[role].config.sampling.updated(changes)
            except RequestError as error:
                raise RequestError(f"{role}: {error}") from None
            find_sampler(chosen[role].sampler, chosen[role].eta)
            if role.startswith("upsampler") and chosen[role].guidance != 1:
                raise RequestError(f"{role}: has no condition to guide by; its guidance is always 1")
        return chosen

    def encode(self, captions: Sequence[str]) -> tuple[Text, Text]:
        """Captions and what guidance leads away from, encoded as one batch so that both have one length."""
        with self.timed("clip"):
            both = self.model.clip.encode_text([*captions, self.negative])
        return both.rows(None, -1), both.rows(-1, None).repeat(len(captions))

    def encode_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """z_i [N, D] of whole pictures of any sizes; each is encoded by itself, so that none depends on the
        others.
        """
        whole = [on_white(plain(one)) for one in pictures]
        with self.timed("clip"):
            return torch.cat([encode_pictures(self.model.clip, [one]) for one in whole]).float()

    def noise(self, role: str) -> SeededNoise:
        """The noise of a stage, image by image."""
        return SeededNoise(self.seeds, role)

    def run(self, role: str, steps: Iterator[Step], total: int) -> Tensor:
        """Takes all of a stage's steps; `total` is their number."""
        with self.timed(role):
            for number, step in enumerate(steps, start=1):
                if self.options.on_step:
                    self.options.on_step(role, number, total, step)
        return step.x

    def sample_prior(self, text: Text, null: Text) -> Tensor:
        """z_i [B, D] of the captions, by the prior.

        Raises:
            RequestError: the model has none.
        """
        prior = self.model.prior
        if prior is None:
            raise RequestError(f"{self.model.name}: has no prior, {WITHOUT['prior']}")
        used = self.sampling["prior"]
        return self.run("prior", prior.sample(text, null, used, self.noise("prior")), prior.length(used))

    def decode(
        self,
        z_i: Tensor,
        text: Text,
        null: Text,
        trajectory: Trajectory = FROM_NOISE,
        *,
        name: str = "decoder",
    ) -> Tensor:
        """What the decoder's walk ends in, [B, 3, h, h]: pictures, or for an inversion x_T.

        Args:
            name: of the walk, for `on_step` and the seconds.
        """
        decoder, used = self.model.decoder, self.sampling["decoder"]
        steps = decoder.sample(z_i, text, null, used, self.noise("decoder"), trajectory)
        return self.run(name, steps, trajectory.length(decoder.diffusion.schedule, used.steps))

    def upsample(
        self, x: Tensor, trajectory_at: Callable[[int], Trajectory] = lambda side: FROM_NOISE
    ) -> dict[int, Tensor]:
        """The pictures [B, 3, h, h] and those of every upsampler up to `size`, by side in pixels, in [−1, 1].

        Args:
            trajectory_at: the walk to pictures of a side; it must fit any number of pictures.
        """
        made = {x.shape[-1]: x.clamp(-1, 1)}
        for upsampler in self.chain:
            role, low, trajectory = (
                f"upsampler-{upsampler.size}",
                made[x.shape[-1]],
                trajectory_at(upsampler.size),
            )
            used, few = self.sampling[role], max(1, TOGETHER // upsampler.size**2)
            total = trajectory.length(upsampler.diffusion.schedule, used.steps)
            parts = []
            for i in range(0, len(low), few):
                noise = SeededNoise(self.seeds[i : i + few], role)
                steps = upsampler.sample(low[i : i + few], used, noise, trajectory=trajectory)
                parts.append(self.run(role, steps, total))
            x = torch.cat(parts)
            made[upsampler.size] = x.clamp(-1, 1)
        return made

    def finish(
        self,
        made: Mapping[int, Tensor],
        z_i: Tensor,
        asked: Sequence[Mapping[str, Any]],
        painted: Tensor | None = None,
    ) -> Generation:
        """The images with their settings, watermarked unless the options say no. All images leave a pipeline
        here.

        Args:
            made: pictures [B, 3, H, W] by side in pixels.
            asked: the verb and its arguments, for the settings, per image.
            painted: True where the model painted, [H, W] of the largest; all other pixels stay bit for bit.
        """
        if self.size not in made:
            made = {**made, self.size: lanczos(made[max(made)], self.size)}
        images = self._images(made[self.size], painted)
        kept = [side for side in made if side != self.size] if self.options.keep_stages else []
        where = {side: None if painted is None else resized_mask(painted, side) for side in kept}
        stages = {side: self._images(made[side], where[side]) for side in kept}
        settings = self._settings(asked)
        for image, how in zip(images, settings, strict=True):
            image.info["unclip"] = how
        return Generation(images, self.seeds, settings, self.seconds, z_i, stages, painted)

    def _images(self, batch: Tensor, painted: Tensor | None) -> list[Image.Image]:
        return [to_pil(one, marked=self.options.watermark, painted=painted) for one in batch]

    def _settings(self, asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """How each image was made, as written into its file."""
        last = self.model.sizes[-1]
        beyond: dict[str, Any] = {"lanczos_from": last} if self.size > last else {}
        if self.model.dtype not in (None, torch.float32):
            beyond["dtype"] = str(self.model.dtype).removeprefix("torch.")
        used = {
            role: self.sampling[role].model_dump(mode="json")
            for role in self.seconds
            if role in self.sampling
        }
        return [
            {**one, "seed": seed, "model": self.model.name, "size": self.size, **beyond, "stages": used}
            for one, seed in zip(asked, self.seeds, strict=True)
        ]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds what passes inside to the seconds of that name."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def reachable(model: Model) -> tuple[int, ...]:
    """Sides in pixels that can be asked for: those of the stages, and 1024 where a model ends at a quarter of
    it.

    Those last pixels are Lanczos's: on photographs an upsampler that was not trained on any does worse
    (docs/how-to/karlo.md).
    """
    sides = model.sizes
    return (*sides, LARGEST) if sides[-1] < LARGEST <= 4 * sides[-1] else sides


def middle_square(picture: Image.Image) -> Image.Image:
    """The middle square of a picture: RGB, on white, turned as its EXIF says."""
    return centre_square(on_white(plain(picture)))


def preset_for(model: Model, name: str) -> dict[str, dict[str, Any]]:
    """The preset as this model can follow it.

    Analytic-DPM becomes plain ancestral sampling where the variance was never measured, and an upsampler with
    an expert for its last step keeps its own steps.
    """
    changes = {role: dict(fields) for role, fields in find_preset(name).items()}
    for role, stage in model.stages.items():
        analytic = changes.get(role, {}).get("sampler") == "analytic_dpm"
        if analytic and not (
            isinstance(stage, DiffusionStage) and stage.diffusion.schedule.x0_variance is not None
        ):
            changes[role]["sampler"] = "ddpm"
        if isinstance(stage, Upsampler) and stage.expert:
            changes.pop(role, None)
    return changes
