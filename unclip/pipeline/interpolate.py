"""Interpolate between pictures, prompts and embeddings (Ramesh et al. 2022, §3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.diffusion.noise import SeededNoise
from unclip.errors import RequestError
from unclip.pipeline.call import Call
from unclip.pipeline.embed import Key, key_name, z_i_of
from unclip.pipeline.generation import Generation
from unclip.pipeline.invert import DDIM, STEPS, latents, redraw
from unclip.pipeline.model import Model
from unclip.pipeline.options import OptionKeywords, check_prompt, choose_seeds, collect
from unclip.pipeline.slerp import slerp


def interpolate(
    model: Model,
    keys: Sequence[Key],
    frames: int = 16,
    *,
    fixed_noise: bool = False,
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Generate frames between pictures, prompts or embeddings by slerp of z_i and x_T.

    Ramesh et al. 2022, §3.2.

    Args:
        keys: pictures, prompts or embeddings z_i, [D] or [1, D]. A prompt's z_i is sampled from the prior.
            The x_T of a prompt or an embedding is noise. Two keys make a path that includes both ends; more
            make a loop back to the first.
        frames: number of frames per segment. A path's frames include both ends; a loop's segment includes
            its first key only.
        fixed_noise: use one random x_T for all frames instead of interpolating the keys' x_T. The ends are
            then variations of the pictures.
        options: see `SamplingOptions`. All frames share one seed. Default of the decoder: 50 steps of DDIM
            without guidance.

    Raises:
        RequestError: fewer than two keys or frames, a picture that cannot be used, a model without an image
            encoder.
    """
    if len(keys) < 2:
        raise RequestError("an interpolation needs at least two pictures or prompts")
    if frames < 2:
        raise RequestError(f"{frames} frames: an interpolation needs at least 2")
    captions = [check_prompt(key) for key in keys if isinstance(key, str)]
    loop = len(keys) > 2
    thetas = [i / frames for i in range(frames)] if loop else [i / (frames - 1) for i in range(frames)]
    parts = list(pairwise([*range(len(keys)), 0] if loop else range(len(keys))))
    chosen = collect(options)
    first = choose_seeds(1, chosen.seed)[0]
    # One seed for all frames, so that the upsamplers' noise does not flicker.
    call = Call(model, [first] * (len(parts) * frames), chosen, defaults=STEPS, forced=DDIM)
    with torch.inference_mode():
        z_i, x_T = _ends(call, keys, captions, first)
        way = [(a, b, theta) for a, b in parts for theta in thetas]
        z = torch.cat([slerp(z_i[a][None], z_i[b][None], theta) for a, b, theta in way])
        x = [] if fixed_noise else [slerp(x_T[a][None], x_T[b][None], theta) for a, b, theta in way]
        made = call.upsample(redraw(call, z, torch.cat(x) if x else None))
    arguments = [
        {"verb": "interpolate", "from": key_name(keys[a]), "to": key_name(keys[b]), "theta": theta}
        for a, b, theta in way
    ]
    return call.finish(made, z, arguments)


def _ends(call: Call, keys: Sequence[Key], captions: list[str], seed: int) -> tuple[Tensor, Tensor]:
    """(z_i [K, D], x_T [K, …]) of the keys."""
    pictures = [key for key in keys if isinstance(key, Image.Image)]
    others = [key for key in keys if not isinstance(key, Image.Image)]
    inverted = latents(call, pictures) if pictures else None
    of_pictures = iter(zip(inverted.image_embeds, inverted.noise, strict=True)) if inverted else iter(())
    seeds = [seed + i for i in range(len(others))]
    sampled: Iterator[Tensor] = iter(())
    if captions:
        own = [number for number, key in zip(seeds, others, strict=True) if isinstance(key, str)]
        part = Call(call.model, own, replace(call.options, size=call.model.sizes[0]))
        sampled = iter(part.sample_prior(*part.encode(captions, embeds=True)))
        call.seconds["prior"] = part.seconds["prior"]
    decoder = call.model.decoder
    shape = decoder.shape(call.size_at(decoder.size))
    like = torch.empty(len(others), *shape, device=call.model.device)
    noise = iter(SeededNoise(seeds, "decoder")(like) if others else ())
    both = [
        next(of_pictures)
        if isinstance(key, Image.Image)
        else (next(sampled) if isinstance(key, str) else z_i_of(call, key)[0], next(noise))
        for key in keys
    ]
    return torch.stack([z_i for z_i, _ in both]), torch.stack([x_T for _, x_T in both])
