"""One call of a model under way: what was asked for, who draws it with which seeds, and what comes out.

`generate` and every verb of `edits` are a few lines on top of this.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Clip, Text
from unclip.diffusion.noise import Noise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.errors import RequestError
from unclip.images import lanczos, to_pil
from unclip.presets import find_preset
from unclip.stages.base import DiffusionStage, PriorRole, SamplingConfig
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler

MAX_SEED = 2**63 - 1
LARGEST = 1024  # pixels of a side: DALL·E 2's
TOGETHER = 4 * 256**2  # pixels that an upsampler makes at a time: more are no quicker, and memory stays flat

OnStep = Callable[[str, int, int, Step], None]  # role, step number from 1, steps in all, the step
Options = Mapping[str, Mapping[str, Any]]  # role → fields of SamplingConfig to change
Seed = int | Sequence[int] | None  # of the first picture, of each, or random
WITHOUT = {
    "prior": "so it draws nothing from a prompt",
    "decoder": "so it draws no pictures",
}


@dataclass(frozen=True)
class Generation:
    """What a call made, image by image in the order of the prompts.

    Attributes:
        images: each carries its settings in `.info["unclip"]`, so that it can be drawn again.
        seeds: one per image.
        settings: one per image, as written into a PNG.
        seconds: per stage, for the whole batch.
        image_embeds: z_i, [N, D]; of no width where pictures were only enlarged.
        stages: the pictures of the earlier stages by side in pixels (64, 256 …).
        painted: True where an edit painted the pictures, [H, W]; None where the model made all of them.
    """

    images: list[Image.Image]
    seeds: list[int]
    settings: list[dict[str, Any]]
    seconds: dict[str, float]
    image_embeds: Tensor
    stages: dict[int, list[Image.Image]] = field(default_factory=dict)
    painted: Tensor | None = None


class Model(Protocol):
    """What a call needs of a pipeline: its links and its name."""

    prior: PriorRole | None
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
    def links(self) -> dict[str, PriorRole | DiffusionStage]:
        """The stages that it has by role, in the order of the chain."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels at which a generation can end."""


class Call:
    """One request of a model.

    Args:
        seeds: one per picture.
        size: side in pixels at which the chain stops; the largest if None.
        options: changes to the stages' sampling, {"decoder": {"steps": 50}, …}.
        on_step: called after every step; may raise `Cancelled`.
        defaults: what a verb samples with where neither `options` nor the stage's own config is to decide.
        needs: the roles without which nothing comes of it: a model may be a stage by itself.

    Raises:
        RequestError: a size, role or option that there is not.
    """

    def __init__(
        self, model: Model, seeds: list[int], size: int | None = None, options: Options | None = None,
        on_step: OnStep | None = None, *, defaults: Options | None = None, needs: Sequence[str] = ("decoder",),
    ) -> None:  # fmt: skip
        self.model, self.seeds, self.on_step = model, seeds, on_step
        for role in needs:
            if role not in model.links:
                raise RequestError(f"{model.name}: has no {role}, {WITHOUT[role]}")
        draws = size is not None or list(model.links) != ["prior"]
        self.size = (model.sizes[-1] if draws else 0) if size is None else size
        if draws and self.size not in (sides := reachable(model)):
            raise RequestError(f"size {self.size}: {model.name} makes pictures of {', '.join(map(str, sides))} pixels")
        self.chain = [u for u in model.upsamplers if u.size <= self.size]
        self.seconds: dict[str, float] = {}
        self.sampling = self._sampling(defaults or {}, options or {})

    def _sampling(self, defaults: Options, options: Options) -> dict[str, SamplingConfig]:
        stages = self.model.links
        for role in options:
            if role not in stages:
                raise RequestError(f"options for {role!r}: the stages are {', '.join(stages)}")
        chosen = {}
        beyond = {f"upsampler-{u.size}" for u in self.model.upsamplers if u not in self.chain}
        for role in (role for role in stages if role not in beyond):
            try:
                chosen[role] = stages[role].config.sampling.updated({**defaults.get(role, {}), **options.get(role, {})})
            except RequestError as error:
                raise RequestError(f"{role}: {error}") from None
            find_sampler(chosen[role].sampler, chosen[role].eta)
            if role.startswith("upsampler") and chosen[role].guidance != 1:
                raise RequestError(f"{role}: has no condition to guide by; its guidance is always 1")
        return chosen

    def encode(self, captions: Sequence[str], negative: str = "") -> tuple[Text, Text]:
        """Captions and what guidance leads away from, encoded as one batch so that both have one length."""
        with self.timed("clip"):
            both = self.model.clip.encode_text([*captions, negative])
        return both.rows(None, -1), both.rows(-1, None).repeat(len(captions))

    def noise(self, role: str) -> Noise:
        """The randomness of a role's part, picture by picture."""
        return Noise(self.seeds, role)

    def run(self, role: str, steps: Iterator[Step], total: int | None = None) -> Tensor:
        """Walks a stage's steps to their end; `total` where they are not the sampling's number."""
        with self.timed(role):
            for number, step in enumerate(steps, start=1):
                if self.on_step:
                    self.on_step(role, number, total or self.sampling[role].steps, step)
        return step.x

    def imagine(self, text: Text, null: Text) -> Tensor:
        """z_i [B, D] of the captions, by the prior.

        Raises:
            RequestError: the model has none.
        """
        prior = self.model.prior
        if prior is None:
            raise RequestError(f"{self.model.name}: has no prior, {WITHOUT['prior']}")
        used = self.sampling["prior"]
        return self.run("prior", prior.sample(text, null, used, self.noise("prior")), prior.length(used))

    def decode(self, z_i: Tensor, text: Text, null: Text) -> Tensor:
        """The decoder's pictures [B, 3, h, h] from noise."""
        steps = self.model.decoder.sample(z_i, text, null, self.sampling["decoder"], self.noise("decoder"))
        return self.run("decoder", steps)

    def enlarge(self, x: Tensor) -> dict[int, Tensor]:
        """The decoder's pictures and those of every upsampler up to `size`, by side in pixels, in [−1, 1]."""
        made = {x.shape[-1]: x.clamp(-1, 1)}
        for upsampler in self.chain:
            role, low = f"upsampler-{upsampler.size}", made[x.shape[-1]]
            few = max(1, TOGETHER // upsampler.size**2)
            parts = [
                upsampler.sample(low[i : i + few], self.sampling[role], Noise(self.seeds[i : i + few], role))
                for i in range(0, len(low), few)
            ]
            x = torch.cat([self.run(role, part) for part in parts])
            made[upsampler.size] = x.clamp(-1, 1)
        return made

    def finish(
        self,
        made: Mapping[int, Tensor],
        z_i: Tensor,
        asked: Sequence[Mapping[str, Any]],
        *,
        keep_stages: bool = False,
        watermark: bool = False,
    ) -> Generation:
        """The pictures with their settings; `asked` says per picture what is not known here; `watermark` marks them."""
        if self.size not in made:
            made = {**made, self.size: lanczos(made[max(made)], self.size)}
        pictures = {side: [to_pil(image, marked=watermark) for image in batch] for side, batch in made.items()}
        images = pictures.pop(self.size)
        return Generation(
            images, self.seeds, self.sign(images, asked), self.seconds, z_i, pictures if keep_stages else {}
        )

    def sign(self, images: Sequence[Image.Image], asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Writes each picture's settings into it, and returns them."""
        last = self.model.sizes[-1]
        beyond: dict[str, Any] = {"lanczos_from": last} if self.size > last else {}
        if self.model.dtype not in (None, torch.float32):
            beyond["dtype"] = str(self.model.dtype).removeprefix("torch.")
        used = {role: self.sampling[role].model_dump(mode="json") for role in self.seconds if role in self.sampling}
        settings = [
            {**one, "seed": seed, "model": self.model.name, "size": self.size, **beyond, "stages": used}
            for one, seed in zip(asked, self.seeds, strict=True)
        ]
        for image, how in zip(images, settings, strict=True):
            image.info["unclip"] = how
        return settings

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds what passes inside to the seconds of that name."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def reachable(model: Model) -> tuple[int, ...]:
    """Sides in pixels that can be asked for: those of the stages, and 1024 where a model ends at a quarter of it.

    Those last pixels are Lanczos's: on photographs an upsampler that was not trained on any does worse (docs/karlo.md).
    """
    sides = model.sizes
    return (*sides, LARGEST) if sides[-1] < LARGEST <= 4 * sides[-1] else sides


def preset_for(model: Model, name: str) -> dict[str, dict[str, Any]]:
    """The preset as this model can follow it.

    Analytic-DPM becomes plain ancestral sampling where the variance was never measured, and an upsampler with an expert for
    its last step keeps its own steps.
    """
    changes = {role: dict(fields) for role, fields in find_preset(name).items()}
    for role, stage in model.links.items():
        analytic = changes.get(role, {}).get("sampler") == "analytic_dpm"
        if analytic and not (isinstance(stage, DiffusionStage) and stage.diffusion.schedule.doubt is not None):
            changes[role]["sampler"] = "ddpm"
        if isinstance(stage, Upsampler) and stage.expert:
            changes.pop(role, None)
    return changes


def check_prompt(prompt: str) -> str:
    """The prompt, stripped; empty ones and control characters are refused."""
    stripped = prompt.strip()
    if not stripped:
        raise RequestError("the prompt is empty; say what the picture should show")
    bad = next(
        (c for c in stripped if (ord(c) < 32 and c not in "\t\n\r") or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF),
        None,
    )
    if bad is not None:
        raise RequestError(f"the prompt holds the control character U+{ord(bad):04X}; leave it out")
    return stripped


def check_negative(negative: str) -> str:
    """The negative prompt, which may be empty."""
    return check_prompt(negative) if negative.strip() else ""


def choose_seeds(num_images: int, seed: Seed = None, *, prompts: int = 1) -> list[int]:
    """One seed per picture: those given, or counting up from the one given (or a random one) for each prompt."""
    if num_images < 1 or prompts < 1:
        raise RequestError("nothing to generate: give a prompt, and a number of images of at least 1")
    if seed is None or isinstance(seed, int):
        first = secrets.randbelow(2**31) if seed is None else seed
        drawn = [first + i for _ in range(prompts) for i in range(num_images)]
    else:
        drawn = list(seed)
        if len(drawn) != prompts * num_images:
            raise RequestError(f"{len(drawn)} seeds for {prompts * num_images} images")
    if any(not 0 <= s <= MAX_SEED for s in drawn):
        raise RequestError(f"a seed must be between 0 and {MAX_SEED}")
    return drawn
