"""One call of a pipeline: its stages' sampling, the seeds, and the watermarked output images.

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
from unclip.pipeline.presets import WITH_UNDISTILLED, find_preset
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder import Decoder
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import BasePrior
from unclip.stages.upsampler import Upsampler

LARGEST = 1024  # side in pixels of DALL·E 2's images
TOGETHER = 4 * 256**2  # pixels per batch of a stage: larger batches are no faster and need more memory

DEFAULTS = SamplingOptions()
WITHOUT = {"prior": "so it cannot generate from a prompt", "decoder": "so it cannot make pictures"}


class Model(Protocol):
    """The part of `Pipeline` that a call uses: its stages and its name."""

    prior: BasePrior | None
    upsamplers: tuple[Upsampler, ...]
    device: torch.device
    dtype: torch.dtype | None
    name: str

    @property
    def clip(self) -> Clip:
        """The CLIP; RequestError if the model has none."""

    @property
    def decoder(self) -> Decoder:
        """The decoder; RequestError if the model has none."""

    @property
    def stages(self) -> dict[str, BasePrior | DiffusionStage]:
        """The stages by role, in the order of sampling."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images that the stages make."""

    def undistilled(self) -> Model:
        """The model with the decoder from which its own was distilled; itself if it holds none."""


class Call:
    """One call of a verb.

    Args:
        seeds: one per image.
        options: the user's options.
        defaults: the verb's sampling defaults by stage; presets and options override them.
        forced: the verb's sampling settings by stage; only the options' `stages` override them.
        needs: roles of the stages that the verb requires; a pipeline may consist of one stage.

    Raises:
        RequestError: a required stage is missing, or an unknown size, stage or sampling field.
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
        self.negative = check_negative(options.negative)
        if _beyond_distilled(model, options, forced or {}):
            model = model.undistilled()
        self.model, self.seeds, self.options = model, seeds, options
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
        """Each running stage's sampling config, with the layers of changes applied in order."""
        stages = self.model.stages
        for role in layers[-1]:
            if role not in stages:
                raise RequestError(f"options for {role!r}: the stages are {', '.join(stages)}")
        chosen = {}
        unused = {f"upsampler-{u.size}" for u in self.model.upsamplers if u not in self.chain}
        for role in (role for role in stages if role not in unused):
            changes = {name: value for layer in layers for name, value in layer.get(role, {}).items()}
            try:
                chosen[role] = stages[role].config.sampling.updated(changes)
            except RequestError as error:
                raise RequestError(f"{role}: {error}") from None
            find_sampler(chosen[role].sampler, chosen[role].eta)
        for role, used in chosen.items():
            if isinstance(stage := stages[role], DiffusionStage):
                stage.check_options(used)
                if self.negative and stage.distilled is not None and stage.distilled.guidance != 1:
                    raise RequestError(
                        f"{role}: guidance is distilled into its weights, so it takes no negative prompt"
                    )
        return chosen

    def encode(self, captions: Sequence[str]) -> tuple[Text, Text]:
        """The captions and the null text, encoded as one batch so that both have the same length."""
        with self.timed("clip"):
            both = self.model.clip.encode_text([*captions, self.negative])
        return both.rows(None, -1), both.rows(-1, None).repeat(len(captions))

    def encode_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """z_i [N, D] of pictures of any size, encoded one by one so that none depends on its batch."""
        opaque = [on_white(plain(one)) for one in pictures]
        with self.timed("clip"):
            return torch.cat([encode_pictures(self.model.clip, [one]) for one in opaque]).float()

    def noise(self, role: str) -> SeededNoise:
        """The seeded noise of a stage, one seed per image."""
        return SeededNoise(self.seeds, role)

    def run(self, role: str, steps: Iterator[Step], total: int) -> Tensor:
        """Run all `total` steps of a stage and return the last step's x."""
        with self.timed(role):
            for number, step in enumerate(steps, start=1):
                if self.options.on_step:
                    self.options.on_step(role, number, total, step)
        return step.x

    def sample_prior(self, text: Text, null: Text) -> Tensor:
        """Sample z_i [B, D] of the captions from the prior.

        Raises:
            RequestError: the model has no prior.
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
        """Run the decoder along a trajectory to its end [B, 3, h, h]: pictures, or x_T of an inversion.

        Args:
            name: label for `on_step` and the timings.
        """
        decoder, used = self.model.decoder, self.sampling["decoder"]
        total = trajectory.length(decoder.diffusion.schedule, used.steps)
        batch, parts = max(1, TOGETHER // decoder.size**2), []
        for i in range(0, len(z_i), batch):
            rows = slice(i, i + batch)
            noise = SeededNoise(self.seeds[rows], "decoder")
            texts = text.rows(i, i + batch), null.rows(i, i + batch)
            steps = decoder.sample(z_i[rows], *texts, used, noise, trajectory.rows(rows))
            parts.append(self.run(name, steps, total))
        return torch.cat(parts)

    def upsample(
        self, x: Tensor, trajectory_at: Callable[[int], Trajectory] = lambda side: FROM_NOISE
    ) -> dict[int, Tensor]:
        """Upsample x [B, 3, h, h] up to `size`; returns every resolution by its side in pixels, in [−1, 1].

        Args:
            trajectory_at: the trajectory for images of a given side; must fit any batch size.
        """
        made = {x.shape[-1]: x.clamp(-1, 1)}
        for upsampler in self.chain:
            role, low = f"upsampler-{upsampler.size}", made[x.shape[-1]]
            trajectory, used = trajectory_at(upsampler.size), self.sampling[role]
            total = trajectory.length(upsampler.diffusion.schedule, used.steps)
            batch = max(1, TOGETHER // upsampler.size**2)
            parts = []
            for i in range(0, len(low), batch):
                noise = SeededNoise(self.seeds[i : i + batch], role)
                steps = upsampler.sample(low[i : i + batch], used, noise, trajectory=trajectory)
                parts.append(self.run(role, steps, total))
            x = torch.cat(parts)
            made[upsampler.size] = x.clamp(-1, 1)
        return made

    def finish(
        self,
        made: Mapping[int, Tensor],
        z_i: Tensor,
        arguments: Sequence[Mapping[str, Any]],
        painted: Tensor | None = None,
    ) -> Generation:
        """The verb's result: images with their settings, watermarked unless disabled.

        This is the only place where images leave a pipeline.

        Args:
            made: pictures [B, 3, H, W] by side in pixels.
            arguments: the verb and its arguments, one per image, for the settings.
            painted: True where the model painted, [H, W] of the largest; all other pixels stay bit for bit.
        """
        if self.size not in made:
            made = {**made, self.size: lanczos(made[max(made)], self.size)}
        images = self._images(made[self.size], painted)
        kept = [side for side in made if side != self.size] if self.options.keep_stages else []
        masks = {side: None if painted is None else resized_mask(painted, side) for side in kept}
        stages = {side: self._images(made[side], masks[side]) for side in kept}
        settings = self._settings(arguments)
        for image, own in zip(images, settings, strict=True):
            image.info["unclip"] = own
        return Generation(images, self.seeds, settings, self.seconds, z_i, stages, painted)

    def _images(self, batch: Tensor, painted: Tensor | None) -> list[Image.Image]:
        return [to_pil(one, marked=self.options.watermark, painted=painted) for one in batch]

    def _settings(self, arguments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The settings that reproduce each image, as written into its file."""
        last = self.model.sizes[-1]
        extra: dict[str, Any] = {"lanczos_from": last} if self.size > last else {}
        if self.negative:
            extra["negative"] = self.negative
        if self.model.dtype not in (None, torch.float32):
            extra["dtype"] = str(self.model.dtype).removeprefix("torch.")
        used = {
            role: self.sampling[role].model_dump(mode="json")
            for role in self.seconds
            if role in self.sampling
        }
        return [
            {**one, "seed": seed, "model": self.model.name, "size": self.size, **extra, "stages": used}
            for one, seed in zip(arguments, self.seeds, strict=True)
        ]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[name]`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def reachable(model: Model) -> tuple[int, ...]:
    """Sides in pixels that a request may name: those of the stages, and 1024 for a model that ends at 256.

    The step to 1024 is Lanczos resampling: it is better on photographs than an upsampler that was not
    trained on any (docs/how-to/karlo.md).
    """
    sides = model.sizes
    return (*sides, LARGEST) if sides[-1] < LARGEST <= 4 * sides[-1] else sides


def _beyond_distilled(model: Model, options: SamplingOptions, forced: StageChanges) -> bool:
    """Whether a request asks a distilled decoder for other sampling than that for which it was trained."""
    stage = model.stages.get("decoder")
    if not isinstance(stage, Decoder) or stage.distilled is None:
        return False
    # Verbs that force a sampler invert, or repaint: a student of few steps knows its own walk only.
    if options.negative.strip() or options.preset in WITH_UNDISTILLED or "decoder" in forced:
        return True
    own = stage.config.sampling
    try:
        return own.updated(options.stages.get("decoder", {})) != own
    except RequestError:
        return False  # `Call` refuses it, with the stage's name


def middle_square(picture: Image.Image) -> Image.Image:
    """The middle square of a picture: RGB, on white, rotated as its EXIF says."""
    return centre_square(on_white(plain(picture)))


def preset_for(model: Model, name: str) -> dict[str, dict[str, Any]]:
    """The preset's changes, adapted to this model.

    Analytic-DPM is replaced by ddpm for a stage without a measured x0 variance. An upsampler with a
    last-step expert and a distilled stage keep their own steps.
    """
    changes = {role: dict(fields) for role, fields in find_preset(name).items()}
    for role, stage in model.stages.items():
        analytic = changes.get(role, {}).get("sampler") == "analytic_dpm"
        if analytic and not (
            isinstance(stage, DiffusionStage) and stage.diffusion.schedule.x0_variance is not None
        ):
            changes[role]["sampler"] = "ddpm"
        expert = isinstance(stage, Upsampler) and stage.expert
        if expert or (isinstance(stage, DiffusionStage) and stage.distilled is not None):
            changes.pop(role, None)
    return changes
