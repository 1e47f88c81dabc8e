"""The pictures a run draws of its progress, from the averaged weights, always with the same noise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from unclip.diffusion.noise import Noise
from unclip.images import grid, resize, to_pil
from unclip.stages.base import Batch, Stage
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler

COUNT = 8


@torch.inference_mode()
def draw_samples(stage: Stage, batch: Batch, path: Path) -> None:
    """A sheet of what the stage makes of the batch's conditions above what it should be. Stages without pictures draw none."""
    made = _pictures(stage, batch)
    if not made:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [to_pil(image) for row in made for image in row]
    grid(rows, columns=len(made[0])).save(path)


def _pictures(stage: Stage, batch: Batch) -> list[Tensor]:
    noise = Noise(range(min(COUNT, len(batch.captions))))
    n = len(noise.seeds)
    options = stage.config.sampling
    if (
        isinstance(stage, Decoder)
        and batch.image_embed is not None
        and batch.text
        and batch.null
        and batch.image is not None
    ):
        *_, last = stage.sample(batch.image_embed[:n], batch.text.rows(0, n), batch.null.repeat(n), options, noise)
        return [last.x, batch.image[:n]]
    if isinstance(stage, Upsampler) and batch.image is not None:
        high = batch.image[:n]
        low = resize(high, high.shape[-1] // stage.factor)
        *_, last = stage.sample(low, options, noise, size=high.shape[-1])
        return [resize(low, high.shape[-1]), last.x, high]
    return []
