"""The one-pass prior: Text → z_i in a single step, no diffusion (ECLIPSE; Patel et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.diffusion import Guidance
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.nn.transformer import Transformer, after_caption, position_table
from unclip.stages.batch import Batch, drop_text, pad_to_same_length
from unclip.stages.config import SamplingConfig
from unclip.stages.prior_base import WhitenedPrior
from unclip.stages.prior_configs import OnePassConfig as OnePassConfig


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
        self.body = Transformer(width, config.depth, config.heads, causal=config.causal)
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


class OnePassPrior(WhitenedPrior):
    """Text and noise → z_i, trained by squared error and a contrastive loss over the batch's captions."""

    Config = OnePassConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image_embed", "text"})

    def __init__(self, config: OnePassConfig) -> None:
        super().__init__(config)
        self.network = OnePassNetwork(config)
        self.contrast, self.temperature = config.contrast, config.temperature

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image_embed is not None and batch.text is not None and batch.null is not None
        true = batch.image_embed.float()
        rng = batch.rng(true)
        keep = rng.uniform() >= self.text_drop
        text = drop_text(batch.text, batch.null, keep)
        predicted = self._predict(rng.normal(true), text)
        loss = F.mse_loss(predicted, self.whiten(true), reduction="none").mean(1)
        # Rows with a dropped caption have no contrastive loss.
        z_i = F.normalize(self.unwhiten(predicted), dim=1)
        z_t = F.normalize(batch.text.embed.float(), dim=1)
        own = torch.arange(len(true), device=true.device)
        contrast = F.cross_entropy(z_i @ z_t.T / self.temperature, own, reduction="none")
        return loss + self.contrast * keep * contrast

    def length(self, options: SamplingConfig) -> int:
        return 1

    def sample(self, text: Text, null: Text, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        text, null = pad_to_same_length(text, null)
        start = noise(torch.empty(len(text.embed), self.width, device=self.device))
        predicted = self._predict(start, text)
        if options.guidance != 1:
            predicted = Guidance(options.guidance).combine(predicted, self._predict(start, null))
        z_i = self.unwhiten(predicted)
        yield Step(0, z_i, z_i)

    def _predict(self, noise: Tensor, text: Text) -> Tensor:
        out: Tensor = self.network(noise, text_embed=text.embed, tokens=text.tokens, mask=text.mask)
        return out.float()


STAGE = OnePassPrior
