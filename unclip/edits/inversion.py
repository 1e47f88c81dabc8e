"""A picture as its bipartite latent (z_i, x_T), and back (Ramesh et al. 2022, §3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import encode_pictures
from unclip.diffusion.diffusion import Denoise
from unclip.diffusion.inversion import invert as walk_back
from unclip.diffusion.samplers import Step, find_sampler
from unclip.errors import RequestError
from unclip.generation import Call, Model, OnStep, Options
from unclip.images import centre_square, on_white, plain, resize, to_tensor

# DDIM is what can be run backwards. The paper tells of no guidance here, and guidance makes the way back longer.
DDIM: Final[Mapping[str, Mapping[str, Any]]] = {"decoder": {"sampler": "ddim", "steps": 50, "guidance": 1.0}}


@dataclass(frozen=True)
class Inversion:
    """The latents of pictures.

    Attributes:
        image_embeds: z_i, what CLIP sees of each, [N, D].
        noise: x_T, from which DDIM at eta = 0 and z_i lead back to it, [N, 3, h, h] with h the decoder's size.
    """

    image_embeds: Tensor
    noise: Tensor


def invert(
    model: Model, image: Image.Image | Sequence[Image.Image], *, evaluations: int = 2, options: Options | None = None,
    on_step: OnStep | None = None,
) -> Inversion:  # fmt: skip
    """The latents (z_i, x_T) of pictures, by DDIM inversion of the decoder given z_i (Ramesh et al. 2022, §3).

    Args:
        image: one or several of any size; CLIP sees each by its own rule, x_T is of its middle square.
        evaluations: of the decoder per step. 1 is the usual inversion; each further one takes away most of the error.
        options: changes to the decoder's sampling, DDIM in 50 steps without guidance if not given.

    Raises:
        RequestError: a picture that cannot be used, another sampler than DDIM, a model without an image encoder.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    call = Call(model, [0] * len(images), model.sizes[0], options, on_step, defaults=DDIM)
    with torch.inference_mode():
        return latents(call, images, evaluations)


def latents(call: Call, images: Sequence[Image.Image], evaluations: int = 2) -> Inversion:
    """`invert` within a call."""
    if not images:
        raise RequestError("nothing to invert: give a picture")
    if evaluations < 1:
        raise RequestError(f"{evaluations} evaluations per step: there must be at least 1")
    used = call.sampling["decoder"]
    if used.sampler != "ddim":
        raise RequestError(f"decoder: only ddim can be run backwards, not {used.sampler}")
    decoder = call.model.decoder
    pictures = [on_white(plain(image)) for image in images]
    z_i = see(call, pictures)
    squares = [to_tensor(centre_square(picture))[None].to(call.model.device) for picture in pictures]
    x = torch.cat([resize(square, decoder.size) for square in squares])
    schedule = decoder.diffusion.schedule
    steps = walk_back(_denoiser(call, z_i), x, schedule, schedule.grid(used.steps), evaluations=evaluations)
    return Inversion(z_i, call.run("inversion", steps, total=used.steps))


def see(call: Call, pictures: Sequence[Image.Image]) -> Tensor:
    """z_i [N, D] of whole pictures of any sizes; each by itself, so that none depends on the others."""
    with call.timed("clip"):
        return torch.cat([encode_pictures(call.model.clip, [one]) for one in pictures]).float()


def redraw(call: Call, z_i: Tensor, x_T: Tensor) -> Tensor:
    """The decoder's pictures [B, 3, h, h] from given latents, by the call's sampling."""
    used, schedule = call.sampling["decoder"], call.model.decoder.diffusion.schedule
    sampler = find_sampler(used.sampler, used.eta)
    steps: Iterator[Step] = sampler(
        _denoiser(call, z_i), x_T, schedule, schedule.grid(used.steps), call.noise("decoder")
    )
    return call.run("decoder", steps)


def _denoiser(call: Call, z_i: Tensor) -> Denoise:
    text, null = call.encode([""] * len(z_i))
    return call.model.decoder.denoiser(z_i, text, null, call.sampling["decoder"])
