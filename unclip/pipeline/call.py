"""One call of a pipeline: its stages' sampling, the seeds, and the watermarked output images.

Every verb is a few lines on top of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Text, encode_pictures
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import RequestError
from unclip.images import centre_crop, lanczos, on_white, plain, to_pil
from unclip.pipeline.candidates import nearest
from unclip.pipeline.generation import Generation
from unclip.pipeline.masks import resized_mask
from unclip.pipeline.model import WITHOUT, Model, beyond_distilled, preset_for, size_grid
from unclip.pipeline.options import SamplingOptions, StageChanges, check_negative
from unclip.pipeline.sizes import Size, parse_size
from unclip.stages.config import SamplingConfig
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import BasePrior

TOGETHER = 4 * 256**2  # pixels per batch of a stage: larger batches are no faster and need more memory

DEFAULTS = SamplingOptions()


class Call:
    """One call of a verb.

    Args:
        seeds: one per image.
        options: the user's options.
        defaults: the verb's sampling defaults by stage; presets and options override them.
        forced: the verb's sampling settings by stage; only the options' `stages` override them.
        needs: roles of the stages that the verb requires; a pipeline may consist of one stage.

    Attributes:
        size: of the images.
        side: nominal side of the stage that they belong to (see `SizeGrid`): their key in `made`.

    Raises:
        RequestError: a required stage is missing, an unknown size, stage or sampling field, or candidates of a
            decoder with a CLIP that reads no pictures.
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
        if beyond_distilled(model, options, forced or {}):
            model = model.undistilled()
        self.model, self.seeds, self.options = model, seeds, options
        for role in needs:
            if role not in model.stages:
                raise RequestError(f"{model.name}: has no {role}, {WITHOUT[role]}")
        self.size, self.side = Size(0, 0), 0
        if options.size is not None or list(model.stages) != ["prior"]:
            self._grid = size_grid(model)
            self.size = parse_size(self._grid.stages[-1] if options.size is None else options.size)
            self.side = self._grid.check(self.size)
        self.chain = [u for u in model.upsamplers if u.size <= self.side]
        self.seconds: dict[str, float] = {}
        self._negative_embed: Tensor | None = None
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
            if role == "decoder" and chosen[role].candidates > 1:
                _ = self.model.clip.preprocess  # a CLIP that reads no pictures cannot choose one
        for role, used in chosen.items():
            if isinstance(stage := stages[role], DiffusionStage):
                stage.check_options(used)
                if self.negative and stage.distilled is not None and stage.distilled.guidance != 1:
                    raise RequestError(
                        f"{role}: guidance is distilled into its weights, so it takes no negative prompt"
                    )
        return chosen

    def size_at(self, side: int) -> Size:
        """Size of the images of a stage of the chain, by its nominal side."""
        return self._grid.at(self.size, side)

    def encode(self, captions: Sequence[str], *, embeds: bool = False) -> tuple[Text, Text]:
        """The captions and the null text, encoded as one batch so that both have the same length.

        Args:
            embeds: whether a prior or the verb reads CLIP's embeddings of them. Otherwise they are encoded
                only if the decoder reads CLIP's encoding.
        """
        both = [*captions, self.negative]
        if not embeds and "text" not in self.model.decoder.needs:
            text = Text.plain(both)
        else:
            with self.timed("clip"):
                text = self.model.clip.encode_text(both)
        return text.rows(None, -1), text.rows(-1, None).repeat(len(captions))

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
            RequestError: the model has no prior, or one that reads vectors.
        """
        prior = self.model.prior
        if prior is None:
            raise RequestError(f"{self.model.name}: has no prior, {WITHOUT['prior']}")
        if not isinstance(prior, BasePrior):
            raise RequestError(
                f"{self.model.name}: its prior reads vectors, not captions; see `unclip embed --vectors`"
            )
        used = self.sampling["prior"]
        return self.run("prior", prior.sample(text, null, used, self.noise("prior")), prior.length(used))

    def embeds_to_paint(self, texts: tuple[Text, Text], image: Image.Image) -> Tensor:
        """z_i [B, D] of edits: the prior's for the captions.

        Without a prior it is the picture's own, for a decoder that reads the captions itself.

        Raises:
            RequestError: no prior, and a decoder that reads no captions.
        """
        if self.model.prior is not None or not self.model.decoder.reads_text:
            return self.sample_prior(*texts)
        return self.encode_images([image]).expand(len(self.seeds), -1)

    def decode(self, z_i: Tensor, text: Text, null: Text, trajectory: Trajectory = FROM_NOISE) -> Tensor:
        """Run the decoder along a trajectory to data, and render it: pictures [B, 3, h, w].

        From noise, the best of several `candidates` is drawn.
        """
        decoder, used = self.model.decoder, self.sampling["decoder"]
        total = trajectory.length(decoder.diffusion.schedule, used.steps)
        candidates = used.candidates if trajectory is FROM_NOISE else 1
        batch, parts = max(1, TOGETHER // self.size_at(decoder.size).area // candidates), []
        for i in range(0, len(z_i), batch):
            rows = slice(i, i + batch)
            given = z_i[rows], text.rows(i, i + batch), null.rows(i, i + batch), rows
            numbers = self._best(*given, total) if candidates > 1 else None
            noise = SeededNoise(self.seeds[rows], "decoder", numbers)
            steps = self._decoder_steps(*given, noise, trajectory.rows(rows))
            parts.append(decoder.render(self.run("decoder", steps, total)))
        return torch.cat(parts)

    def _decoder_steps(
        self,
        z_i: Tensor,
        text: Text,
        null: Text,
        rows: slice,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
    ) -> Iterator[Step]:
        """The decoder's walk for some rows of the batch, each repeated where z_i has more rows than they are."""
        decoder, null_embed = self.model.decoder, self._null_embed()
        if null_embed is not None:
            null_embed = null_embed[rows]
            null_embed = null_embed.repeat_interleave(len(z_i) // len(null_embed), dim=0)
        return decoder.sample(
            z_i,
            text,
            null,
            self.sampling["decoder"],
            noise,
            trajectory,
            size=self.size_at(decoder.size),
            null_embed=null_embed,
        )

    def _best(self, z_i: Tensor, text: Text, null: Text, rows: slice, total: int) -> list[int]:
        """The number of the best candidate of each row, by what is seen of it after half of the decoder's steps."""
        n = self.sampling["decoder"].candidates
        noise = SeededNoise(self.seeds[rows], "decoder").candidates(n)
        with self.timed("decoder"):
            steps = self._decoder_steps(
                z_i.repeat_interleave(n, dim=0), text.repeat(n), null.repeat(n), rows, noise
            )
            *_, half = islice(steps, -(-total // 2))
            del steps  # ends the walk
            return nearest(self.model.clip, self.model.decoder.render(half.x0), z_i, text)

    def _null_embed(self) -> Tensor | None:
        """The null z_i [B, D] of a negative prompt, for a decoder that reads no captions; None if not needed.

        It is sampled from the prior as that of a prompt, with other noise (diffusers' Kandinsky 2.2).
        """
        if not self.negative or self.model.decoder.reads_text or self.sampling["decoder"].guidance == 1:
            return None
        prior = self.model.prior
        if not isinstance(prior, BasePrior):
            raise RequestError(
                f"negative: {self.model.name}'s decoder reads no captions, and no prior here makes an "
                "embedding of the negative prompt; leave it out"
            )
        if self._negative_embed is None:
            null = self.encode([self.negative], embeds=True)[0].repeat(len(self.seeds))
            used, noise = self.sampling["prior"], SeededNoise(self.seeds, "negative")
            self._negative_embed = self.run(
                "negative", prior.sample(null, null, used, noise), prior.length(used)
            )
        return self._negative_embed

    def upsample(
        self,
        x: Tensor,
        trajectory_at: Callable[[int], Trajectory] = lambda side: FROM_NOISE,
        *,
        start: int | None = None,
    ) -> dict[int, Tensor]:
        """Upsample x [B, 3, h, w] up to `size`; returns every resolution by its nominal side, in [−1, 1].

        Args:
            trajectory_at: the trajectory for images of a given nominal side; must fit any batch size.
            start: nominal side of x. Default: the decoder's.
        """
        last = self.model.decoder.size if start is None else start
        made = {last: x.clamp(-1, 1)}
        for upsampler in self.chain:
            role, low, size = f"upsampler-{upsampler.size}", made[last], self.size_at(upsampler.size)
            trajectory, used = trajectory_at(upsampler.size), self.sampling[role]
            total = trajectory.length(upsampler.diffusion.schedule, used.steps)
            batch = max(1, TOGETHER // size.area)
            parts = []
            for i in range(0, len(low), batch):
                noise = SeededNoise(self.seeds[i : i + batch], role)
                steps = upsampler.sample(low[i : i + batch], used, noise, size=size, trajectory=trajectory)
                parts.append(self.run(role, steps, total))
            last = upsampler.size
            made[last] = torch.cat(parts).clamp(-1, 1)
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
            made: pictures [B, 3, H, W] by nominal side.
            arguments: the verb and its arguments, one per image, for the settings.
            painted: True where the model painted, [H, W] of the largest; all other pixels stay bit for bit.
        """
        if self.side not in made:
            made = {**made, self.side: lanczos(made[max(made)], self.size)}
        images = self._images(made[self.side], painted)
        kept = [side for side in made if side != self.side] if self.options.keep_stages else []
        masks = {
            side: None if painted is None else resized_mask(painted, self.size_at(side)) for side in kept
        }
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
        extra: dict[str, Any] = {"lanczos_from": last} if self.side > last else {}
        if self.negative:
            extra["negative"] = self.negative
        if self.model.dtype not in (None, torch.float32):
            extra["dtype"] = str(self.model.dtype).removeprefix("torch.")
        if self.model.loras:
            extra["lora"] = [loaded._asdict() for loaded in self.model.loras]
        used = {
            role: self.sampling[role].model_dump(mode="json")
            for role in self.seconds
            if role in self.sampling
        }
        return [
            {**one, "seed": seed, "model": self.model.name, "size": self.size.plain, **extra, "stages": used}
            for one, seed in zip(arguments, self.seeds, strict=True)
        ]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[name]`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def middle_of(picture: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """The middle part of a picture, of the shape of a (width, height): RGB, on white, rotated by its EXIF."""
    return centre_crop(on_white(plain(picture)), shape)
