"""The bases of every prior: a condition, mostly a caption → z_i, the CLIP embedding of an image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.stages.base import Moments, Stage
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.prior_configs import BasePriorConfig as BasePriorConfig
from unclip.stages.prior_configs import EmbeddingPriorConfig as EmbeddingPriorConfig


class EmbeddingPrior(Stage):
    """A stage that samples z_i under a condition: a caption, or vectors."""

    role = "prior"
    network: nn.Module

    def __init__(self, config: EmbeddingPriorConfig) -> None:
        super().__init__(config)
        self.width = config.embed

    @abstractmethod
    def sample_batch(self, batch: Batch, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """Samples z_i [B, D], the x of the last step, under the conditions of a training batch."""

    def length(self, options: SamplingConfig) -> int:
        """The number of steps that sampling yields."""
        return options.steps


class BasePrior(EmbeddingPrior):
    """A prior that reads captions."""

    def __init__(self, config: BasePriorConfig) -> None:
        super().__init__(config)
        self.context, self.text_drop = config.context, config.text_drop

    @abstractmethod
    def sample(self, text: Text, null: Text, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """Samples z_i [B, D], the x of the last step.

        Args:
            text: captions, B rows.
            null: null condition of guidance (the empty or a negative caption), B rows.
            noise: for B images.
        """

    def sample_batch(self, batch: Batch, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        assert batch.text is not None and batch.null is not None
        return self.sample(batch.text, batch.null.repeat(len(batch.captions)), options, noise)


class Whitening(EmbeddingPrior):
    """A prior whose network sees z_i whitened: (z_i − mean) / std per dimension."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: EmbeddingPriorConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.embed))
        self.register_buffer("std", torch.ones(config.embed))

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        """Sets mean and std to the given moments, or measures them on the batches."""
        if moments is None:
            embeds = torch.cat([b.image_embed.float().cpu() for b in batches if b.image_embed is not None])
            moments = Moments.of(embeds)
        moments.check()
        self.mean.copy_(moments.mean)
        self.std.copy_(moments.std.clamp(min=1e-4))  # a constant dimension must not divide by zero

    def whiten(self, z_i: Tensor) -> Tensor:
        """z_i [B, D] → float32 data of mean 0 and standard deviation 1."""
        return (z_i.float() - self.mean) / self.std

    def unwhiten(self, x: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return x * self.std + self.mean


class WhitenedPrior(Whitening, BasePrior):
    """A prior that reads captions, and whose network sees z_i whitened."""

    def __init__(self, config: BasePriorConfig) -> None:
        super().__init__(config)
