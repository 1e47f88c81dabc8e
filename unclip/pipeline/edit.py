"""Edit a picture: repaint its masked part (RePaint), or change all of it by a strength (SDEdit)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.inpainting import Known
from unclip.diffusion.trajectory import Trajectory
from unclip.errors import RequestError
from unclip.images import lanczos, plain, resize, to_tensor
from unclip.pipeline.call import Call
from unclip.pipeline.generation import Generation
from unclip.pipeline.masks import known_at, read_mask, resized_mask
from unclip.pipeline.membrane import join
from unclip.pipeline.model import Model, size_grid
from unclip.pipeline.options import OptionKeywords, StageChanges, check_prompt, choose_seeds, collect
from unclip.pipeline.sizes import SAME_SHAPE, Size, parse_size

# RePaint undoes and repeats single steps, so a multistep solver would have no valid history.
SINGLE_STEPS: Final[StageChanges] = {"decoder": {"sampler": "ddpm"}}


def edit(
    model: Model,
    image: Image.Image,
    prompt: str,
    mask: Image.Image | None = None,
    num_images: int = 1,
    *,
    strength: float | None = None,
    repeats: int | None = None,
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Repaint a part of a picture so that the whole shows the prompt; kept pixels stay bit for bit.

    z_i comes from the prior, or without a prior from the picture itself.

    Works without special training: every stage replaces the kept part at each step (RePaint; Lugmayr et al.
    2022). A decoder with `inpaint` in its config also reads the kept part, and needs no repeats. The paper
    has no such method; OpenAI's product had one.

    Args:
        image: of a shape that the model makes, nearly: the result has the model's. Else crop it, or outpaint.
        prompt: caption of the whole picture, not only of the painted part.
        mask: of the picture's size. Painted where transparent or, without any transparent pixel, where
            white. Default: the picture's own transparent pixels, or all of it (needs `strength`).
        num_images: number of edits.
        strength: initial noise of the painted part, in (0, 1] (SDEdit; Meng et al. 2022). 0.5 keeps shapes;
            1, the default with a mask, ignores the previous content.
        repeats: repeats of each decoder step; more blend the parts better and take longer. Default: 4,
            or 1 with an inpainting decoder.
        options: see `SamplingOptions`; `size` must have the picture's shape. Default sampler of the decoder:
            ddpm. A picture of another size than the result is resized first; otherwise its kept pixels are
            unchanged.

    Raises:
        RequestError: a picture, mask, strength or size that cannot be used.
    """
    caption, chosen = check_prompt(prompt), collect(options)
    repeats = default_repeats(model) if repeats is None else repeats
    if repeats < 1:
        raise RequestError(f"{repeats} repeats: there must be at least 1")
    image = plain(image)
    paint, strength = _what_to_paint(image, mask, strength)
    chosen = replace(chosen, size=_size_of(model, image, chosen.size))
    call = Call(model, choose_seeds(num_images, chosen.seed), chosen, forced=SINGLE_STEPS)
    picture = resize(to_tensor(image)[None], call.size).to(model.device)
    with torch.inference_mode():
        texts = call.encode([caption] * num_images, embeds=model.prior is not None)
        z_i = call.embeds_to_paint(texts, image)
        paint = resized_mask(paint, call.size).to(model.device)
        made = paint_over(call, z_i, texts, picture, paint, strength, repeats)
    arguments: dict[str, Any] = {"verb": "edit", "prompt": caption, "negative": call.negative}
    arguments |= {"strength": strength, "repeats": repeats}
    return call.finish(made, z_i, [arguments] * num_images, paint)


def _what_to_paint(
    image: Image.Image, mask: Image.Image | None, strength: float | None
) -> tuple[Tensor, float]:
    """The mask [H, W], True where to paint, and the strength; raises as `edit` does."""
    if strength is not None and not 0 < strength <= 1:
        raise RequestError(f"strength {strength}: must be above 0 and at most 1")
    paint = read_mask(image, mask)
    if paint is None:
        if strength is None:
            raise RequestError(
                "nothing says what to paint: give a mask, a picture with transparent parts, or a strength"
            )
        paint = torch.ones(image.height, image.width, dtype=torch.bool)
    return paint, strength or 1.0


def _size_of(model: Model, image: Image.Image, wanted: int | str | tuple[int, int] | None) -> Size:
    """The result's size: the wanted one, or the smallest that holds the picture; raises as `edit` does."""
    grid = size_grid(model)
    if wanted is None:
        size = grid.holding(image.size)
        if size is not None:
            return size
        has, shape = f"a shape that {model.name} does not make", grid.nearest(image.size)
    else:
        size = parse_size(wanted)
        grid.check(size)
        if size.shape_like(image.size) <= SAME_SHAPE:
            return size
        has, shape = "another shape than the result", size
    raise RequestError(
        f"the picture has {image.width} × {image.height} pixels, {has}: crop it to the shape of "
        f"{shape.width} × {shape.height}, or use outpaint"
    )


def default_repeats(model: Model) -> int:
    """Default repeats of each decoder step: 4 for RePaint, 1 for an inpainting decoder."""
    return 1 if model.decoder.inpaints else 4


def paint_over(
    call: Call,
    z_i: Tensor,
    texts: tuple[Text, Text],
    picture: Tensor,
    paint: Tensor,
    strength: float,
    repeats: int,
) -> dict[int, Tensor]:
    """Sample decoder and upsamplers with the kept part fixed; returns pictures by nominal side.

    The result of each stage is corrected to meet the kept part without a seam (see `join`).

    Args:
        texts: the captions, and the null text of guidance.
        picture: [1, 3, H, W], of the call's size.
        paint: True where to paint, [H, W].
        strength, repeats: settings of the decoder; the upsamplers start from noise and do not repeat steps.
    """

    def known(side: int) -> Known:
        return known_at(call.size_at(side), picture, paint)

    def seamless(x: Tensor, side: int) -> Tensor:
        kept = known(side)
        return join(x, kept.x0, ~kept.keep)

    decoder = call.model.decoder
    walk = Trajectory(known=decoder.encode_known(known(decoder.size)), strength=strength, repeats=repeats)
    x = seamless(call.decode(z_i, *texts, walk), decoder.size)
    made = call.upsample(x, lambda side: Trajectory(known=known(side)))
    if call.side not in made:
        made[call.side] = lanczos(made[max(made)], call.size)
    return {side: images if side == decoder.size else seamless(images, side) for side, images in made.items()}
