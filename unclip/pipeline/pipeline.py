"""The whole chain: caption → CLIP → prior → decoder → upsamplers → pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from unclip import files
from unclip.clip import Clip, load_clip
from unclip.device import best_device, quick_in_bf16
from unclip.errors import CheckpointError, RequestError
from unclip.parts import find_parts
from unclip.pipeline.call import WITHOUT
from unclip.pipeline.diff import diff
from unclip.pipeline.edit import edit
from unclip.pipeline.generate import decode, generate, sample_prior, upsample
from unclip.pipeline.interpolate import interpolate
from unclip.pipeline.invert import invert
from unclip.pipeline.mix import mix
from unclip.pipeline.outpaint import outpaint
from unclip.pipeline.vary import vary
from unclip.stages import load_stage
from unclip.stages.base import DiffusionStage, PriorRole, Stage
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler
from unclip.vocabulary import prompt_words

S = TypeVar("S", bound=Stage)


class Pipeline:
    """A CLIP, a prior, a decoder and upsamplers that were trained for each other.

    Or some of them: a model that only varies pictures (Karlo's second repository) has no prior and refuses captions, and a
    stage by itself does its own part of the way: `sample_prior`, `decode` or `upsample`.

    Example:
        >>> pipe = Pipeline.from_pretrained("mini")
        >>> pipe("a shiba inu wearing a beret", seed=7).images[0].save("shiba.png")
    """

    def __init__(
        self,
        clip: Clip | None,
        prior: PriorRole | None,
        decoder: Decoder | None,
        upsamplers: Sequence[Upsampler],
        *,
        folder: Path,
        index: Mapping[str, Any],
        name: str,
        vocabulary: frozenset[str] | None = None,
    ) -> None:
        self._clip, self.prior, self._decoder, self.upsamplers = clip, prior, decoder, tuple(upsamplers)
        self.folder, self.index, self.name, self.vocabulary = folder, index, name, vocabulary
        self.offload, self.quick = False, False

    # --- loading and saving ---

    @classmethod
    def from_pretrained(
        cls, ref: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None,
        offload: bool = False, revision: str | None = None, token: str | None = None,
    ) -> Pipeline:  # fmt: skip
        """The model that `ref` names: the bundled "mini", a folder, or a Hub repository id.

        diffusers' unCLIP folders and Karlo's own checkpoints are converted on first use, into the user's cache. A prior,
        decoder or upsampler by itself (a saved stage, a run, the folder of one of diffusers' networks, one of Karlo's .ckpt
        files) comes with the CLIP that lies beside it, if one does.

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
        parts = find_parts(ref, revision=revision, token=token)
        folder, index, prior, decoder = parts.folder, parts.index, parts.prior, parts.decoder
        if offload:
            files.read_ahead(folder / parts.stages[0] / "model.safetensors")
        clip = None if parts.clip_reference is None else load_clip(parts.clip_reference)
        kept = None if offload else torch.float32  # offloaded weights wait in their file, as they are stored
        stages = {name: load_stage(folder / name, dtype=kept) for name in parts.stages}
        for stage in stages.values():
            if not isinstance(stage, DiffusionStage):
                stage.float()  # never offloaded, so never in its file's precision
        for name, stage in stages.items():
            trained_for = stage.config.clip
            if clip is not None and trained_for is not None and trained_for != clip.identity:
                raise CheckpointError(
                    f"{folder}/{name}: was trained for CLIP {trained_for}, this model has {clip.identity}"
                )
        words = index.get("vocabulary")
        pipeline = cls(
            clip,
            None if prior is None else _role(stages[prior], PriorRole, folder / prior),  # type: ignore[type-abstract]
            None if decoder is None else _role(stages[decoder], Decoder, folder / decoder),
            sorted((_role(stages[n], Upsampler, folder / n) for n in parts.upsamplers), key=lambda u: u.size),
            folder=folder,
            index=index,
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
            for name, stage in self.stages.items():
                (out / name).mkdir()
                stage.save(out / name)
            index = dict(self.index)
            if index["clip"] is not None and (source := self.folder / index["clip"]).is_dir():
                files.copy_folder(source, out / "clip")
                index["clip"] = "clip"
            roles = {role: role if role in self.stages else None for role in ("prior", "decoder")}
            files.write_json(out / "model_index.json", {**index, **roles, "upsamplers": names})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pipeline:
        """Moves everything; with `dtype`, also the networks' precision, which is else `from_pretrained`'s."""
        try:
            self.device = torch.device(device)
            self.dtype = torch.bfloat16 if dtype is None and self.quick and quick_in_bf16(self.device) else dtype
            if self._clip is not None:
                self._clip.to(self.device, self.dtype)
            for stage in self.stages.values():
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

    # --- what it has, and can do ---

    @property
    def clip(self) -> Clip:
        """The CLIP.

        Raises:
            RequestError: this is a stage by itself, without one.
        """
        if self._clip is None:
            raise RequestError(
                f"{self.name}: comes without the CLIP that it was trained with; `unclip assemble` joins them"
            )
        return self._clip

    @clip.setter
    def clip(self, clip: Clip) -> None:
        self._clip = clip

    @property
    def decoder(self) -> Decoder:
        """The decoder.

        Raises:
            RequestError: this is another stage by itself.
        """
        if self._decoder is None:
            raise RequestError(f"{self.name}: has no decoder, {WITHOUT['decoder']}")
        return self._decoder

    @decoder.setter
    def decoder(self, decoder: Decoder) -> None:
        self._decoder = decoder

    @property
    def stages(self) -> dict[str, PriorRole | DiffusionStage]:
        """The stages by role, in the order of the chain."""
        prior: dict[str, PriorRole | DiffusionStage] = {} if self.prior is None else {"prior": self.prior}
        decoder = {} if self._decoder is None else {"decoder": self._decoder}
        return {**prior, **decoder, **{f"upsampler-{u.size}": u for u in self.upsamplers}}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels at which a generation can end.

        Raises:
            RequestError: this is a prior by itself, which makes no pictures.
        """
        first = [] if self.upsamplers and self._decoder is None else [self.decoder.size]
        return (*first, *(u.size for u in self.upsamplers))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words the model never saw in training; empty for models with an open vocabulary."""
        if self.vocabulary is None:
            return []
        return [word for word in dict.fromkeys(prompt_words(prompt)) if word not in self.vocabulary]

    generate = generate
    __call__ = generate
    sample_prior = sample_prior
    decode = decode
    upsample = upsample
    invert = invert
    vary = vary
    interpolate = interpolate
    mix = mix
    diff = diff
    edit = edit
    outpaint = outpaint


def _role(stage: Stage, kind: type[S], folder: Path) -> S:
    if not isinstance(stage, kind):
        name = kind.__name__.removesuffix("Role").lower()
        raise CheckpointError(f"{folder}: is a {stage.config.kind}, not a {name}")
    return stage
