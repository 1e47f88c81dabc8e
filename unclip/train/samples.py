"""Validation of a run's averaged weights: loss on held-out samples, and sample sheets."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.diffusion.noise import SeededNoise
from unclip.images import grid, resize, save_png, to_pil
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.decoder_base import BaseDecoder
from unclip.stages.prior_base import EmbeddingPrior
from unclip.stages.upsampler import Upsampler
from unclip.train.ema import Ema
from unclip.train.feed import Feed

COUNT = 8  # samples per sheet


@torch.no_grad()
def validate(wrapped: nn.Module, stage: Stage, ema: Ema, feed: Feed) -> dict[str, float]:
    """Compute the validation loss, always with the same timesteps, noise and dropped conditions.

    For a prior, also the cosine similarity of its samples to the true z_i, and to the caption's z_t if it
    reads captions. Every process must call this.
    """
    batches = list(feed.validation())
    wrapped.eval()
    with ema.swapped_in(stage):
        loss = torch.stack([wrapped(batch).mean() for batch in batches]).mean()
    wrapped.train()
    numbers = {"validation_loss": feed.accelerator.reduce(loss, "mean").item()}
    if isinstance(stage, EmbeddingPrior):
        averaged = ema.stage(stage)
        assert isinstance(averaged, EmbeddingPrior)
        numbers |= _cosines(averaged, batches[0], feed)
    return numbers


def _cosines(prior: EmbeddingPrior, batch: Batch, feed: Feed) -> dict[str, float]:
    assert batch.image_embed is not None and batch.seeds is not None
    *_, last = prior.sample_batch(batch, prior.config.sampling, SeededNoise(batch.seeds.tolist()))
    targets = {"cosine_to_image": batch.image_embed}
    if batch.text is not None:
        targets["cosine_to_text"] = batch.text.embed
    cosines = torch.stack([F.cosine_similarity(last.x0, z).mean() for z in targets.values()])
    return dict(zip(targets, feed.accelerator.reduce(cosines, "mean").tolist(), strict=True))


@torch.inference_mode()
def draw_samples(stage: Stage, batch: Batch, path: Path) -> None:
    """Save a sheet of samples above the true images. Stages that make no images save none."""
    rows = _rows(stage, batch)
    if rows:
        save_png(grid([to_pil(image) for row in rows for image in row], columns=len(rows[0])), path)


def _rows(stage: Stage, batch: Batch) -> list[Tensor]:
    """Rows of the sheet, images [B, 3, H, W] each: inputs (upsamplers), samples, true images."""
    noise = SeededNoise(range(min(COUNT, len(batch.captions))))
    n = len(noise.seeds)
    options = stage.config.sampling
    if (
        isinstance(stage, BaseDecoder)
        and batch.image_embed is not None
        and batch.text
        and batch.null
        and batch.image is not None
    ):
        *_, last = stage.sample(
            batch.image_embed[:n], batch.text.rows(0, n), batch.null.repeat(n), options, noise
        )
        return [stage.render(last.x), batch.image[:n]]
    if isinstance(stage, Upsampler) and batch.image is not None:
        high = batch.image[:n]
        low = stage.reduced(high) if batch.low is None else batch.low[:n]
        *_, last = stage.sample(low, options, noise, size=high.shape[-1])
        return [resize(low, high.shape[-1]), last.x, high]
    return []
