"""What a CLIP's image tower is given: the rule that brings any picture to the tower's size, and its
normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# Of OpenAI's CLIP; some of open_clip's and transformers' other models carry their own.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing that a CLIP was trained with, always of the whole picture and always antialiased.

    Attributes:
        size: side in pixels of what the image tower sees.
        mean, std: of the channels, for pixels in [0, 1].
        resize_mode: "shortest" brings the shorter side to `shorter` and crops the centre; "longest" brings
            the longer side to `size` and pads; "squash" ignores the aspect ratio (open_clip's names).
        shorter: in pixels, for "shortest". Default: `size`.
        interpolation: of the resizing.
        fill: grey level of the padding, 0 to 255.
        rounds_crop: an odd centre crop begins at the rounded half, as torchvision and open_clip have it;
            False begins it at the floor, as transformers does.
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
        """An RGB picture of any size as the tower sees it, size × size, in Pillow's 8-bit arithmetic."""
        target = self._target(*picture.size)
        if picture.size != target:
            picture = picture.resize(target, FILTERS[self.interpolation])
        if target == (self.size, self.size):
            return picture
        seen = Image.new("RGB", (self.size, self.size), (self.fill,) * 3)
        seen.paste(picture, (-self._start(target[0]), -self._start(target[1])))
        return seen

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] of any size → normalised ones, float32 [B, 3, size, size], on their
        device.

        Images of just that size are taken for views, which need only be normalised.
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
            margins = (
                -left,
                left + self.size - target[0],
                -top,
                top + self.size - target[1],
            )  # negative ones crop
            images = F.pad(images, margins, value=self.fill / 127.5 - 1)
        mean, std = (torch.tensor(one, device=images.device).view(3, 1, 1) for one in (self.mean, self.std))
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
        """Where the centre crop of a side begins, in pixels; negative where the side is padded."""
        over = length - self.size
        if over < 0:
            return -(-over // 2)
        return round(over / 2) if self.rounds_crop else over // 2
