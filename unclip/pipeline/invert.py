"""Invert a picture to its bipartite latent (z_i, x_T), and decode it again (Ramesh et al. 2022, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.diffusion.trajectory import Trajectory
from unclip.errors import RequestError
from unclip.images import resize, to_tensor
from unclip.pipeline.call import Call, middle_of
from unclip.pipeline.model import Model
from unclip.pipeline.options import OptionKeywords, StageChanges, collect

# Only DDIM can be inverted. Without guidance, as in the paper: guidance needs more steps for the same error.
DDIM: Final[StageChanges] = {"decoder": {"sampler": "ddim", "guidance": 1.0}}
STEPS: Final[StageChanges] = {"decoder": {"steps": 50}}


@dataclass(frozen=True)
class Inversion:
    """The latents of pictures.

    Attributes:
        image_embeds: z_i, CLIP's image embeddings, [N, D].
        noise: x_T, [N, 3, h, w] at the decoder's size, or a latent; DDIM with eta = 0 decodes it to the
            picture.
    """

    image_embeds: Tensor
    noise: Tensor


def invert(
    model: Model,
    image: Image.Image | Sequence[Image.Image],
    *,
    evaluations: int = 2,
    **options: Unpack[OptionKeywords],
) -> Inversion:
    """Find the latents (z_i, x_T) of pictures by DDIM inversion of the decoder (Ramesh et al. 2022, §3).

    Args:
        image: one or several of any size. CLIP crops each by its own rule; x_T is inverted from its middle
            part of the shape of `size`.
        evaluations: decoder evaluations per step. 1 is the usual inversion; each further one is a fixed-point
            iteration that removes most of the remaining error.
        options: see `SamplingOptions`; `size` must have the shape of the images to decode. Default: a square;
            50 steps of DDIM without guidance.

    Raises:
        RequestError: a picture that cannot be used, an impossible size, another sampler than DDIM, a model
            without an image encoder.
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    chosen = collect(options, verb="invert", unused=("seed", "keep_stages", "watermark"))
    if chosen.size is None:
        chosen = replace(chosen, size=model.sizes[0])
    call = Call(model, [0] * len(images), chosen, defaults=STEPS, forced=DDIM)
    with torch.inference_mode():
        return latents(call, images, evaluations)


def latents(call: Call, images: Sequence[Image.Image], evaluations: int = 2) -> Inversion:
    """The inversion of pictures within a call; see `invert`."""
    if not images:
        raise RequestError("nothing to invert: give a picture")
    if evaluations < 1:
        raise RequestError(f"{evaluations} evaluations per step: there must be at least 1")
    used, decoder = call.sampling["decoder"], call.model.decoder
    if used.sampler != "ddim":
        raise RequestError(f"decoder: only ddim can be run backwards, not {used.sampler}")
    z_i, size = call.encode_images(images), call.size_at(decoder.size)
    shown = [to_tensor(middle_of(one, call.size))[None].to(z_i.device) for one in images]
    x = torch.cat([decoder.encode(resize(one, size)) for one in shown])
    # There may be more seeds than pictures here, but an inversion draws no noise.
    trajectory, texts = Trajectory(start=x, evaluations=evaluations), call.encode([""] * len(z_i))
    steps = decoder.sample(z_i, *texts, used, call.noise("decoder"), trajectory, size=size)
    return Inversion(z_i, call.run("inversion", steps, used.steps))


def redraw(call: Call, z_i: Tensor, x_T: Tensor | None, caption: str = "") -> Tensor:
    """Decode latents to pictures [B, 3, h, w]; with x_T None, from the seeds' noise.

    Raises:
        RequestError: x_T is of another shape than the call's size.
    """
    decoder = call.model.decoder
    shape = decoder.shape(call.size_at(decoder.size))
    if x_T is not None and x_T.shape[1:] != shape:
        raise RequestError(
            f"the inversion's noise has the shape {tuple(x_T.shape[1:])}, size {call.size} needs {shape}: "
            "invert at the same size"
        )
    text, null = call.encode([caption])
    return call.decode(z_i, text.repeat(len(z_i)), null.repeat(len(z_i)), Trajectory(start=x_T))
