"""Outpainting: extend a picture to a larger canvas, window by window."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, hypot
from typing import Any, Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Text
from unclip.errors import RequestError
from unclip.images import LARGEST, plain, resize, to_tensor
from unclip.pipeline.call import Call
from unclip.pipeline.edit import SINGLE_STEPS, default_repeats, paint_over
from unclip.pipeline.generation import Generation
from unclip.pipeline.masks import read_mask, resized_mask
from unclip.pipeline.membrane import join
from unclip.pipeline.model import Model
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
    """Extend a picture to a larger canvas around it; the picture's own pixels stay bit for bit.

    Square windows about as large as the picture are painted from the middle outwards; each is an edit (see
    `edit`) that keeps the pixels already there. Windows overlap by three quarters: models put the prompt's
    subject in the middle, so no window may have a free middle.

    Args:
        image: of any shape. Its transparent pixels are painted, too.
        prompt: caption of the whole canvas.
        to: (width, height) of the canvas in pixels, each at least the picture's.
        num_images: number of canvases.
        repeats: as in `edit`.
        options: see `SamplingOptions`. Default sampler of the decoder: ddpm.

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
    # A window as large as the picture: in a larger one the model would paint the subject again around it. At
    # least half the canvas, or a small picture would need hundreds of windows.
    window = min(width, height, model.sizes[-1], max(*image.size, model.sizes[0], min(width, height) // 2))
    size = next(side for side in model.sizes if side >= window)
    chosen = replace(chosen, size=size, keep_stages=False)
    call = Call(model, choose_seeds(num_images, chosen.seed), chosen, forced=SINGLE_STEPS)
    with torch.inference_mode():
        text, null = call.encode([caption] * num_images, embeds=model.prior is not None)
        z_i = call.embeds_to_paint((text, null), image)
        painted = [
            _paint_canvas(call, i, z_i, (text, null), canvas, known, window, repeats)
            for i in range(num_images)
        ]
    arguments: dict[str, Any] = {"verb": "outpaint", "prompt": caption, "negative": call.negative}
    arguments |= {"to": f"{width}x{height}", "repeats": repeats}
    return call.finish({call.side: torch.stack(painted)}, z_i, [arguments] * num_images, ~known)


def _paint_canvas(
    call: Call,
    i: int,
    z_i: Tensor,
    texts: tuple[Text, Text],
    canvas: Tensor,
    known: Tensor,
    window: int,
    repeats: int,
) -> Tensor:
    """Canvas [3, H, W] of image i, with every unknown pixel painted.

    Args:
        texts: the captions, and the null text of guidance.
        canvas: [3, H, W]; known: True where it holds the picture, [H, W].
        window: side of the windows in pixels.
    """
    device, size = call.model.device, call.size
    painted, done = canvas.clone(), known.clone()
    z, text, null = z_i[i : i + 1], texts[0].rows(i, i + 1), texts[1].rows(i, i + 1)
    for number, (left, top) in enumerate(_windows(canvas.shape[2], canvas.shape[1], window)):
        box = (slice(top, top + window), slice(left, left + window))
        missing = ~done[box]
        if not missing.any():
            continue
        # A seed per window: with the same noise, the same things would appear in each.
        seed = (call.seeds[i] + number) % MAX_SEED
        part = Call(call.model, [seed], call.options, forced=SINGLE_STEPS)
        part.seconds = call.seconds
        view = painted[:, *box]  # a view: writes go through to the canvas
        seen, paint = resize(view[None], size).to(device), resized_mask(missing, size).to(device)
        made = paint_over(part, z, (text, null), seen, paint, 1.0, repeats)[part.side]
        if size.width != window:  # otherwise it is seamless already
            made = join(resize(made, window), view[None], missing)
        view.copy_(made[0])
        done[box] = True
    return painted


def _canvas(image: Image.Image, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The picture on a grey canvas [3, H, W], centred, and the mask [H, W] of its opaque pixels."""
    left, top = (width - image.width) // 2, (height - image.height) // 2
    box = (slice(top, top + image.height), slice(left, left + image.width))
    canvas = torch.zeros(3, height, width)
    canvas[:, *box] = to_tensor(image)
    known = torch.zeros(height, width, dtype=torch.bool)
    transparent = read_mask(image, None)
    known[box] = True if transparent is None else ~transparent
    return canvas, known


def _windows(width: int, height: int, side: int) -> list[tuple[int, int]]:
    """(left, top) of the windows that cover the canvas, overlapping by ≥ 3/4, from the middle outwards."""

    def places(length: int) -> list[int]:
        count = ceil((length - side) / (side / 4)) + 1
        return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]

    def distance(place: tuple[int, int]) -> float:
        return hypot(place[0] + side / 2 - width / 2, place[1] + side / 2 - height / 2)

    return sorted(((left, top) for top in places(height) for left in places(width)), key=distance)
