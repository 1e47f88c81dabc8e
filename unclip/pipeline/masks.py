"""Masks: which pixels of a picture are to be painted, and which are kept."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.diffusion.inpainting import Known
from unclip.errors import RequestError
from unclip.images import plain

HALF = 128  # of 255: from here on a pixel is white, or opaque


def read_mask(image: Image.Image, mask: Image.Image | None) -> Tensor | None:
    """True where to paint, [H, W]; None if neither the mask nor the picture says anything.

    Two conventions: a mask with transparent pixels (OpenAI's) is painted where it is transparent, any other
        (diffusers')
    where it is white. Without a mask the picture's own transparent pixels are painted.

    Args:
        image: as `images.plain` gives it.

    Raises:
        RequestError: the mask has another size, or keeps everything.
    """
    if mask is None:
        return _transparent(image) if image.mode == "RGBA" else None
    mask = plain(mask)
    if mask.size != image.size:
        raise RequestError(
            f"the mask has {mask.width} × {mask.height} pixels, the picture {image.width} × {image.height}; "
            "they must be of one size"
        )
    paint = (
        _transparent(mask) if mask.mode == "RGBA" else torch.from_numpy(np.asarray(mask.convert("L")) >= HALF)
    )
    if not paint.any():
        raise RequestError("the mask keeps everything: make white, or transparent, what is to be painted")
    return paint


def _transparent(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.getchannel("A")) < HALF)


def resized_mask(paint: Tensor, size: int) -> Tensor:
    """The mask at another side; a pixel is painted if any part of it is."""
    if len(paint) == size:
        return paint
    as_picture = paint.float()[None, None]
    if len(paint) > size:
        return F.adaptive_max_pool2d(as_picture, size)[0, 0] > 0
    return F.interpolate(as_picture, (size, size), mode="nearest-exact")[0, 0] > 0


def known_at(side: int, picture: Tensor, paint: Tensor) -> Known:
    """What is kept of the picture at a smaller side: cells of which every pixel is, each the mean of its
    pixels.

    Args:
        picture: [1, 3, H, H]. paint: True where to paint, [H, H].
    """
    if side == picture.shape[-1]:
        return Known(picture, ~paint)
    kept = (~paint).to(picture)[None, None]
    share = F.adaptive_avg_pool2d(kept, side)
    # Kept pixels only: what lies below the mask (black, white, what is to go) must not bleed into the cells
    # beside it.
    mean = F.adaptive_avg_pool2d(picture * kept, side) / share.clamp(min=1e-6)
    return Known(torch.where(share > 0, mean, F.adaptive_avg_pool2d(picture, side)), (share > 1 - 1e-6)[0, 0])
