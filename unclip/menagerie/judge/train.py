"""Training of the judge on augmented renderings, so that it tolerates the flaws of generated pictures."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.data.sample import picture
from unclip.data.tar import find_shards, read_samples
from unclip.device import quick_in_bf16
from unclip.errors import DataError
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import CLASSES, SIZE, Judge, JudgeConfig, labels
from unclip.menagerie.scene import sample

log = logging.getLogger(__name__)

BATCH = 128
PEAK_RATE = 3e-3
JPEG_SHARE = 0.2  # share of pictures; PIL compresses them one by one
BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # binomial kernel, along rows and columns


def train_judge(
    out: Path, *, shards: str | None = None, images: int = 60_000, steps: int = 2600, seed: int = 0
) -> Judge:
    """Train a judge and save it.

    Args:
        shards: shards of renderings (path, glob or braces). Default: scenes are rendered on the fly.
        images: maximal number of training pictures.
    """
    torch.manual_seed(seed)
    pixels, truth = _gather(_shard_examples(shards) if shards else _drawn_examples(seed), images)
    judge = Judge(JudgeConfig()).train()
    quick = quick_in_bf16(torch.device("cpu"))
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this one
    optimizer = torch.optim.AdamW(judge.parameters(), lr=PEAK_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.15)
    for step, chosen in enumerate(_batches(len(pixels), steps), start=1):
        pictures = disturb(pixels[chosen]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            logits = judge(pictures)
        losses = [F.cross_entropy(logits[key].float(), truth[chosen, i]) for i, key in enumerate(CLASSES)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            log.info("step %d of %d: loss %.3f", step, steps, loss.item())
    judge.eval().save(out)
    return judge


def disturb(pixels: Tensor) -> Tensor:
    """Augment uint8 pictures [B, 3, H, W]: shift, scale, blur, tint and noise. Returns [−1, 1].

    Colours change by a few per cent only, far less than the distance between two named colours.
    """
    pixels = _compressed(pixels)
    x = _moved(pixels.float() / 127.5 - 1)
    n = len(x)

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(n, channels, 1, 1).uniform_(low, high)

    kernel = torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)).expand(3, 1, 5, 5)
    soft = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    x = torch.lerp(x, soft, each(-0.3, 1).clamp(min=0))
    x = x * each(0.93, 1.07) * each(0.97, 1.03, 3) + each(-0.06, 0.06) + each(-0.03, 0.03, 3)
    blotches = F.interpolate(torch.randn(n, 3, 8, 8), x.shape[-2:], mode="bilinear") * each(0, 0.06)
    return (x + blotches + torch.randn_like(x) * each(0, 0.1)).clamp(-1, 1)


def _moved(x: Tensor) -> Tensor:
    """Shift by up to 4 px of 64 and scale by up to 6 %, [B, 3, H, W]."""
    n = len(x)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.empty(n).uniform_(0.94, 1.06)
    matrix[:, :, 2] = torch.empty(n, 2).uniform_(-0.125, 0.125)
    where = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, where, padding_mode="reflection", align_corners=False)


def _compressed(pixels: Tensor) -> Tensor:
    """Compress a share of the pictures as JPEG, [B, 3, H, W]."""
    pixels = pixels.clone()
    for i in (torch.rand(len(pixels)) < JPEG_SHARE).nonzero().flatten().tolist():
        file = io.BytesIO()
        Image.fromarray(pixels[i].permute(1, 2, 0).numpy()).save(
            file, "JPEG", quality=int(torch.randint(35, 90, ()))
        )
        pixels[i] = _pixels(Image.open(file))
    return pixels


def _batches(count: int, steps: int) -> Iterator[Tensor]:
    """`steps` batches of indices, epoch after epoch in random order."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, *[torch.randperm(count) for _ in range(-(-BATCH // count))]])
        chosen, order = order[:BATCH], order[BATCH:]
        yield chosen


def _gather(examples: Iterator[tuple[Image.Image, list[int]]], count: int) -> tuple[Tensor, Tensor]:
    """The first `count` examples as uint8 [N, 3, 64, 64] and classes [N, attributes]."""
    pixels: list[Tensor] = []
    truth: list[list[int]] = []
    for image, classes in examples:
        pixels.append(_pixels(image))
        truth.append(classes)
        if len(pixels) == count:
            break
    log.info("learning from %d pictures", len(pixels))
    return torch.stack(pixels), torch.tensor(truth)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _drawn_examples(seed: int) -> Iterator[tuple[Image.Image, list[int]]]:
    index = 0
    while True:
        scene = sample(seed, index)
        yield draw(scene, SIZE), labels(scene)
        index += 1


def _shard_examples(pattern: str) -> Iterator[tuple[Image.Image, list[int]]]:
    for example in read_samples(find_shards(pattern)):
        scene = json.loads(example.get("json", b"{}")).get("scene")
        image = picture(example)
        if scene is None or image.size != (SIZE, SIZE):
            raise DataError(
                f"sample {example['__key__']}: not a {SIZE} px picture with its 'scene' in the JSON"
            )
        yield image, labels(scene)
