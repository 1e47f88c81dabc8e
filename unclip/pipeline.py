"""The whole chain: caption → CLIP → prior → decoder → upsamplers → pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from unclip import files
from unclip.clip import Clip, load_clip
from unclip.convert import converted
from unclip.device import best_device, quick_in_bf16
from unclip.edits.differences import diff
from unclip.edits.extension import outpaint
from unclip.edits.interpolation import interpolate
from unclip.edits.inversion import invert
from unclip.edits.mixing import mix
from unclip.edits.painting import edit
from unclip.edits.variations import vary
from unclip.errors import CheckpointError, RequestError
from unclip.generation import (
    MAX_SEED,
    Call,
    Generation,
    OnStep,
    Options,
    check_negative,
    check_prompt,
    choose_seeds,
    links,
    preset_for,
)
from unclip.stages import load_stage
from unclip.stages.base import DiffusionStage, PriorRole, Stage
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler

__all__ = ["MAX_SEED", "Generation", "OnStep", "Options", "Pipeline", "check_prompt", "prompt_words"]

S = TypeVar("S", bound=Stage)


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
        prior: PriorRole | None,
        decoder: Decoder,
        upsamplers: Sequence[Upsampler],
        *,
        folder: Path,
        name: str,
        vocabulary: frozenset[str] | None = None,
    ) -> None:
        self.clip, self.prior, self.decoder, self.upsamplers = clip, prior, decoder, tuple(upsamplers)
        self.folder, self.name, self.vocabulary = folder, name, vocabulary
        self.offload, self.quick = False, False

    # --- loading and saving ---

    @classmethod
    def from_pretrained(
        cls, ref: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None,
        offload: bool = False, revision: str | None = None, token: str | None = None,
    ) -> Pipeline:  # fmt: skip
        """The model that `ref` names: the bundled "mini", a folder, or a Hub repository id.

        diffusers' unCLIP folders (Karlo) are converted on first use, into the user's cache.

        Args:
            device: the first CUDA device, Apple's, or the CPU, if not given.
            dtype: of the networks. If not given, float32, so that a seed gives the same picture everywhere; but bfloat16 for
                a model whose index says `"precision": "quick"` (Karlo) on a device that is quick in it.
            revision: of a Hub repository: a branch, a tag or a commit; `ref` may say it, too, as owner/name@revision.
            token: for the Hub, if not HF_TOKEN's.
            offload: a stage is read from disk when its turn comes and dropped after it, so that no two are in memory.

        Raises:
            CheckpointError: nothing there, damaged files, or stages that do not belong together.
        """
        folder = converted(files.find_model(ref, revision=revision, token=token))
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
        for part in (clip_ref, decoder, *names, *([] if prior is None else [prior])):
            files.check_inside(folder, part)
        if offload:
            files.read_ahead(folder / (prior or decoder) / "model.safetensors")
        clip = load_clip(str(folder / clip_ref) if (folder / clip_ref).is_dir() else clip_ref)
        kept = None if offload else torch.float32  # offloaded weights wait in their file, as they are stored
        stages = {name: load_stage(folder / name, dtype=kept) for name in (prior, decoder, *names) if name is not None}
        for name, stage in stages.items():
            trained_for = stage.config.clip
            if trained_for is not None and trained_for != clip.identity:
                raise CheckpointError(
                    f"{folder}/{name}: was trained for CLIP {trained_for}, this model has {clip.identity}"
                )
        words = index.get("vocabulary")
        pipeline = cls(
            clip,
            None if prior is None else _role(stages[prior], PriorRole, folder / prior),  # type: ignore[type-abstract]
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
        pipeline.offload, pipeline.quick = offload, dtype is None and index.get("precision") == "quick"
        return pipeline.to(device or best_device(), dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model as a folder that loads back to the same bits."""
        with files.new_folder(Path(folder), replaces="model_index.json") as out:
            names = [f"upsampler-{u.size}" for u in self.upsamplers]
            for name, stage in links(self).items():
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
        """Moves everything; with `dtype`, also the networks' precision, which is else `from_pretrained`'s."""
        try:
            self.device = torch.device(device)
            self.dtype = torch.bfloat16 if dtype is None and self.quick and quick_in_bf16(self.device) else dtype
            self.clip.to(self.device, self.dtype)
            for stage in links(self).values():
                if not (self.offload and isinstance(stage, DiffusionStage)):
                    self._place(stage)
        except (RuntimeError, AssertionError) as error:
            raise RequestError(f"device {device}: cannot be used here ({str(error).splitlines()[0]})") from None
        return self

    def _place(self, stage: PriorRole | DiffusionStage) -> None:
        stage.to(self.device)
        stage.network.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def _in_place(self, stage: DiffusionStage, weights: Path) -> Iterator[None]:
        """The stage on the device; afterwards its weights are the file's again, which is mapped and not read."""

        def placed(name: str, tensor: Tensor) -> Tensor:
            """As `_place` would have it, in one step; what is so in the file stays there and is read when it is used."""
            if not name.startswith("network."):
                return tensor.to(self.device, torch.float32)
            layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            return tensor.to(self.device, self.dtype or torch.float32, memory_format=layout)

        with torch.inference_mode(False):  # parameters made in that mode could never leave it
            files.place_weights(stage, weights, placed)
        try:
            yield
        finally:
            with torch.inference_mode(False):
                files.load_weights(stage, weights, dtype=None)

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
        preset: str = "balanced",
        options: Options | None = None,
        keep_stages: bool = False,
        watermark: bool = True,
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
            preset: how the stages are sampled: "fast", "balanced" (the model's own numbers) or "paper".
            options: changes to the preset, {"prior": {"steps": 10}, "upsampler-256": …, "decoder": …}.
            keep_stages: also return the pictures of the earlier stages.
            watermark: mark the pictures, invisibly, as made by a model (docs/provenance.md).
            on_step: called after every step; may raise `Cancelled`.

        Raises:
            RequestError: something impossible was asked for.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        captions = [check_prompt(p) for p in prompts for _ in range(num_images)]
        negative = check_negative(negative)
        call = Call(
            self,
            choose_seeds(num_images, seed if seeds is None else seeds, prompts=len(prompts)),
            size,
            options,
            on_step,
            defaults=preset_for(self, preset),
        )
        with torch.inference_mode():
            text, null = call.encode(captions, negative)
            z_i = call.imagine(text, null)
            made = call.enlarge(call.decode(z_i, text, null))
        asked = [{"prompt": caption, "negative": negative} for caption in captions]
        return call.finish(made, z_i, asked, keep_stages=keep_stages, watermark=watermark)

    __call__ = generate
    invert = invert
    vary = vary
    interpolate = interpolate
    mix = mix
    diff = diff
    edit = edit
    outpaint = outpaint


def prompt_words(text: str) -> list[str]:
    """The text's words as the model's vocabulary lists them."""
    from unclip.menagerie.captions import words

    return words(text)


def _role(stage: Stage, kind: type[S], folder: Path) -> S:
    if not isinstance(stage, kind):
        name = kind.__name__.removesuffix("Role").lower()
        raise CheckpointError(f"{folder}: is a {stage.config.kind}, not a {name}")
    return stage
