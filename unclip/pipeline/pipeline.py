"""The whole chain: caption → CLIP → prior → decoder → upsamplers → pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from unclip import files
from unclip.clip import Clip, copy_clip, same_clip
from unclip.device import best_device, quick_in_bf16
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.models.assemble import CLIP, clip_to_save
from unclip.models.index import FILE, ModelIndex
from unclip.models.resolve import load_clip, resolve
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
from unclip.stages.base import BasePrior, DiffusionStage, Stage
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler
from unclip.vocabulary import prompt_words

S = TypeVar("S", bound=Stage)
log = logging.getLogger(__name__)


class Pipeline:
    """A CLIP, a prior, a decoder and upsamplers that were trained for each other.

    Or some of them: a model that only varies pictures (Karlo's second repository) has no prior and refuses
        captions, and a
    stage by itself does its own part of the way: `sample_prior`, `decode` or `upsample`.

    Example:
        >>> pipe = Pipeline.from_pretrained("mini")
        >>> pipe("a shiba inu wearing a beret", seed=7).images[0].save("shiba.png")
    """

    def __init__(
        self,
        clip: Clip | None,
        prior: BasePrior | None,
        decoder: Decoder | None,
        upsamplers: Sequence[Upsampler],
        *,
        folder: Path,
        index: ModelIndex,
    ) -> None:
        self._clip, self.prior, self._decoder, self.upsamplers = clip, prior, decoder, tuple(upsamplers)
        self.folder, self.index, self.name = folder, index, index.name
        self.vocabulary = frozenset(index.vocabulary) if index.vocabulary else None
        self.offload, self.quick = False, False

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
    ) -> Pipeline:
        """The model or the single stage that `ref` names: the bundled "mini", a folder, a Hub repository's
        id, mini/decoder, ….

        diffusers' unCLIP folders and Karlo's own checkpoints are converted on first use, into the user's
        cache. A prior, decoder or upsampler by itself (a saved stage, a run, the folder of one of diffusers'
        networks, one of Karlo's .ckpt files) comes with the CLIP that lies beside it, if one does.

        Args:
            device: the first CUDA device, Apple's, or the CPU, if not given.
            dtype: of the networks. If not given, float32, so that a seed gives the same picture everywhere;
                but bfloat16 for a model whose index says `"precision": "bfloat16"` (Karlo) on a device that
                is quick in it.
            revision: of a Hub repository: a branch, a tag or a commit; `ref` may say it, too, as
                owner/name@revision.
            token: for the Hub, if not HF_TOKEN's.
            offload: a stage is read from disk when its turn comes and dropped after it, so that no two are in
                memory.

        Raises:
            CheckpointError: nothing there, damaged files, or stages that do not belong together.
        """
        found = resolve(ref, revision=revision, token=token)
        folder, index = found.folder, found.index
        if not index.stages:
            raise CheckpointError(f"{folder}: is a {found.kind} by itself, of which no pipeline is made")
        if offload:
            files.read_ahead(folder / index.stages[0] / "model.safetensors")
        clip = None if found.clip is None else load_clip(found.clip)
        kept = None if offload else torch.float32  # offloaded weights wait in their file, as they are stored
        stages = {name: load_stage(folder / name, dtype=kept) for name in index.stages}
        for stage in stages.values():
            if not isinstance(stage, DiffusionStage):
                stage.float()  # never offloaded, so never in its file's precision
        for name, stage in stages.items():
            trained_for = stage.config.clip
            if clip is not None and trained_for is not None and not same_clip(trained_for, clip):
                raise CheckpointError(
                    f"{folder}/{name}: was trained for CLIP {trained_for}, this model has {clip.identity}"
                )
        pipeline = cls(
            clip,
            None if index.prior is None else _role(stages[index.prior], BasePrior, folder / index.prior),  # type: ignore[type-abstract]
            None if index.decoder is None else _role(stages[index.decoder], Decoder, folder / index.decoder),
            sorted((_role(stages[n], Upsampler, folder / n) for n in index.upsamplers), key=lambda u: u.size),
            folder=folder,
            index=index,
        )
        if offload:
            for name, stage in stages.items():
                if isinstance(stage, DiffusionStage):
                    stage.in_place = partial(pipeline._in_place, stage, folder / name / "model.safetensors")
        pipeline.offload, pipeline.quick = offload, dtype is None and index.precision == "bfloat16"
        return pipeline.to(device or best_device(), dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model as it is now, exchanged parts included, as a folder that loads back to the same
        bits.

        A public CLIP is named in it; the weights of another one are copied. Stages that were trained with
        another CLIP than the pipeline has now are saved as stages of this one, with a warning.

        Raises:
            CheckpointError: `folder` holds something else, or the CLIP cannot be saved. Nothing is written
                then.
        """
        public, source = None, None
        if self._clip is not None:
            reference: str | None = getattr(self._clip, "reference", None)
            if reference is None:
                raise CheckpointError(
                    f"{folder}: cannot be saved with CLIP {self._clip.identity}, which was made in Python; "
                    "save that as a "
                    "folder, and set pipe.clip to load_clip of it"
                )
            public, source = clip_to_save(reference)
        stages = {role: self._with_its_clip(role, stage) for role, stage in self.stages.items()}
        made = ModelIndex.of(
            self.name,
            {role: role for role in stages},
            clip=CLIP if source else public,
            vocabulary=self.index.vocabulary,
            precision=self.index.precision,
        )
        with files.new_folder(Path(folder), replaces=FILE) as out:
            for role, stage in stages.items():
                (out / role).mkdir()
                stage.save(out / role)
            if source:
                copy_clip(source, out / CLIP)
            made.model_copy(update=self.index.model_extra).write(out)

    def _with_its_clip(self, role: str, stage: BasePrior | DiffusionStage) -> BasePrior | DiffusionStage:
        """The stage as one of this pipeline's CLIP; its weights are shared."""
        clip, recorded = self._clip, stage.config.clip
        if clip is None or recorded in (None, clip.identity):
            return stage
        twin = copy(stage)
        twin.config = stage.config.model_copy(update={"clip": None})
        if not same_clip(recorded, clip):
            log.warning(
                "%s: its %s was trained with CLIP %s; it is saved with %s",
                self.name,
                role,
                recorded,
                clip.identity,
            )
        try:
            twin.for_clip(clip)
        except ConfigError as error:
            raise CheckpointError(f"{role}: cannot be saved with this CLIP ({error})") from None
        return twin

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pipeline:
        """Moves everything; with `dtype`, also the networks' precision, which is else `from_pretrained`'s."""
        try:
            self.device = torch.device(device)
            self.dtype = (
                torch.bfloat16 if dtype is None and self.quick and quick_in_bf16(self.device) else dtype
            )
            if self._clip is not None:
                self._clip.to(self.device, self.dtype)
            for stage in self.stages.values():
                if not (self.offload and isinstance(stage, DiffusionStage)):
                    self._place(stage)
        except (RuntimeError, AssertionError) as error:
            raise RequestError(
                f"device {device}: cannot be used here ({str(error).splitlines()[0]})"
            ) from None
        return self

    def _place(self, stage: BasePrior | DiffusionStage) -> None:
        stage.to(self.device)
        stage.network.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @contextmanager
    def _in_place(self, stage: DiffusionStage, weights: Path) -> Iterator[None]:
        """The stage on the device; afterwards its weights are the file's again, which is mapped and not
        read.
        """

        def placed(name: str, tensor: Tensor) -> Tensor:
            """As `_place` would have it, in one step; what is so in the file stays there and is read when it
            is used.
            """
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
                files.load_weights(stage, weights, keep_dtype=True)

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
    def stages(self) -> dict[str, BasePrior | DiffusionStage]:
        """The stages by role, in the order of the chain."""
        prior: dict[str, BasePrior | DiffusionStage] = {} if self.prior is None else {"prior": self.prior}
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
