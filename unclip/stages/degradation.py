"""Degradation of an upsampler's training input, so that it tolerates the previous stage's artefacts."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.images import to_pil, to_tensor
from unclip.stages.configs import Degradation


def degrade(low: Tensor, kind: Degradation, seeds: Sequence[int]) -> Tensor:
    """Degrades low-resolution images [B, 3, h, w] in [−1, 1], each by its own seed.

    Args:
        kind: "blur" blurs half of the images by a 3 × 3 Gaussian of σ 0.6 (Saharia et al. 2021; DALL·E 2's
            first upsampler); "bsr" applies blur, resampling, noise and JPEG in random order and strength
            (Zhang et al. 2021; its second upsampler).
        seeds: one per image.
    """
    if kind == "none" or low.is_meta:  # meta tensors have no pixels to degrade
        return low
    degrade_one = _blur_half if kind == "blur" else _bsr
    with torch.autocast(low.device.type, enabled=False):  # pixels stay float32
        return torch.stack(
            [
                degrade_one(image, random.Random(seed)).clamp(-1, 1)
                for image, seed in zip(low, seeds, strict=True)
            ]
        )


def gaussian_blur(image: Tensor, sigma_x: float, sigma_y: float) -> Tensor:
    """Blurs an image [3, h, w], with reflected borders."""
    radius = max(1, math.ceil(2 * max(sigma_x, sigma_y)))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    row, column = (torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0) for sigma in (sigma_x, sigma_y))
    padded = F.pad(image[:, None], (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, row.view(1, 1, 1, -1)), column.view(1, 1, -1, 1))[:, 0]


def _blur_half(image: Tensor, rng: random.Random) -> Tensor:
    return gaussian_blur(image, 0.6, 0.6) if rng.random() < 0.5 else image


def _bsr(image: Tensor, rng: random.Random) -> Tensor:
    steps: list[Callable[[Tensor, random.Random], Tensor]] = [_blur, _resample, _noise, _jpeg]
    rng.shuffle(steps)
    for step in steps:
        if rng.random() < 0.6:
            image = step(image, rng)
    return image


def _blur(image: Tensor, rng: random.Random) -> Tensor:
    return gaussian_blur(image, rng.uniform(0.2, 1.0), rng.uniform(0.2, 1.0))


def _resample(image: Tensor, rng: random.Random) -> Tensor:
    size = image.shape[-2:]
    scale = rng.uniform(0.6, 1.2)
    small = (max(4, round(size[0] * scale)), max(4, round(size[1] * scale)))
    modes = ("bilinear", "bicubic", "area")
    for target in (small, size):
        mode = rng.choice(modes)
        antialias = mode != "area" and target[0] < image.shape[-2]
        image = F.interpolate(image[None], tuple(target), mode=mode, antialias=antialias)[0]
    return image


def _noise(image: Tensor, rng: random.Random) -> Tensor:
    strength = 2 * rng.uniform(1, 10) / 255  # 1 to 10 8-bit levels, for pixels in [−1, 1]
    channels = 1 if rng.random() < 0.4 else 3  # grey (sensor) or coloured noise
    generator = torch.Generator("cpu").manual_seed(rng.getrandbits(62))
    return image + strength * torch.randn(channels, *image.shape[1:], generator=generator, device="cpu").to(
        image
    )


def _jpeg(image: Tensor, rng: random.Random) -> Tensor:
    file = io.BytesIO()
    to_pil(image).save(file, "JPEG", quality=rng.randint(40, 95))
    return to_tensor(Image.open(file)).to(image)
