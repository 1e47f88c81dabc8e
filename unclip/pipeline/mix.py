"""Mix prompts, pictures and embeddings: decode the weighted mean of their z_i."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal, Unpack

import torch

from unclip.errors import RequestError
from unclip.pipeline.call import Call
from unclip.pipeline.embed import Key, key_name, z_i_of
from unclip.pipeline.generation import Generation
from unclip.pipeline.model import Model
from unclip.pipeline.options import OptionKeywords, check_prompt, choose_seeds, collect
from unclip.pipeline.slerp import weighted_mean


def mix(
    model: Model,
    keys: Sequence[Key],
    weights: Sequence[float] | None = None,
    num_images: int = 1,
    *,
    by: Literal["slerp", "sum"] = "slerp",
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Generate images of several prompts, pictures or embeddings, from the weighted mean of their z_i.

    Each prompt's z_i is sampled with the image's seed, so that a prompt with all the weight has the z_i of
    `generate`. The decoder reads no caption, because none describes the mean.

    Args:
        keys: prompts, pictures or embeddings z_i, [D] or [1, D]. A picture's z_i is its CLIP embedding.
        weights: one per key, non-negative, normalised to sum 1. Default: equal.
        num_images: number of images.
        by: "slerp" for the mean on the sphere (of two keys, `slerp` between them), "sum" for the weighted
            sum, scaled to the length of a z_i.
        options: see `SamplingOptions`.

    Raises:
        RequestError: fewer than two keys, a wrong number of weights, opposite keys, a picture that cannot be
            used, or a model without the image encoder or prior that the keys need.
    """
    if len(keys) < 2:
        raise RequestError("a mix needs at least two prompts or pictures")
    if by not in ("slerp", "sum"):
        raise RequestError(f"by {by!r}: mix by 'slerp' or by 'sum'")
    shares = _shares([1.0] * len(keys) if weights is None else weights, len(keys))
    captions = [check_prompt(key) for key in keys if isinstance(key, str)]
    chosen = collect(options)
    call = Call(model, choose_seeds(num_images, chosen.seed), chosen)
    with torch.inference_mode():
        sampled = iter(
            [call.sample_prior(*call.encode([caption] * num_images, embeds=True)) for caption in captions]
        )
        each = [
            next(sampled) if isinstance(key, str) else z_i_of(call, key).expand(num_images, -1)
            for key in keys
        ]
        z_i = weighted_mean(torch.stack(each), shares, straight=by == "sum")
        made = call.upsample(call.decode(z_i, *call.encode([""] * num_images)))
    arguments = {
        "verb": "mix",
        "keys": [key_name(key) for key in keys],
        "weights": shares,
        "by": by,
        "negative": call.negative,
    }
    return call.finish(made, z_i, [arguments] * num_images)


def _shares(weights: Sequence[float], count: int) -> list[float]:
    """The weights, normalised to sum 1."""
    if len(weights) != count:
        raise RequestError(f"{len(weights)} weights for {count} prompts: give one for each")
    for weight in weights:
        if not (isfinite(weight) and weight >= 0):
            raise RequestError(f"weight {weight}: must be a number of at least 0")
    total = float(sum(weights))
    if total == 0:
        raise RequestError("all weights are 0: at least one prompt must count")
    if not isfinite(total):
        raise RequestError("the weights are too large: their sum is infinite")
    return [weight / total for weight in weights]
