"""Masks: which pixels of a picture the model paints and which it keeps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.diffusion.inpainting import Known
from unclip.errors import RequestError
from unclip.images import Sides, height_width, plain

THRESHOLD = 128  # grey or alpha value, of 255, from which a pixel counts as white or opaque


def read_mask(image: Image.Image, mask: Image.Image | None) -> Tensor | None:
    """The mask [H, W], True where to paint; None without a mask and without transparent pixels.

    A mask with transparent pixels marks the area to paint as transparent (OpenAI's convention), any other
    mask as white (diffusers'). Without a mask, the picture's own transparent pixels are painted.

    Args:
        image: RGB or RGBA, from `images.plain`.

    Raises:
        RequestError: the mask has another size than the picture, or marks no pixel.
    """
    if mask is None:
        return _transparent(image) if image.mode == "RGBA" else None
    mask = plain(mask)
    if mask.size != image.size:
        raise RequestError(
            f"the mask has {mask.width} × {mask.height} pixels, the picture {image.width} × {image.height}; "
            "make them the same size"
        )
    paint = (
        _transparent(mask)
        if mask.mode == "RGBA"
        else torch.from_numpy(np.asarray(mask.convert("L")) >= THRESHOLD)
    )
    if not paint.any():
        raise RequestError("the mask keeps everything: make the area to paint white or transparent")
    return paint


def _transparent(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.getchannel("A")) < THRESHOLD)


def resized_mask(paint: Tensor, size: Sides) -> Tensor:
    """The mask resized to another size; a pixel is painted if any part of it is."""
    cells = height_width(size)
    if paint.shape == cells:
        return paint
    as_picture = paint.float()[None, None]
    if paint.shape[0] > cells[0] or paint.shape[1] > cells[1]:
        return F.adaptive_max_pool2d(as_picture, cells)[0, 0] > 0
    return F.interpolate(as_picture, cells, mode="nearest-exact")[0, 0] > 0


def known_at(size: Sides, picture: Tensor, paint: Tensor) -> Known:
    """The kept part of a picture at a smaller size: the cells without any painted pixel, as means.

    Args:
        picture: [1, 3, H, W]. paint: True where to paint, [H, W].
    """
    cells = height_width(size)
    if picture.shape[-2:] == cells:
        return Known(picture, ~paint)
    kept = (~paint).to(picture)[None, None]
    share = F.adaptive_avg_pool2d(kept, cells)
    # Mean over kept pixels only: masked content must not bleed into neighbouring cells.
    mean = F.adaptive_avg_pool2d(picture * kept, cells) / share.clamp(min=1e-6)
    whole = F.adaptive_avg_pool2d(picture, cells)
    return Known(torch.where(share > 0, mean, whole), (share > 1 - 1e-6)[0, 0])
