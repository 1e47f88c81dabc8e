"""The preprocessing of a CLIP's image tower: resizing, cropping or padding, and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# OpenAI's CLIP; some other models have values of their own.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing that a CLIP was trained with, always antialiased.

    Attributes:
        size: side in pixels of the image tower's input.
        mean, std: mean and standard deviation of each channel, for pixels in [0, 1].
        resize_mode: "shortest" brings the shorter side to `shorter` and crops the centre; "longest" brings
            the longer side to `size` and pads; "squash" ignores the aspect ratio (open_clip's names).
        shorter: length of the shorter side in pixels, for "shortest". Default: `size`.
        interpolation: filter of the resizing.
        fill: grey level of the padding, 0 to 255.
        rounds_crop: round the offset of an odd centre crop (torchvision, open_clip); False truncates it
            (transformers).
    """

    size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    shorter: int | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0
    rounds_crop: bool = True

    def view(self, picture: Image.Image) -> Image.Image:
        """Resizes and crops or pads an RGB picture to size × size, in Pillow's 8-bit arithmetic."""
        target = self._target(*picture.size)
        if picture.size != target:
            picture = picture.resize(target, FILTERS[self.interpolation])
        if target == (self.size, self.size):
            return picture
        canvas = Image.new("RGB", (self.size, self.size), (self.fill,) * 3)
        canvas.paste(picture, (-self._start(target[0]), -self._start(target[1])))
        return canvas

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] of any size → normalised float32 [B, 3, size, size].

        Images of size × size count as views and are only normalised.
        """
        height, width = images.shape[-2:]
        images = images.float()
        if (width, height) != (self.size, self.size):
            target = self._target(width, height)
            if (width, height) != target:
                images = F.interpolate(images, target[::-1], mode=self.interpolation, antialias=True).clamp(
                    -1, 1
                )
            left, top = self._start(target[0]), self._start(target[1])
            right, bottom = left + self.size - target[0], top + self.size - target[1]
            images = F.pad(
                images, (-left, right, -top, bottom), value=self.fill / 127.5 - 1
            )  # negative: crop
        mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (self.mean, self.std))
        return ((images + 1) / 2 - mean) / std

    def _target(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, before cropping or padding; rounded as torchvision and timm do."""
        if self.resize_mode == "squash":
            return self.size, self.size
        if self.resize_mode == "longest":
            ratio = max(width, height) / self.size
            return max(round(width / ratio), 1), max(round(height / ratio), 1)
        side, shorter = self.shorter or self.size, min(width, height)
        return int(side * width / shorter), int(side * height / shorter)

    def _start(self, length: int) -> int:
        """The offset in pixels of a side's centre crop; negative for padding."""
        over = length - self.size
        if over < 0:
            return -(-over // 2)
        return round(over / 2) if self.rounds_crop else over // 2
