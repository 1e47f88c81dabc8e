"""The server's calls into `Pipeline`: one batch of requests in, images out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unclip.serve.requests import (
    DiffRequest,
    EditRequest,
    EnlargeRequest,
    GenerationRequest,
    InterpolationRequest,
    OutpaintRequest,
    VariationRequest,
)

if TYPE_CHECKING:
    from unclip.diffusion.samplers import Step
    from unclip.pipeline import Generation, Pipeline

OnStep = Callable[[str, int, int, "Step"], None]
BATCHED = (GenerationRequest, VariationRequest)  # other requests have a mask or a path of their own
DIVISIBLE = (*BATCHED, EditRequest)  # each of their images depends on its own seed only


def draw(
    pipeline: Pipeline,
    requests: Sequence[GenerationRequest],
    seeds: Sequence[int],
    size: int,
    on_step: OnStep,
) -> Generation:
    """Draws one image per seed.

    Args:
        requests: one per seed, all of one kind with equal options.
        size: side in pixels at which the model draws.
    """
    first = requests[0]
    options: dict[str, dict[str, Any]] = {}
    for role, name, value in first.options:
        options.setdefault(role, {})[name] = value
    # Unmarked: the server still resizes the images, and marks what it sends (`pictures.encode`).
    how: dict[str, Any] = {"size": size, "options": options, "on_step": on_step, "watermark": False}
    seeds = list(seeds)
    if isinstance(first, EnlargeRequest):
        return pipeline.upsample(first.image, seed=seeds, **how)
    how["negative"] = first.negative
    match first:
        case EditRequest():
            how["strength"] = first.strength
            return pipeline.edit(first.image, first.prompt, first.mask, len(seeds), seed=seeds, **how)
        case OutpaintRequest():
            del how["size"]
            return pipeline.outpaint(first.image, first.prompt, first.to, first.n, seed=seeds, **how)
        case InterpolationRequest():
            return pipeline.interpolate(first.keys, first.n, seed=seeds[0], **how)
        case DiffRequest():
            thetas = [first.theta * (i + 1) / first.n for i in range(first.n)]
            return pipeline.diff(first.image, first.before, first.prompt, thetas, seed=seeds[0], **how)
        case VariationRequest():
            images = [one.image for one in requests if isinstance(one, VariationRequest)]
            return pipeline.vary(images, fresh_noise=True, seed=seeds, **how)
    prompts = [one.prompt for one in requests]
    return pipeline.generate(prompts, seeds=seeds, preset=first.preset, **how)
