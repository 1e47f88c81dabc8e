"""Variations: other pictures of what CLIP sees in a picture (Ramesh et al. 2022, §3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from unclip.edits.inversion import DDIM, latents, redraw, see
from unclip.generation import Call, Generation, Model, OnStep, Options, Seed, choose_seeds


def vary(
    model: Model, image: Image.Image | Sequence[Image.Image], num_images: int = 1, *, eta: float = 1.0, fresh_noise: bool = False,
    seed: Seed = None, size: int | None = None, options: Options | None = None, on_step: OnStep | None = None,
) -> Generation:  # fmt: skip
    """Variations of a picture: the same z_i, decoded with noise of their own (Ramesh et al. 2022, §3.1).

    Args:
        image: one or several of any size; CLIP sees each by its own rule, x_T is of its middle square.
        num_images: of each.
        eta: in [0, 1], DDIM's share of fresh noise on the way from the picture's own x_T. 0 gives the picture back; the
            more, the more is new of what z_i does not hold.
        fresh_noise: leave x_T out, and start from noise alone, as the product did; `eta` then says nothing.
        seed: of the first variation of each picture, the next ones count up; or one per variation.
        size: side in pixels at which to stop; the largest if not given.
        options: changes to the stages' sampling; DDIM in 50 steps without guidance for the decoder if not given, its
            own with `fresh_noise`.
        on_step: called after every step; may raise `Cancelled`.

    Raises:
        RequestError: a picture that cannot be used, an impossible eta or size, a model without an image encoder.
    """
    pictures = [image] if isinstance(image, Image.Image) else list(image)
    drawn = choose_seeds(num_images, seed, prompts=len(pictures))
    changes = {**(options or {})}
    if not fresh_noise:
        changes["decoder"] = {**changes.get("decoder", {}), "eta": eta}
    call = Call(model, drawn, size, changes, on_step, defaults=None if fresh_noise else DDIM)
    with torch.inference_mode():
        if fresh_noise:
            z_i = see(call, pictures).repeat_interleave(num_images, dim=0)
            x = call.decode(z_i, *call.encode([""] * len(drawn)))
        else:
            found = latents(call, pictures)
            z_i = found.image_embeds.repeat_interleave(num_images, dim=0)
            x = redraw(call, z_i, found.noise.repeat_interleave(num_images, dim=0))
        made = call.enlarge(x)
    how = {"verb": "vary", **({"fresh_noise": True} if fresh_noise else {"eta": eta})}
    return call.finish(made, z_i, [how] * len(drawn))
