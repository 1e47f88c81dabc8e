"""The diffusion prior: a caption → the CLIP embedding of a picture of it (Ramesh et al. 2022, §2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.diffusion import Cond, Diffusion
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.nn.layers import TimeEmbedding
from unclip.nn.transformer import Transformer, after_caption, position_table
from unclip.stages.base import Moments
from unclip.stages.batch import Batch, drop_text, pad_to_same_length
from unclip.stages.config import SamplingConfig
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior_base import WhitenedPrior
from unclip.stages.prior_configs import PriorConfig as PriorConfig


class PriorNetwork(nn.Module):
    """A causal transformer that predicts z_i from the caption, the timestep and the noised z_i.

    Its sequence is [caption tokens, z_t, timestep, noised z_i, learned query]; the query's output is z_i.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        width = config.width
        self.text = nn.Linear(config.token_width, width)
        self.text_embed = nn.Linear(config.embed, width)
        self.time = TimeEmbedding(width, width)
        self.image_embed = nn.Linear(config.embed, width)
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = position_table(1, config.context + 4, width)
        self.context = config.context
        self.body = Transformer(width, config.depth, config.heads, causal=True)
        self.out_proj = nn.Linear(width, config.embed)

    def forward(self, x: Tensor, t: Tensor, *, text_embed: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """x: noised z_i [B, D]; t [B]; text_embed z_t [B, D]; tokens [B, L, W]; mask [B, L] → z_i [B, D]."""
        dtype = self.text.weight.dtype
        parts = [self.text_embed(text_embed.to(dtype)), self.time(t), self.image_embed(x.to(dtype))]
        rest = torch.cat([torch.stack(parts, dim=1), self.query.expand(len(x), 1, -1)], dim=1)
        states = after_caption(
            self.body, self.positions, self.context, self.text(tokens.to(dtype)), rest, mask
        )
        out: Tensor = self.out_proj(states[:, -1])
        return out


class Prior(DiffusionStage, WhitenedPrior):
    """Text → z_i, trained with the MSE of z_i; of several candidates the one nearest to z_t is kept."""

    Config = PriorConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image_embed", "text"})

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config)
        self.network = PriorNetwork(config)
        self.normalise = config.normalise
        self.std.fill_(1 / config.scale)  # with a mean of 0 this multiplies by the fixed scale

    def calibrate(self, batches: Iterable[Batch], moments: Moments | None = None) -> None:
        if self.normalise == "whiten":
            super().calibrate(batches, moments)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image_embed is not None and batch.text is not None and batch.null is not None
        rng = batch.rng(batch.image_embed)
        text = drop_text(batch.text, batch.null, rng.uniform() >= self.text_drop)
        x0 = self.whiten(batch.image_embed)
        return self.diffusion.loss(self.network, x0, _cond(text), *self._draw(rng, x0))

    def measure_x0_variance(self, batches: Iterable[Batch], times: int = 64) -> None:
        """Measures the mean variance of x0 given x_t for `analytic_dpm`, and stores it in the config.

        By the law of total variance it is E‖x_0‖² − E‖E[x_0 | x_t]‖² per dimension. The network estimates the
        conditional mean. Bao et al. 2022, eq. 8, use the score's norm, which is equivalent.

        Args:
            batches: training data with embeddings.
            times: number of evenly spaced timesteps.
        """
        grid = self.diffusion.schedule.grid(times)[::-1]
        total, count = torch.zeros(times, dtype=torch.float64), 0
        for batch in batches:
            assert batch.image_embed is not None and batch.text is not None
            rng = batch.rng(batch.image_embed)
            x0 = self.whiten(batch.image_embed)
            denoise = self.denoiser(_cond(batch.text), None, self.config.sampling.updated({"guidance": 1}))
            for i, t in enumerate(grid):
                alpha, sigma = self.diffusion.schedule.at(t)
                x0_hat = denoise(alpha * x0 + sigma * rng.normal(x0), t).x0
                total[i] += (x0.square() - x0_hat.square()).double().mean(1).sum().cpu()
            count += len(x0)
        x0_variance = tuple(round(value, 6) for value in (total / count).clamp(min=0).tolist())
        measured = self.diffusion.config.model_copy(update={"x0_variance": x0_variance})
        self.config = self.config.model_copy(update={"diffusion": measured})
        self.diffusion = Diffusion(measured)

    def sample(self, text: Text, null: Text, options: SamplingConfig, noise: SeededNoise) -> Iterator[Step]:
        n = options.candidates
        text, null = pad_to_same_length(text, null)
        cond, null_cond = _cond(text.repeat(n)), _cond(null.repeat(n))
        shape = (len(text.embed) * n, self.width)
        for step in self.walk(shape, cond, null_cond, options, noise.candidates(n)):
            x0 = self.unwhiten(step.x0)
            rows = _nearest(x0, text.embed.float(), n)
            yield Step(step.t, self.unwhiten(step.x)[rows], x0[rows])


def _nearest(embeds: Tensor, targets: Tensor, n: int) -> Tensor:
    """The index of the row with the largest dot product with its target, for each n rows of `embeds`."""
    score = (embeds * targets.repeat_interleave(n, dim=0)).sum(1).view(-1, n)
    best: Tensor = score.argmax(dim=1) + n * torch.arange(len(score), device=score.device)
    return best


def _cond(text: Text) -> Cond:
    return {"text_embed": text.embed, "tokens": text.tokens, "mask": text.mask}


STAGE = Prior
