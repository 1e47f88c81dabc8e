"""The text-to-image pipeline: caption → CLIP → prior → decoder → upsamplers → images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from unclip import files
from unclip.clip import Clip, same_clip
from unclip.device import best_device, quick_in_bf16
from unclip.errors import CheckpointError, RequestError
from unclip.models.index import ModelIndex
from unclip.models.lora import Change, changed, merge
from unclip.models.resolve import load_clip, resolve
from unclip.pipeline.diff import diff
from unclip.pipeline.edit import edit
from unclip.pipeline.embed import encode_images, encode_text
from unclip.pipeline.generate import decode, generate, sample_prior, upsample
from unclip.pipeline.interpolate import interpolate
from unclip.pipeline.invert import invert
from unclip.pipeline.lora import LoadedLora, load_lora
from unclip.pipeline.mix import mix
from unclip.pipeline.model import WITHOUT, size_grid
from unclip.pipeline.outpaint import outpaint
from unclip.pipeline.save import save_pretrained
from unclip.pipeline.sizes import SizeGrid
from unclip.pipeline.vary import vary
from unclip.stages import LORA, load_stage
from unclip.stages.base import Stage
from unclip.stages.decoder_base import BaseDecoder
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import EmbeddingPrior
from unclip.stages.upsampler import Upsampler
from unclip.vocabulary import prompt_words

S = TypeVar("S", bound=Stage)


class Pipeline:
    """A CLIP, a prior, a decoder and upsamplers that were trained for each other, or some of them.

    An image-variation model (Karlo's second repository) has no prior and refuses captions. A single stage
    supports its own part of `generate`: `sample_prior`, `decode` or `upsample`.

    Example:
        >>> pipe = Pipeline.from_pretrained("mini")
        >>> pipe("a shiba inu wearing a beret", seed=7).images[0].save("shiba.png")
    """

    def __init__(
        self,
        clip: Clip | None,
        prior: EmbeddingPrior | None,
        decoder: BaseDecoder | None,
        upsamplers: Sequence[Upsampler],
        *,
        folder: Path,
        index: ModelIndex,
    ) -> None:
        self._clip, self.prior, self._decoder, self.upsamplers = clip, prior, decoder, tuple(upsamplers)
        self.folder, self.index, self.name = folder, index, index.name
        self.vocabulary = frozenset(index.vocabulary) if index.vocabulary else None
        self.offload, self.quick = False, False
        self.dtype: torch.dtype | None = None
        self.loras: tuple[LoadedLora, ...] = ()
        self.changes: dict[Stage, list[tuple[Change, float]]] = {}  # by adapters, of each offloaded stage
        self.decoder_changes: list[tuple[Change, float]] = []  # by adapters, of both decoders
        self._undistilled: BaseDecoder | None = None  # read when first needed

    # --- loading and saving ---

    @classmethod
    def from_pretrained(
        cls,
        ref: str,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        offload: bool = False,
        revision: str | None = None,
        token: str | None = None,
        lora: Sequence[str | Path] = (),
    ) -> Pipeline:
        """Load a model or a single stage: the bundled "mini", a folder, a Hub id, mini/decoder, ….

        diffusers' unCLIP folders and Karlo's own checkpoints are converted on first use, into the cache
        folder. A single prior, decoder or upsampler is loaded with the CLIP beside it, if there is one.

        Args:
            device: default: the first CUDA device, Apple's, or the CPU.
            dtype: precision of the networks. Default: float32, so that a seed gives the same picture
                everywhere; bfloat16 for a model with `"precision": "bfloat16"` in its index (Karlo), on
                devices with fast bfloat16.
            offload: read each diffusion stage from disk when it runs and drop it afterwards, so that only one
                of them is in memory. The CLIP stays.
            revision: branch, tag or commit of a Hub repository; also as owner/name@revision in `ref`.
            token: access token of the Hub. Default: HF_TOKEN.
            lora: LoRA adapters, "PATH" or "PATH:SCALE", see `load_lora`.

        Raises:
            CheckpointError: no model there, damaged files, or stages trained for different CLIPs.
        """
        found = resolve(ref, revision=revision, token=token)
        folder, index = found.folder, found.index
        if not index.stages:
            more = "; give it with its model, as --lora" if found.kind == LORA else ""
            raise CheckpointError(f"{folder}: is a {found.kind} by itself, which makes no pipeline{more}")
        if offload:
            files.read_ahead(folder / index.stages[0] / "model.safetensors")
        clip = None if found.clip is None else load_clip(found.clip)
        # Offloaded weights stay mapped, in their file's dtype.
        stages = {name: load_stage(folder / name, keep_dtype=offload) for name in index.stages}
        for name, stage in stages.items():
            if not isinstance(stage, DiffusionStage):
                stage.float()  # such a stage is never offloaded
            _check_clip(stage, clip, folder / name)
        priors: type[EmbeddingPrior] = EmbeddingPrior  # type: ignore[type-abstract]
        decoders: type[BaseDecoder] = BaseDecoder  # type: ignore[type-abstract]
        prior, decoder = index.prior, index.decoder
        pipeline = cls(
            clip,
            None if prior is None else _role(stages[prior], priors, folder / prior),
            None if decoder is None else _role(stages[decoder], decoders, folder / decoder),
            sorted((_role(stages[n], Upsampler, folder / n) for n in index.upsamplers), key=lambda u: u.size),
            folder=folder,
            index=index,
        )
        if offload:
            for name, stage in stages.items():
                if isinstance(stage, DiffusionStage):
                    pipeline.changes[stage] = []
                    stage.in_place = partial(pipeline._in_place, stage, folder / name / "model.safetensors")
        pipeline.offload, pipeline.quick = offload, dtype is None and index.precision == "bfloat16"
        for one in lora:  # before the cast to `dtype`, so that weights are rounded once
            pipeline.load_lora(one)
        return pipeline.to(device or best_device(), dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pipeline:
        """Move all parts to a device.

        Args:
            dtype: precision of the networks. Default: as in `from_pretrained`.

        Raises:
            RequestError: the device cannot be used here.
        """
        try:
            self.device = torch.device(device)
            bf16 = dtype is None and self.quick and quick_in_bf16(self.device)
            self.dtype = torch.bfloat16 if bf16 else dtype
            if self._clip is not None:
                self._clip.to(self.device, self.dtype)
            self._undistilled = None
            for stage in self.stages.values():
                if not (self.offload and isinstance(stage, DiffusionStage)):
                    self._place(stage)
        except (RuntimeError, AssertionError) as error:
            raise RequestError(
                f"device {device}: cannot be used here ({str(error).splitlines()[0]})"
            ) from None
        return self

    def _place(self, stage: EmbeddingPrior | DiffusionStage) -> None:
        stage.to(self.device)
        for part in stage.parts:
            # Not the part's own `to`: that of diffusers' modules warns.
            nn.Module.to(stage.get_submodule(part), dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def _in_place(self, stage: DiffusionStage, weights: Path, prefix: str = "") -> Iterator[None]:
        """Hold an offloaded stage's weights on the device; afterwards map them from the file again.

        Args:
            prefix: of the names of the weights to hold; the others stay mapped.
        """

        def placed(name: str, tensor: Tensor) -> Tensor:
            """As `_place`, in one step; a tensor that needs no change stays mapped and is read when used."""
            tensor = changed(name, tensor, self.changes[stage])
            if name.partition(".")[0] not in stage.parts:
                return tensor.to(self.device, torch.float32)
            layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            return tensor.to(self.device, self.dtype or torch.float32, memory_format=layout)

        with torch.inference_mode(False):  # parameters made in inference mode cannot be used outside of it
            files.place_weights(stage, weights, placed, prefix)
        try:
            yield
        finally:
            with torch.inference_mode(False):
                files.place_weights(stage, weights, lambda name, tensor: tensor, prefix)

    # --- stages and verbs ---

    @property
    def clip(self) -> Clip:
        """The CLIP.

        Raises:
            RequestError: a single stage without a CLIP.
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
    def decoder(self) -> BaseDecoder:
        """The decoder.

        Raises:
            RequestError: a single stage of another kind.
        """
        if self._decoder is None:
            raise RequestError(f"{self.name}: has no decoder, {WITHOUT['decoder']}")
        return self._decoder

    @decoder.setter
    def decoder(self, decoder: BaseDecoder) -> None:
        self._decoder = decoder

    def use_in_decoder(self, change: Change, scale: float) -> None:
        """Note an adapter's changes for the undistilled decoder, which is read when it is first needed."""
        self.decoder_changes.append((change, scale))
        self._undistilled = None

    def undistilled(self) -> Pipeline:
        """This pipeline with the decoder from which its own was distilled; itself if the model holds none.

        Inversions and edits use it, and requests with guidance, a negative prompt or other steps.
        """
        name, own = self.index.undistilled, self._decoder
        if name is None or own is None or own.distilled is None:
            return self
        if self._undistilled is None:
            folder = self.folder / name
            kind: type[BaseDecoder] = BaseDecoder  # type: ignore[type-abstract]
            found = _role(load_stage(folder, keep_dtype=self.offload), kind, folder)
            _check_clip(found, self._clip, folder)
            if self.offload:
                self.changes[found] = list(self.decoder_changes)
                found.in_place = partial(self._in_place, found, folder / "model.safetensors")
            else:
                for change, scale in self.decoder_changes:
                    merge(found, change, scale)
                self._place(found)
            self._undistilled = found
        twin = copy(self)
        twin._decoder = self._undistilled
        return twin

    @property
    def stages(self) -> dict[str, EmbeddingPrior | DiffusionStage]:
        """The stages by role, in the order of sampling."""
        prior: dict[str, EmbeddingPrior | DiffusionStage] = (
            {} if self.prior is None else {"prior": self.prior}
        )
        decoder = {} if self._decoder is None else {"decoder": self._decoder}
        return {**prior, **decoder, **{f"upsampler-{u.size}": u for u in self.upsamplers}}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images that the stages make, ascending.

        Raises:
            RequestError: a single prior, which makes no images.
        """
        first = [] if self.upsamplers and self._decoder is None else [self.decoder.size]
        return (*first, *(u.size for u in self.upsamplers))

    @property
    def grid(self) -> SizeGrid:
        """All sizes of the images that the stages make; raises as `sizes`."""
        return size_grid(self)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that are not in the model's vocabulary; empty for an open vocabulary."""
        if self.vocabulary is None:
            return []
        return [word for word in dict.fromkeys(prompt_words(prompt)) if word not in self.vocabulary]

    save_pretrained = save_pretrained
    load_lora = load_lora
    generate = generate
    __call__ = generate
    encode_images = encode_images
    encode_text = encode_text
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


def _check_clip(stage: Stage, clip: Clip | None, folder: Path) -> None:
    recorded = stage.config.clip
    if clip is not None and recorded is not None and not same_clip(recorded, clip):
        raise CheckpointError(f"{folder}: was trained for CLIP {recorded}, this model has {clip.identity}")


def _role(stage: Stage, kind: type[S], folder: Path) -> S:
    if not isinstance(stage, kind):
        raise CheckpointError(f"{folder}: is a {stage.config.kind}, not a {kind.role}")
    return stage
