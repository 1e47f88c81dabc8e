"""The autoregressive prior: z_i as a sequence of quantised components (Ramesh et al. 2022, §2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.diffusion import Guidance
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.nn.transformer import Transformer, after_caption, embedding, position_table
from unclip.stages.base import Moments
from unclip.stages.batch import Batch, drop_text, pad_to_same_length
from unclip.stages.config import SamplingConfig
from unclip.stages.prior_base import BasePrior
from unclip.stages.prior_configs import AutoregressiveConfig as AutoregressiveConfig

REACH = 4.0  # the buckets of a component span ±REACH standard deviations
WAVES = 16.0  # half-periods of the highest frequency in the initial bucket embeddings


class AutoregressiveNetwork(nn.Module):
    """A causal transformer over [caption tokens, z_t, dot product, codes] that predicts the next code.

    Two additions to the paper: each position also reads the same component of z_t, quantised alike (the
    hints); and neighbouring buckets start with similar embeddings and output weights. Without them a small
    network learns only the marginal of each component (a loss of 4.89 nats over 256 buckets, their entropy).
    """

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__()
        width = config.width
        self.text = nn.Linear(config.token_width, width)
        self.text_embed = nn.Linear(config.embed, width)
        self.dot = embedding(config.dots + 1, width)  # the last row is for dropped captions
        self.codes = embedding(config.buckets, width)
        self.hints = embedding(config.buckets, width)
        self.positions = position_table(1, config.context + 1 + config.embed, width)
        self.context = config.context
        self.body = Transformer(width, config.depth, config.heads, causal=True)
        self.out_proj = nn.Linear(width, config.buckets)
        with torch.no_grad():
            waves = ordinal(config.buckets, width)
            self.codes.weight.copy_(0.5 * waves)
            self.hints.weight.copy_(0.5 * waves)
            self.out_proj.weight.copy_(0.2 * waves / width**0.5)

    def forward(
        self, codes: Tensor, dot: Tensor, hints: Tensor, *, text_embed: Tensor, tokens: Tensor, mask: Tensor
    ) -> Tensor:
        """Logits [B, K + 1, buckets].

        Args:
            codes: the previous codes, [B, K]. dot: bucket of the dot product, [B].
            hints: z_t's codes of the components to predict, [B, K + 1].
            text_embed: z_t, [B, D]. tokens: [B, L, W]. mask: [B, L].
        """
        dtype = self.text.weight.dtype
        inputs = torch.cat([self.dot(dot)[:, None], self.codes(codes)], dim=1) + self.hints(hints)
        rest = torch.cat([self.text_embed(text_embed.to(dtype))[:, None], inputs], dim=1)
        states = after_caption(
            self.body, self.positions, self.context, self.text(tokens.to(dtype)), rest, mask
        )
        logits: Tensor = self.out_proj(states[:, 1:])
        return logits


class AutoregressivePrior(BasePrior):
    """Text → z_i, one principal component at a time, in order of decreasing variance."""

    Config = AutoregressiveConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image_embed", "text"})
    mean: Tensor
    basis: Tensor
    spread: Tensor
    text_mean: Tensor
    text_spread: Tensor
    kept: Tensor
    dot_edges: Tensor

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__(config)
        self.network = AutoregressiveNetwork(config)
        self.buckets, self.dots, self.explained = config.buckets, config.dots, config.explained
        self.register_buffer("mean", torch.zeros(config.embed))
        self.register_buffer("basis", torch.eye(config.embed))  # one component per row
        self.register_buffer(
            "spread", torch.ones(config.embed)
        )  # standard deviation of z_i along each component
        self.register_buffer("text_mean", torch.zeros(config.embed))
        self.register_buffer(
            "text_spread", torch.ones(config.embed)
        )  # standard deviation of z_t along each component
        self.register_buffer("kept", torch.tensor(config.embed))  # number of components in use
        self.register_buffer("dot_edges", torch.linspace(-1, 1, config.dots - 1))

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        """Measures the principal components of z_i, their number, and the distributions of z_t and z_i · z_t.

        Always reads the batches: the moments have no covariance.
        """
        pairs = [
            (b.image_embed.double().cpu(), b.text.embed.double().cpu())
            for b in batches
            if b.image_embed is not None and b.text is not None
        ]
        z_i, z_t = (torch.cat(part) for part in zip(*pairs, strict=True))
        Moments.of(z_i).check()
        self.mean.copy_(z_i.mean(0))
        variance, vectors = torch.linalg.eigh(torch.cov(z_i.T))
        variance = variance.flip(0).clamp(min=0)
        self.basis.copy_(vectors.T.flip(0))
        self.spread.copy_(variance.sqrt().clamp(min=1e-6))
        self.text_mean.copy_(z_t.mean(0))
        self.text_spread.copy_(((z_t - self.text_mean) @ self.basis.double().T).std(0).clamp(min=1e-6))
        share = variance.cumsum(0) / variance.sum()
        self.kept.fill_(min(int((share < self.explained).sum()) + 1, len(variance)))
        inner = torch.arange(1, self.dots, dtype=torch.float64) / self.dots
        self.dot_edges.copy_(torch.quantile((z_i * z_t).sum(1), inner))

    def quantise(self, z_i: Tensor) -> Tensor:
        """z_i [B, D] → codes [B, kept]."""
        return self._codes(z_i, self.mean, self.spread)

    def restore(self, codes: Tensor) -> Tensor:
        """Codes [B, K] of the first K components → z_i [B, D], from the centre of each bucket."""
        k = codes.shape[1]
        components = (((codes + 0.5) / self.buckets) * 2 - 1) * REACH * self.spread[:k]
        return components @ self.basis[:k] + self.mean

    def _codes(self, z: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        k = int(self.kept)
        components = (z - mean) @ self.basis[:k].T / spread[:k]
        return ((components / REACH + 1) / 2 * self.buckets).floor().clamp(0, self.buckets - 1).long()

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image_embed is not None and batch.text is not None and batch.null is not None
        z_i = batch.image_embed.float()
        keep = batch.rng(z_i).uniform() >= self.text_drop
        dot = torch.bucketize((z_i * batch.text.embed.float()).sum(1), self.dot_edges)
        dot = torch.where(keep, dot, self.dots)
        codes, text = self.quantise(z_i), drop_text(batch.text, batch.null, keep)
        logits = self._logits(codes[:, :-1], dot, self._hints(text), text)
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").mean(1)

    def length(self, options: SamplingConfig) -> int:
        return int(self.kept)

    def sample(self, text: Text, null: Text, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """Samples the codes one by one; the x of each step is z_i [B, D] from the codes so far.

        The dot product is drawn from the top half of its distribution (Ramesh et al. 2022, §2.2).
        """
        text, null = pad_to_same_length(text, null)
        n = len(text.embed)
        rng = torch.special.ndtr(noise(torch.empty(n, 1, device=self.device)))[:, 0]
        dot = (self.dots / 2 * (1 + rng)).long().clamp(max=self.dots - 1)
        null_dot = torch.full_like(dot, self.dots)
        codes = torch.empty(n, 0, dtype=torch.long, device=self.device)
        hints, null_hints = self._hints(text), self._hints(null)
        for left in reversed(range(hints.shape[1])):
            logits = self._logits(codes, dot, hints, text)[:, -1]
            if options.guidance != 1:
                unguided = self._logits(codes, null_dot, null_hints, null)[:, -1]
                logits = Guidance(options.guidance).combine(logits, unguided)
            # The Gumbel-max trick; the normal CDF turns the Gaussian noise into uniform noise.
            rank = torch.special.ndtr(noise(logits)).clamp(1e-7, 1 - 1e-7)
            codes = torch.cat([codes, (logits - (-rank.log()).log()).argmax(1, keepdim=True)], dim=1)
            z_i = self.restore(codes)
            yield Step(left, z_i, z_i)

    def _hints(self, text: Text) -> Tensor:
        """The codes of z_t, [B, kept]."""
        return self._codes(text.embed.float(), self.text_mean, self.text_spread)

    def _logits(self, codes: Tensor, dot: Tensor, hints: Tensor, text: Text) -> Tensor:
        known = hints[:, : codes.shape[1] + 1]
        out: Tensor = self.network(
            codes, dot, known, text_embed=text.embed, tokens=text.tokens, mask=text.mask
        )
        return out.float()


def ordinal(buckets: int, width: int) -> Tensor:
    """Sinusoidal embeddings of the buckets' positions, [buckets, width]; neighbours are similar."""
    position = (torch.arange(buckets) + 0.5) / buckets
    phase = torch.pi * position[:, None] * torch.linspace(0, WAVES, (width + 1) // 2)
    return torch.cat([phase.cos(), phase.sin()], dim=1)[:, :width]


STAGE = AutoregressivePrior
