"""Outpainting: a larger canvas around a picture, painted window by window."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, hypot
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.errors import RequestError
from unclip.images import LARGEST, plain, resize, to_tensor
from unclip.pipeline.call import Call, Model
from unclip.pipeline.edit import SINGLE_STEPS, default_repeats, paint_over
from unclip.pipeline.generation import Generation
from unclip.pipeline.masks import read_mask, resized_mask
from unclip.pipeline.options import MAX_SEED, OptionKeywords, check_prompt, choose_seeds, collect


def outpaint(
    model: Model,
    image: Image.Image,
    prompt: str,
    to: tuple[int, int],
    num_images: int = 1,
    *,
    repeats: int | None = None,
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Extend a picture to a larger canvas around it, painted to go with it; its own pixels stay bit for bit.

    Square windows as large as the picture go from it outwards; each is an edit (see `edit`) that keeps what
    is there. They overlap by three quarters: a model puts what a prompt names into the middle, which is then
        never free.

    Args:
        image: of any shape. Its transparent pixels are painted, too.
        prompt: of the whole picture.
        to: (width, height) of the canvas in pixels, not below the picture's.
        num_images: canvases.
        repeats: as in `edit`.
        options: see `SamplingOptions`. The decoder's sampler is ddpm unless they say otherwise.

    Raises:
        RequestError: a canvas too small, too large or no larger than an opaque picture.
    """
    caption, chosen = check_prompt(prompt), collect(options, verb="outpaint", unused=("size", "keep_stages"))
    repeats = default_repeats(model) if repeats is None else repeats
    image = plain(image)
    width, height = to
    if width < image.width or height < image.height:
        raise RequestError(
            f"to {width}x{height}: smaller than the picture ({image.width} × {image.height} pixels)"
        )
    if width * height > LARGEST or repeats < 1:
        raise RequestError(
            f"to {width}x{height} with {repeats} repeats: at most 64 megapixels, and 1 repeat or more"
        )
    canvas, known = _canvas(image, width, height)
    if known.all():
        raise RequestError(
            f"to {width}x{height}: that is the picture itself, and nothing of it is transparent"
        )
    # As large as the picture: in a larger window it would be a detail, and its subject painted once more
    # around it. But from half the canvas on, or a small picture would take hundreds.
    window = min(width, height, model.sizes[-1], max(*image.size, model.sizes[0], min(width, height) // 2))
    size = next(side for side in model.sizes if side >= window)
    results: list[Tensor] = []
    chosen = replace(chosen, size=size, keep_stages=False)
    call = Call(model, choose_seeds(num_images, chosen.seed), chosen, forced=SINGLE_STEPS)
    with torch.inference_mode():
        text, null = call.encode([caption] * num_images)
        z_i = call.sample_prior(text, null)
        for i, first in enumerate(call.seeds):
            painted, there = canvas.clone(), known.clone()
            for number, (left, top) in enumerate(_windows(width, height, window)):
                box = (slice(top, top + window), slice(left, left + window))
                missing = ~there[box]
                if not missing.any():
                    continue
                # Noise of its own for every window, or the same thing would appear in each.
                part = Call(model, [(first + number) % MAX_SEED], chosen, forced=SINGLE_STEPS)
                part.seconds = call.seconds
                view = painted[:, *box]  # writes go through to the canvas
                seen, paint = (
                    resize(view[None], size).to(model.device),
                    resized_mask(missing, size).to(model.device),
                )
                texts = text.rows(i, i + 1), null.rows(i, i + 1)
                made = paint_over(part, z_i[i : i + 1], texts, seen, paint, 1.0, repeats)[size]
                view.copy_(torch.where(missing, resize(made, window)[0].to(view), view))
                there[box] = True
            results.append(painted)
    how = {
        "verb": "outpaint",
        "prompt": caption,
        "negative": call.negative,
        "to": f"{width}x{height}",
        "repeats": repeats,
    }
    return call.finish({size: torch.stack(results)}, z_i, [how] * num_images, ~known)


def _canvas(image: Image.Image, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The picture in the middle of a grey canvas [3, height, width], and True where it is opaque [height,
    width].
    """
    left, top = (width - image.width) // 2, (height - image.height) // 2
    box = (slice(top, top + image.height), slice(left, left + image.width))
    canvas = torch.zeros(3, height, width)
    canvas[:, *box] = to_tensor(image)
    known = torch.zeros(height, width, dtype=torch.bool)
    transparent = read_mask(image, None)
    known[box] = True if transparent is None else ~transparent
    return canvas, known


def _windows(width: int, height: int, side: int) -> list[tuple[int, int]]:
    """(left, top) of squares that cover the canvas and overlap by three quarters or more, from the middle
    outwards.
    """

    def places(length: int) -> list[int]:
        count = ceil((length - side) / (side / 4)) + 1
        return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]

    def distance(place: tuple[int, int]) -> float:
        return hypot(place[0] + side / 2 - width / 2, place[1] + side / 2 - height / 2)

    return sorted(((left, top) for top in places(height) for left in places(width)), key=distance)
