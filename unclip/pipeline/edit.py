"""Edits: paint a part of a picture anew, or all of it a little (RePaint; SDEdit)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.trajectory import Trajectory
from unclip.errors import RequestError
from unclip.images import plain, resize, to_tensor
from unclip.pipeline.call import Call, Model
from unclip.pipeline.generation import Generation
from unclip.pipeline.masks import known_at, read_mask, resized_mask
from unclip.pipeline.options import OptionKeywords, StageChanges, check_prompt, choose_seeds, collect

# Each step is taken by itself and partly undone, so a multistep solver has no history to use.
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
    """Paint a part of a picture anew, so that the whole shows the prompt; kept pixels stay bit for bit.

    Needs no special training: every stage samples with the kept part put in at each step (RePaint; Lugmayr et
        al.
    2022). A decoder whose config says `inpaint` also sees that part, and needs no repeats. The paper's own
    model has no such thing; OpenAI's product had.

    Args:
        image: square.
        prompt: of the whole picture, not of the part alone.
        mask: of the picture's size, painted where it is transparent or, if nothing of it is, where it is
            white. Without one, the picture's own transparent pixels are painted; if it has none, all of it
            is, by `strength`.
        num_images: edits.
        strength: in (0, 1], how much noise the painted part starts from (SDEdit; Meng et al. 2022): 1, the
            default with a mask, forgets what was there; 0.5 keeps shapes.
        repeats: of each of the decoder's steps; more make the parts fit better, and take longer. Default: 4,
            or 1 with an inpainting decoder.
        options: see `SamplingOptions`. The decoder's sampler is ddpm unless they say otherwise. A picture of
            just the result's size keeps its pixels as they are, another is resized first.

    Raises:
        RequestError: a picture, mask, strength or size that cannot be used.
    """
    caption, chosen = check_prompt(prompt), collect(options)
    repeats = default_repeats(model) if repeats is None else repeats
    if repeats < 1:
        raise RequestError(f"{repeats} repeats: there must be at least 1")
    if strength is not None and not 0 < strength <= 1:
        raise RequestError(f"strength {strength}: must be above 0 and at most 1")
    image = plain(image)
    if image.width != image.height:
        raise RequestError(
            f"the picture has {image.width} × {image.height} pixels: crop it square, or use outpaint"
        )
    paint = read_mask(image, mask)
    if paint is None:
        if strength is None:
            raise RequestError(
                "nothing says what to paint: give a mask, a picture with transparent parts, or a strength"
            )
        paint = torch.ones(image.height, image.width, dtype=torch.bool)
    if chosen.size is None:
        chosen = replace(
            chosen, size=next((side for side in model.sizes if side >= image.width), model.sizes[-1])
        )
    call = Call(model, choose_seeds(num_images, chosen.seed), chosen, forced=SINGLE_STEPS)
    picture = resize(to_tensor(image)[None], call.size).to(model.device)
    how = {
        "verb": "edit",
        "prompt": caption,
        "negative": call.negative,
        "strength": strength or 1.0,
        "repeats": repeats,
    }
    with torch.inference_mode():
        texts = call.encode([caption] * num_images)
        z_i = call.sample_prior(*texts)
        paint = resized_mask(paint, call.size).to(model.device)
        made = paint_over(call, z_i, texts, picture, paint, strength or 1.0, repeats)
    return call.finish(made, z_i, [how] * num_images, paint)


def default_repeats(model: Model) -> int:
    """Repeats of each of the decoder's steps if not given: RePaint needs some, an inpainting decoder one."""
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
    """The decoder's pictures and those of every upsampler up to the call's size, by side, each with the kept
    part.

    Args:
        texts: captions, and what guidance leads away from.
        picture: [1, 3, S, S] with S the call's size. paint: True where to paint, [S, S].
        strength, repeats: of the decoder; the upsamplers follow what it made.
    """
    known = known_at(call.model.decoder.size, picture, paint)
    x = call.decode(z_i, *texts, Trajectory(known=known, strength=strength, repeats=repeats))
    return call.upsample(x, lambda side: Trajectory(known=known_at(side, picture, paint)))
