"""The base of every stage: a config, a network, a loss, and a folder on disk.

A stage's `forward` is its loss, so that module wrappers (DDP, FSDP, torch.compile) work without special
cases. Call `stage(batch)`, never `stage.forward(batch)`. To use a trained stage, call its `sample`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from unclip.clip import ClipSizes, same_clip
from unclip.errors import ConfigError, DataError
from unclip.files import load_weights, save_weights, write_json
from unclip.stages.batch import Batch
from unclip.stages.config import StageConfig, parse_checkpoint

ROUNDING = 1e-5  # deviation of equal embeddings, relative to their size, that rounding alone may give


class Moments(NamedTuple):
    """Mean and standard deviation of z_i per dimension, [D] each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, z_i: Tensor) -> Self:
        """Measure the moments of z_i [N, D]."""
        return cls(z_i.mean(0), z_i.std(0) if len(z_i) > 1 else torch.zeros_like(z_i[0]))

    def check(self) -> None:
        """Check that the images differ.

        Raises:
            DataError: the deviation is 0 or not a number: of one image, or of copies of it.
        """
        if not self.std.max() > ROUNDING * self.mean.abs().max():
            raise DataError(
                "the embeddings of the measured images (data.calibration) are all the same; their deviation "
                "needs two different images or more"
            )


class Stage(nn.Module, ABC):
    """One trainable part of a model, built from its config alone.

    Attributes:
        role: its part in a pipeline: "clip", "prior", "decoder" or "upsampler"; None if it has none.
        Config: class of its config.
        needs: names of the fields of `Batch` that its loss reads.
        size: side in pixels of its training images; None if it needs none.
        context: number of tokens of the longest caption it can read; None if unlimited.
        parts: names of the submodules that run in a pipeline's dtype; the rest stays float32.
        vector_shape: (number, width) of the vectors of a sample that it reads; None if it reads none.
    """

    parts: ClassVar[tuple[str, ...]] = ("network",)
    role: ClassVar[str | None] = None
    Config: ClassVar[type[StageConfig]]
    needs: ClassVar[frozenset[str]]
    size: int | None = None

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.config = config
        self.context: int | None = None
        self.vector_shape: tuple[int, int] | None = None

    @property
    def crop(self) -> int | None:
        """Side in pixels of the random training crops; equal to `size` to train on whole images."""
        return self.size

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of each example, [B]."""

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        """Measures statistics of the data; called once, before training from scratch.

        Args:
            batches: a few batches with embeddings; read only if `moments` are not enough.
            moments: of z_i over the whole data set, if its embeddings are precomputed.

        Raises:
            DataError: the embeddings do not differ, so they have no deviation to measure.
        """

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapts another stage's state dict so that this stage can be initialised from it."""
        return state

    def for_clip(self, clip: ClipSizes) -> None:
        """Records the CLIP that the stage is trained with.

        Raises:
            ConfigError: the stage belongs to another CLIP, its widths differ, or its context is shorter.
        """
        if self.config.clip is not None and not same_clip(self.config.clip, clip):
            raise ConfigError(f"the stage is trained with CLIP {self.config.clip}, not with {clip.identity}")
        for key, theirs in (("embed", clip.width), ("token_width", clip.token_width)):
            ours = getattr(self.config, key, theirs)
            if ours != theirs:
                raise ConfigError(f"stage.{key} is {ours}, but {clip.identity} has {theirs}")
        if self.context is not None and self.context < clip.context:
            raise ConfigError(
                f"the stage reads {self.context} tokens, but {clip.identity} writes up to {clip.context}"
            )
        self.config = self.config.model_copy(update={"clip": clip.identity})

    def complete(self, clip: Path) -> None:
        """Adds what is made by the CLIP of its model, as it joins one.

        Args:
            clip: folder of the CLIP.
        """

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Writes config.json and model.safetensors into an existing folder."""
        write_json(folder / "config.json", self.config.model_dump(mode="json"))
        save_weights(self, folder / "model.safetensors", dtype)

    @classmethod
    def load(cls, folder: Path, *, keep_dtype: bool = False) -> Self:
        """Loads a stage that `save` wrote, on the CPU; `keep_dtype` as in `load_weights`.

        Draws no random number, so that a resumed run stays exact.
        """
        config = parse_checkpoint(cls.Config, folder)
        with torch.device("meta"):
            stage = cls(config)
        load_weights(stage, folder / "model.safetensors", keep_dtype=keep_dtype)
        return stage.eval()
