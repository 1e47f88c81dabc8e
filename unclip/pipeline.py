"""The whole chain: caption → CLIP → prior → decoder → upsamplers → pictures."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from unclip import files
from unclip.clip import Clip, Text, load_clip
from unclip.convert import converted
from unclip.device import best_device
from unclip.diffusion.noise import Noise
from unclip.diffusion.samplers import Step, find_sampler
from unclip.errors import CheckpointError, RequestError
from unclip.images import to_pil
from unclip.stages import load_stage
from unclip.stages.base import DiffusionStage, SamplingConfig, Stage
from unclip.stages.decoder import Decoder
from unclip.stages.prior import Prior
from unclip.stages.upsampler import Upsampler

S = TypeVar("S", bound=Stage)

MAX_SEED = 2**63 - 1

OnStep = Callable[[str, int, int, Step], None]  # role, step number from 1, steps in all, the step
Options = Mapping[str, Mapping[str, Any]]  # role → fields of SamplingConfig to change


@dataclass(frozen=True)
class Generation:
    """What a call made, image by image in the order of the prompts.

    Attributes:
        images: each carries its settings in `.info["unclip"]`, so that it can be drawn again.
        seeds: one per image.
        settings: one per image, as written into a PNG.
        seconds: per stage, for the whole batch.
        image_embeds: z_i, [N, D].
        stages: the pictures of the earlier stages by side in pixels (64, 256 …).
    """

    images: list[Image.Image]
    seeds: list[int]
    settings: list[dict[str, Any]]
    seconds: dict[str, float]
    image_embeds: Tensor
    stages: dict[int, list[Image.Image]] = field(default_factory=dict)


class Pipeline:
    """A CLIP, a prior, a decoder and upsamplers that were trained for each other.

    A model that only varies pictures (Karlo's second repository) has no prior, and refuses captions.

    Example:
        >>> pipe = Pipeline.from_pretrained("mini")
        >>> pipe("a shiba inu wearing a beret", seed=7).images[0].save("shiba.png")
    """

    def __init__(
        self,
        clip: Clip,
        prior: Prior | None,
        decoder: Decoder,
        upsamplers: Sequence[Upsampler],
        *,
        folder: Path,
        name: str,
        vocabulary: frozenset[str] | None = None,
    ) -> None:
        self.clip, self.prior, self.decoder, self.upsamplers = clip, prior, decoder, tuple(upsamplers)
        self.folder, self.name, self.vocabulary = folder, name, vocabulary
        self.offload = False

    # --- loading and saving ---

    @classmethod
    def from_pretrained(
        cls, ref: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None,
        offload: bool = False,
    ) -> Pipeline:  # fmt: skip
        """The model that `ref` names: the bundled "mini", a folder, or a Hub repository id.

        diffusers' unCLIP folders (Karlo) are converted on first use, into the user's cache.

        Args:
            device: the first CUDA device, Apple's, or the CPU, if not given.
            dtype: of the networks; float32 if not given, so that a seed gives the same picture everywhere.
            offload: a stage is read from disk when its turn comes and dropped after it, so that no two are in memory.

        Raises:
            CheckpointError: nothing there, damaged files, or stages that do not belong together.
        """
        folder = converted(files.find_model(ref))
        index = files.read_json(folder / "model_index.json")
        if index.get("format") != files.FORMAT:
            raise CheckpointError(
                f"{folder}/model_index.json: format {index.get('format')!r}, this version reads {files.FORMAT}"
            )
        try:
            clip_ref, decoder = str(index["clip"]), str(index["decoder"])
            prior = None if index["prior"] is None else str(index["prior"])
            names = [str(name) for name in index["upsamplers"]]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder}/model_index.json: says nothing of {error}") from None
        clip = load_clip(str(folder / clip_ref) if (folder / clip_ref).is_dir() else clip_ref)
        stages = {name: load_stage(folder / name) for name in (prior, decoder, *names) if name is not None}
        for name, stage in stages.items():
            trained_for = stage.config.clip
            if trained_for is not None and trained_for != clip.identity:
                raise CheckpointError(
                    f"{folder}/{name}: was trained for CLIP {trained_for}, this model has {clip.identity}"
                )
        words = index.get("vocabulary")
        pipeline = cls(
            clip,
            None if prior is None else _role(stages[prior], Prior, folder / prior),
            _role(stages[decoder], Decoder, folder / decoder),
            sorted((_role(stages[n], Upsampler, folder / n) for n in names), key=lambda u: u.size),
            folder=folder,
            name=str(index.get("name", folder.name)),
            vocabulary=frozenset(words) if words else None,
        )
        if offload:
            for name, stage in stages.items():
                if isinstance(stage, DiffusionStage):
                    stage.in_place = partial(pipeline._in_place, stage, folder / name / "model.safetensors")
        pipeline.offload = offload
        return pipeline.to(device or best_device(), dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model as a folder that loads back to the same bits."""
        with files.new_folder(Path(folder), replaces="model_index.json") as out:
            names = [f"upsampler-{u.size}" for u in self.upsamplers]
            for name, stage in self._stages().items():
                (out / name).mkdir()
                stage.save(out / name)
            index = files.read_json(self.folder / "model_index.json")
            source = self.folder / str(index["clip"])
            if source.is_dir():
                files.copy_folder(source, out / "clip")
                index["clip"] = "clip"
            files.write_json(
                out / "model_index.json",
                {**index, "prior": None if self.prior is None else "prior", "decoder": "decoder", "upsamplers": names},
            )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pipeline:
        """Moves everything; with `dtype`, also the networks' precision."""
        try:
            self.device, self.dtype = torch.device(device), dtype
            self.clip.to(self.device, dtype)
            if not self.offload:
                for stage in self._stages().values():
                    self._place(stage)
        except (RuntimeError, AssertionError) as error:
            raise RequestError(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from None
        return self

    def _place(self, stage: DiffusionStage) -> None:
        stage.to(self.device)
        stage.network.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def _in_place(self, stage: DiffusionStage, weights: Path) -> Iterator[None]:
        """The stage on the device; afterwards its weights are the file's again, which is mapped and not read."""
        with torch.inference_mode(False):  # parameters made in that mode could never leave it
            self._place(stage)
        try:
            yield
        finally:
            with torch.inference_mode(False):
                files.load_weights(stage, weights)

    # --- what it can do ---

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels at which a generation can end."""
        return (self.decoder.size, *(u.size for u in self.upsamplers))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words the model never saw in training; empty for models with an open vocabulary."""
        if self.vocabulary is None:
            return []
        return [word for word in dict.fromkeys(prompt_words(prompt)) if word not in self.vocabulary]

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        num_images: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        size: int | None = None,
        negative: str = "",
        options: Options | None = None,
        keep_stages: bool = False,
        on_step: OnStep | None = None,
    ) -> Generation:
        """Pictures of each prompt.

        Args:
            prompt: one caption or several.
            num_images: of each.
            seed: of the first image of each prompt; the next ones count up. Random if not given.
            seeds: one per image instead, in the order of the result.
            size: side at which to stop, one of `sizes`; the largest if not given.
            negative: what guidance leads away from.
            options: changes to the stages' sampling, {"prior": {"steps": 10}, "upsampler-256": …, "decoder": …}.
            keep_stages: also return the pictures of the earlier stages.
            on_step: called after every step; may raise `Cancelled`.

        Raises:
            RequestError: something impossible was asked for.
        """
        if self.prior is None:
            raise RequestError(f"{self.name}: has no prior, so it varies pictures but draws none from a prompt")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        captions = [check_prompt(p) for p in prompts for _ in range(num_images)]
        if num_images < 1 or not captions:
            raise RequestError("nothing to generate: give a prompt, and a number of images of at least 1")
        negative = check_prompt(negative) if negative.strip() else ""
        size = self.sizes[-1] if size is None else size
        if size not in self.sizes:
            raise RequestError(f"size {size}: {self.name} makes pictures of {', '.join(map(str, self.sizes))} pixels")
        drawn = _seeds(len(prompts), num_images, seed, seeds)
        chain = [u for u in self.upsamplers if u.size <= size]
        sampling = self._sampling(["prior", "decoder", *(f"upsampler-{u.size}" for u in chain)], options or {})

        seconds: dict[str, float] = {}
        with torch.inference_mode():
            with _timed(seconds, "clip"):
                text, null = self._encode(captions, negative)

            def run(role: str, steps: Iterator[Step]) -> Tensor:
                with _timed(seconds, role):
                    for number, step in enumerate(steps, start=1):
                        if on_step:
                            on_step(role, number, sampling[role].steps, step)
                return step.x.float()

            def noise(role: str) -> Noise:
                return Noise(drawn, role)

            z_i = run("prior", self.prior.sample(text, null, sampling["prior"], noise("prior")))
            x = run("decoder", self.decoder.sample(z_i, text, null, sampling["decoder"], noise("decoder")))
            made = {self.decoder.size: x.clamp(-1, 1)}
            for upsampler in chain:
                role = f"upsampler-{upsampler.size}"
                # One picture at a time: memory stays flat, and a batch cannot change a picture.
                parts = [
                    upsampler.sample(low[None], sampling[role], Noise([s], role))
                    for low, s in zip(made[x.shape[-1]], drawn, strict=True)
                ]
                x = torch.cat([run(role, part) for part in parts])
                made[upsampler.size] = x.clamp(-1, 1)

        settings = [
            {
                "prompt": caption, "seed": s, "model": self.name, "size": size, "negative": negative,
                "stages": {role: used.model_dump(mode="json") for role, used in sampling.items()},
            }
            for caption, s in zip(captions, drawn, strict=True)
        ]  # fmt: skip
        pictures = {side: [to_pil(image) for image in batch] for side, batch in made.items()}
        images = pictures.pop(size)
        for image, how in zip(images, settings, strict=True):
            image.info["unclip"] = how
        return Generation(images, drawn, settings, seconds, z_i, pictures if keep_stages else {})

    __call__ = generate

    def _stages(self) -> dict[str, DiffusionStage]:
        prior = {} if self.prior is None else {"prior": self.prior}
        return {**prior, "decoder": self.decoder, **{f"upsampler-{u.size}": u for u in self.upsamplers}}

    def _encode(self, captions: Sequence[str], negative: str) -> tuple[Text, Text]:
        """Captions and what guidance leads away from, encoded as one batch so that both have one length."""
        both = self.clip.encode_text([*captions, negative])
        return both.rows(None, -1), both.rows(-1, None).repeat(len(captions))

    def _sampling(self, roles: Sequence[str], options: Options) -> dict[str, SamplingConfig]:
        stages = self._stages()
        for role in options:
            if role not in stages:
                raise RequestError(f"options for {role!r}: the stages are {', '.join(stages)}")
        chosen = {}
        for role in roles:
            try:
                chosen[role] = stages[role].config.sampling.updated(options.get(role, {}))
            except RequestError as error:
                raise RequestError(f"{role}: {error}") from None
            find_sampler(chosen[role].sampler, chosen[role].eta)
            if role.startswith("upsampler") and chosen[role].guidance != 1:
                raise RequestError(f"{role}: has no condition to guide by; its guidance is always 1")
        return chosen


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


def prompt_words(text: str) -> list[str]:
    """The text's words as the model's vocabulary lists them."""
    from unclip.menagerie.captions import words

    return words(text)


def _seeds(prompts: int, num_images: int, seed: int | None, seeds: Sequence[int] | None) -> list[int]:
    if seeds is not None:
        if len(seeds) != prompts * num_images:
            raise RequestError(f"{len(seeds)} seeds for {prompts * num_images} images")
        drawn = list(seeds)
    else:
        first = secrets.randbelow(2**31) if seed is None else seed
        drawn = [first + i for _ in range(prompts) for i in range(num_images)]
    if any(not 0 <= s <= MAX_SEED for s in drawn):
        raise RequestError(f"a seed must be between 0 and {MAX_SEED}")
    return drawn


def _role(stage: Stage, kind: type[S], folder: Path) -> S:
    if not isinstance(stage, kind):
        raise CheckpointError(f"{folder}: is a {stage.config.kind}, not a {kind.__name__.lower()}")
    return stage


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
