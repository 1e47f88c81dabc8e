"""The one-pass prior: Text → z_i in a single step, no diffusion (ECLIPSE; Patel et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.nn.transformer import Transformer, after_caption, position_table
from unclip.stages.base import (
    BasePrior,
    BasePriorConfig,
    Batch,
    Moments,
    SamplingConfig,
    drop_text,
    pad_to_same_length,
    whitening,
)


class OnePassConfig(BasePriorConfig):
    """Configuration of the one-pass prior (ECLIPSE).

    Attributes:
        contrast: weight of the contrastive loss beside the squared error (the paper's λ).
        temperature: temperature of the contrastive loss.
    """

    kind: str = "prior_onepass"
    contrast: float = Field(0.2, ge=0)
    temperature: float = Field(0.07, gt=0)
    sampling: SamplingConfig = SamplingConfig(steps=1, guidance=1.0)


class OnePassNetwork(nn.Module):
    """A transformer over [caption tokens, z_t, noise, learned query]; the query's output is z_i, whitened."""

    def __init__(self, config: OnePassConfig) -> None:
        super().__init__()
        width = config.width
        self.text = nn.Linear(config.token_width, width)
        self.text_embed = nn.Linear(config.embed, width)
        self.noise = nn.Linear(config.embed, width)
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = position_table(1, config.context + 3, width)
        self.context = config.context
        self.body = Transformer(width, config.depth, config.heads, causal=False)
        self.out_proj = nn.Linear(width, config.embed)

    def forward(self, noise: Tensor, *, text_embed: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """noise [B, D]; text_embed z_t [B, D]; tokens [B, L, W]; mask [B, L] → [B, D]."""
        dtype = self.text.weight.dtype
        parts = torch.stack([self.text_embed(text_embed.to(dtype)), self.noise(noise.to(dtype))], dim=1)
        rest = torch.cat([parts, self.query.expand(len(noise), 1, -1)], dim=1)
        states = after_caption(
            self.body, self.positions, self.context, self.text(tokens.to(dtype)), rest, mask
        )
        out: Tensor = self.out_proj(states[:, -1])
        return out


class OnePassPrior(BasePrior):
    """Text and noise → z_i, trained by squared error and by a contrast with the batch's other captions."""

    Config = OnePassConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image_embed", "text"})
    mean: Tensor
    std: Tensor

    def __init__(self, config: OnePassConfig) -> None:
        super().__init__(config)
        self.network = OnePassNetwork(config)
        self.text_drop, self.contrast, self.temperature = (
            config.text_drop,
            config.contrast,
            config.temperature,
        )
        self.width, self.context = config.embed, config.context
        self.register_buffer("mean", torch.zeros(config.embed))
        self.register_buffer("std", torch.ones(config.embed))

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        """Measures the embeddings' mean and deviation per dimension."""
        mean, std = whitening(batches, moments)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image_embed is not None and batch.text is not None and batch.null is not None
        true = batch.image_embed.float()
        rng = batch.rng(true)
        keep = rng.uniform() >= self.text_drop
        text = drop_text(batch.text, batch.null, keep)
        made = self._made(rng.normal(true), text)
        loss = F.mse_loss(made, (true - self.mean) / self.std, reduction="none").mean(1)
        # The right caption among the batch's; rows without a caption have none to find.
        z_i, z_t = (
            F.normalize(made * self.std + self.mean, dim=1),
            F.normalize(batch.text.embed.float(), dim=1),
        )
        own = torch.arange(len(true), device=true.device)
        contrast = F.cross_entropy(z_i @ z_t.T / self.temperature, own, reduction="none")
        return loss + self.contrast * keep * contrast

    def length(self, options: SamplingConfig) -> int:
        return 1

    def sample(self, text: Text, null: Text, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        """z_i [B, D] in one step; `null` is what guidance leads away from, `noise` for B images."""
        text, null = pad_to_same_length(text, null)
        start = noise(torch.empty(len(text.embed), self.width, device=self.device))
        made = self._made(start, text)
        if options.guidance != 1:
            away = self._made(start, null)
            made = away + options.guidance * (made - away)
        z_i = made * self.std + self.mean
        yield Step(0, z_i, z_i)

    def _made(self, noise: Tensor, text: Text) -> Tensor:
        out: Tensor = self.network(noise, text_embed=text.embed, tokens=text.tokens, mask=text.mask)
        return out.float()


STAGE = OnePassPrior
