"""The server's calls into `Pipeline`: one batch of requests in, images or embeddings out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from unclip.serve.requests import (
    DecodeRequest,
    DiffRequest,
    EditRequest,
    EmbeddingRequest,
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


@dataclass(frozen=True)
class Batch:
    """What a batch gives, one for each seed: images or, for an `EmbeddingRequest`, z_i [D].

    Attributes:
        seconds: time of each stage.
    """

    images: list[Image.Image]
    embeds: list[np.ndarray]
    seconds: Mapping[str, float]


def draw(
    pipeline: Pipeline,
    requests: Sequence[GenerationRequest],
    seeds: Sequence[int],
    size: int | str,
    on_step: OnStep,
) -> Batch:
    """Draws one image per seed, or encodes.

    Args:
        requests: one per seed, all of one kind with equal options.
        size: size at which the model draws, as `Size.plain`.
    """
    first = requests[0]
    if isinstance(first, EmbeddingRequest):
        return _embed(pipeline, first, seeds, on_step)
    # Unmarked: the server still resizes the images, and marks what it sends (`pictures.encode`).
    how = {**_options(first), "size": size, "on_step": on_step, "watermark": False}
    made = _draw(pipeline, first, requests, list(seeds), how)
    return Batch(made.images, [], made.seconds)


def _draw(
    pipeline: Pipeline,
    first: GenerationRequest,
    requests: Sequence[GenerationRequest],
    seeds: list[int],
    how: dict[str, Any],
) -> Generation:
    match first:
        case EnlargeRequest():
            return pipeline.upsample(first.image, seed=seeds, **how)
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
        case DecodeRequest():
            z_i = torch.from_numpy(first.embeds)
            return pipeline.decode(z_i, first.prompt, seed=seeds, preset=first.preset, **how)
    prompts = [one.prompt for one in requests]
    return pipeline.generate(prompts, seeds=seeds, preset=first.preset, **how)


def _embed(pipeline: Pipeline, wanted: EmbeddingRequest, seeds: Sequence[int], on_step: OnStep) -> Batch:
    """Returns z_i of the picture, or of the prompt as the prior samples it for each seed."""
    started = time.perf_counter()
    if wanted.image is not None:
        z_i, stage = pipeline.encode_images(wanted.image), "clip"
    else:
        how = {**_options(wanted), "preset": wanted.preset, "on_step": on_step}
        z_i, stage = pipeline.sample_prior([wanted.prompt] * len(seeds), seeds=list(seeds), **how), "prior"
    return Batch([], list(z_i.numpy()), {stage: time.perf_counter() - started})


def _options(wanted: GenerationRequest) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = {}
    for role, name, value in wanted.options:
        stages.setdefault(role, {})[name] = value
    return {"options": stages, **({"negative": wanted.negative} if wanted.negative else {})}
