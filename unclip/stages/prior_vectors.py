"""The prior from vectors: any vectors → the CLIP embedding of the image that they describe.

The condition replaces the caption of the paper's prior (Ramesh et al. 2022, §2.2): features of brain
activity, of a sound, of another encoder, or attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from unclip.diffusion.diffusion import Cond
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.errors import DataError
from unclip.nn.layers import TimeEmbedding
from unclip.nn.transformer import Transformer, position_table
from unclip.stages.base import ROUNDING, Moments
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import Whitening
from unclip.stages.prior_configs import VectorPriorConfig as VectorPriorConfig


class VectorNetwork(nn.Module):
    """A transformer that predicts z_i from vectors, the timestep and the noised z_i.

    Its sequence is [tokens of the vectors, timestep, noised z_i, learned query]; the query's output is z_i.
    """

    def __init__(self, config: VectorPriorConfig) -> None:
        super().__init__()
        width, vectors = config.width, config.vectors
        length = vectors.count * vectors.tokens
        self.vectors = nn.Linear(vectors.width, vectors.tokens * width)
        self.null = nn.Parameter(torch.zeros(1, length, width))
        self.time = TimeEmbedding(width, width)
        self.image_embed = nn.Linear(config.embed, width)
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = position_table(1, length + 3, width)
        self.body = Transformer(width, config.depth, config.heads, causal=False)
        self.out_proj = nn.Linear(width, config.embed)

    def forward(self, x: Tensor, t: Tensor, *, vectors: Tensor, known: Tensor) -> Tensor:
        """x: noised z_i [B, D]; t [B]; whitened vectors [B, count, width]; known [B] → z_i [B, D].

        Where `known` is False, learned tokens replace those of the vectors.
        """
        dtype, batch = self.vectors.weight.dtype, len(x)
        tokens = self.vectors(vectors.to(dtype)).reshape(batch, *self.null.shape[1:])
        tokens = torch.where(known[:, None, None], tokens, self.null)
        rest = torch.stack([self.time(t), self.image_embed(x.to(dtype))], dim=1)
        sequence = torch.cat([tokens, rest, self.query.expand(batch, 1, -1)], dim=1)
        out: Tensor = self.out_proj(self.body(sequence + self.positions)[:, -1])
        return out


class VectorPrior(DiffusionStage, Whitening):
    """Vectors → z_i, trained with the MSE of z_i. Vectors and z_i are whitened by their measured moments."""

    Config = VectorPriorConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image_embed", "vectors"})
    vector_mean: Tensor
    vector_std: Tensor

    def __init__(self, config: VectorPriorConfig) -> None:
        super().__init__(config)
        self.network = VectorNetwork(config)
        self.vector_shape = (config.vectors.count, config.vectors.width)
        self.drop = config.vector_drop
        self.register_buffer("vector_mean", torch.zeros(self.vector_shape))
        self.register_buffer("vector_std", torch.ones(self.vector_shape))

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        """Measures the moments of the vectors, and those of z_i if they are not given.

        Raises:
            DataError: the vectors, or the embeddings, are all the same.
        """
        pairs = [
            (b.image_embed.float().cpu(), b.vectors.cpu())
            for b in batches
            if b.image_embed is not None and b.vectors is not None
        ]
        z_i, vectors = (torch.cat(part) for part in zip(*pairs, strict=True))
        super().calibrate((), moments or Moments.of(z_i))
        mean, std = Moments.of(vectors)
        varies = std > ROUNDING * mean.abs()
        if not varies.any():
            raise DataError(
                "the vectors of the measured samples (data.calibration) are all the same; a prior learns "
                "from vectors that differ"
            )
        self.vector_mean.copy_(mean)
        self.vector_std.copy_(torch.where(varies, std, 1.0))  # a constant number must not be amplified

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image_embed is not None and batch.vectors is not None
        rng = batch.rng(batch.image_embed)
        known = rng.uniform() >= self.drop
        x0 = self.whiten(batch.image_embed)
        return self.diffusion.loss(self.network, x0, self._cond(batch.vectors, known), *self._draw(rng, x0))

    def sample(self, vectors: Tensor, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """Samples z_i [B, D], the x of the last step.

        Args:
            vectors: [B, count, width].
            noise: for B images.
        """
        known = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        cond, null = self._cond(vectors, known), self._cond(vectors, ~known)
        for step in self.walk((len(vectors), self.width), cond, null, options, noise):
            yield Step(step.t, self.unwhiten(step.x), self.unwhiten(step.x0))

    def sample_batch(self, batch: Batch, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        assert batch.vectors is not None
        return self.sample(batch.vectors, options, noise)

    def _cond(self, vectors: Tensor, known: Tensor) -> Cond:
        return {"vectors": (vectors.float() - self.vector_mean) / self.vector_std, "known": known}


STAGE = VectorPrior
