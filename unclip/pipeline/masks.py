"""Masks: which pixels of a picture the model paints and which it keeps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.diffusion.inpainting import Known
from unclip.errors import RequestError
from unclip.images import plain

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


def resized_mask(paint: Tensor, size: int) -> Tensor:
    """The mask resized to `size` × `size`; a pixel is painted if any part of it is."""
    if len(paint) == size:
        return paint
    as_picture = paint.float()[None, None]
    if len(paint) > size:
        return F.adaptive_max_pool2d(as_picture, size)[0, 0] > 0
    return F.interpolate(as_picture, (size, size), mode="nearest-exact")[0, 0] > 0


def known_at(side: int, picture: Tensor, paint: Tensor) -> Known:
    """The kept part of a picture at a smaller side: the cells without any painted pixel, as means.

    Args:
        picture: [1, 3, H, H]. paint: True where to paint, [H, H].
    """
    if side == picture.shape[-1]:
        return Known(picture, ~paint)
    kept = (~paint).to(picture)[None, None]
    share = F.adaptive_avg_pool2d(kept, side)
    # Mean over kept pixels only: masked content must not bleed into neighbouring cells.
    mean = F.adaptive_avg_pool2d(picture * kept, side) / share.clamp(min=1e-6)
    return Known(torch.where(share > 0, mean, F.adaptive_avg_pool2d(picture, side)), (share > 1 - 1e-6)[0, 0])
