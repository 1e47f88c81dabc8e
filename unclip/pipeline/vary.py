"""Variations: decode a picture's CLIP embedding with other noise (Ramesh et al. 2022, §3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from PIL import Image

from unclip.pipeline.call import Call
from unclip.pipeline.generation import Generation
from unclip.pipeline.invert import DDIM, STEPS, Inversion, latents, redraw
from unclip.pipeline.model import Model
from unclip.pipeline.options import OptionKeywords, check_negative, choose_seeds, collect


def vary(
    model: Model,
    image: Image.Image | Sequence[Image.Image] | Inversion,
    num_images: int = 1,
    *,
    prompt: str = "",
    eta: float = 1.0,
    fresh_noise: bool = False,
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Generate variations of a picture: decode its z_i with fresh noise (Ramesh et al. 2022, §3.1).

    Args:
        image: one or several of any size, or their inversion. CLIP crops each by its own rule; x_T is
            inverted from its middle part of the images' shape.
        num_images: number of variations of each picture.
        prompt: caption for the decoder, besides z_i; x_T is inverted without it. Default: none.
        eta: DDIM's stochasticity in [0, 1], starting from the picture's x_T. 0 reconstructs the picture; a
            larger eta changes more of what z_i does not encode.
        fresh_noise: start from noise instead of x_T, as OpenAI's product did; `eta` is then ignored.
        options: see `SamplingOptions`. Default of the decoder: 50 steps of DDIM without guidance; with
            `fresh_noise`, as in `generate`.

    Raises:
        RequestError: a picture that cannot be used, an impossible eta or size, a model without an image
            encoder.
    """
    found = image if isinstance(image, Inversion) else None
    pictures = (
        [image] if isinstance(image, Image.Image) else [] if isinstance(image, Inversion) else list(image)
    )
    chosen, caption = collect(options), check_negative(prompt)
    seeds = choose_seeds(num_images, chosen.seed, prompts=len(found.noise if found else pictures))
    if fresh_noise:
        call = Call(model, seeds, chosen)
    else:
        call = Call(model, seeds, chosen.with_stage("decoder", eta=eta), defaults=STEPS, forced=DDIM)
    with torch.inference_mode():
        if fresh_noise:
            z_i = found.image_embeds if found else call.encode_images(pictures)
            z_i = z_i.repeat_interleave(num_images, dim=0)
            x = call.decode(z_i, *call.encode([caption] * len(seeds)))
        else:
            found = found or latents(call, pictures)
            z_i = found.image_embeds.repeat_interleave(num_images, dim=0)
            x = redraw(call, z_i, found.noise.repeat_interleave(num_images, dim=0), caption)
        made = call.upsample(x)
    arguments: dict[str, Any] = {"verb": "vary", **({"prompt": caption} if caption else {})}
    arguments |= {"fresh_noise": True} if fresh_noise else {"eta": eta}
    return call.finish(made, z_i, [arguments] * len(seeds))
