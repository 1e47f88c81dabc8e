"""Mixing: one picture of several prompts, each with its weight, by way of their z_i."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch
from PIL import Image

from unclip.edits.inversion import see
from unclip.edits.slerp import weighted_mean
from unclip.errors import RequestError
from unclip.generation import (
    Call,
    Generation,
    Model,
    OnStep,
    Options,
    Seed,
    check_negative,
    check_prompt,
    choose_seeds,
)


def mix(
    model: Model, keys: Sequence[Image.Image | str], weights: Sequence[float] | None = None, num_images: int = 1, *,
    by: Literal["slerp", "sum"] = "slerp", negative: str = "", seed: Seed = None, size: int | None = None,
    options: Options | None = None, on_step: OnStep | None = None,
) -> Generation:  # fmt: skip
    """Pictures of several prompts at once: the weighted mean of their z_i, decoded.

    The prior draws each prompt's z_i with the picture's own seed, so that all the weight on one prompt gives the z_i that
    `generate` draws of it. The decoder reads no caption, for none says what the mean is; it goes by z_i alone.

    Args:
        keys: prompts, or pictures, whose z_i is what CLIP sees.
        weights: one per key, not negative, of any sum; all alike if not given.
        num_images: how many.
        by: "slerp" for the mean along great circles (of two keys, `slerp` between them), "sum" for the weighted sum,
            which is brought back to the length of a z_i.
        negative: what guidance leads away from.
        seed: of the first picture, the next ones count up; or one per picture.
        size: side in pixels at which to stop; the largest if not given.
        options: changes to the stages' sampling.
        on_step: called after every step; may raise `Cancelled`.

    Raises:
        RequestError: fewer than two keys, weights that do not fit them, keys that are opposite, a picture that cannot be
            used, a model without an image encoder or a prior where one is needed.
    """
    if len(keys) < 2:
        raise RequestError("a mix needs at least two prompts or pictures")
    if by not in ("slerp", "sum"):
        raise RequestError(f"by {by!r}: mix by 'slerp' or by 'sum'")
    shares = _shares([1.0] * len(keys) if weights is None else weights, len(keys))
    captions = [check_prompt(key) for key in keys if isinstance(key, str)]
    negative = check_negative(negative)
    drawn = choose_seeds(num_images, seed)
    call = Call(model, drawn, size, options, on_step)
    with torch.inference_mode():
        imagined = iter([call.imagine(*call.encode([caption] * num_images, negative)) for caption in captions])
        each = [next(imagined) if isinstance(key, str) else see(call, [key]).expand(num_images, -1) for key in keys]
        z_i = weighted_mean(torch.stack(each), shares, straight=by == "sum")
        made = call.enlarge(call.decode(z_i, *call.encode([""] * num_images, negative)))
    names = [key if isinstance(key, str) else "a picture" for key in keys]
    how = {"verb": "mix", "keys": names, "weights": shares, "by": by, "negative": negative}
    return call.finish(made, z_i, [how] * num_images)


def _shares(weights: Sequence[float], count: int) -> list[float]:
    """The weights, with a sum of one."""
    if len(weights) != count:
        raise RequestError(f"{len(weights)} weights for {count} prompts: give one for each")
    for weight in weights:
        if not (isfinite(weight) and weight >= 0):
            raise RequestError(f"weight {weight}: must be a number of at least 0")
    total = float(sum(weights))
    if total == 0:
        raise RequestError("all weights are 0: at least one prompt must count")
    return [weight / total for weight in weights]
