"""Generate images from captions, at once or stage by stage (Ramesh et al. 2022, §2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor

from unclip.embeddings import Embeddings
from unclip.errors import RequestError
from unclip.images import to_tensor
from unclip.pipeline.call import Call, middle_of
from unclip.pipeline.embed import prior_of_vectors, usable_embeds, usable_vectors
from unclip.pipeline.generation import Generation
from unclip.pipeline.model import Model
from unclip.pipeline.options import (
    OptionKeywords,
    SamplingOptions,
    check_negative,
    check_prompt,
    choose_seeds,
    collect,
)


def generate(
    model: Model, prompt: str | Sequence[str], *, num_images: int = 1, **options: Unpack[OptionKeywords]
) -> Generation:
    """Generate images of each prompt.

    Args:
        prompt: one caption or several.
        num_images: images of each.
        options: see `SamplingOptions`.

    Raises:
        RequestError: an impossible option, or a model without a prior or a decoder.
    """
    captions, chosen = _captions(prompt, num_images), collect(options)
    seeds = choose_seeds(num_images, chosen.seed, prompts=len(captions) // max(num_images, 1))
    call = Call(model, seeds, chosen, needs=("decoder", "prior"))
    with torch.inference_mode():
        text, null = call.encode(captions, embeds=True)
        z_i = call.sample_prior(text, null)
        made = call.upsample(call.decode(z_i, text, null))
    return call.finish(made, z_i, [{"prompt": caption, "negative": call.negative} for caption in captions])


def sample_prior(
    model: Model,
    prompt: str | Sequence[str] | None = None,
    *,
    vectors: Tensor | None = None,
    num_images: int = 1,
    **options: Unpack[OptionKeywords],
) -> Tensor:
    """Sample z_i [N, D] of each prompt from the prior, the first part of `generate`; float32 on the CPU.

    Args:
        prompt, num_images: as in `generate`.
        vectors: [K, width] or [K, count, width], in place of the prompt, for a prior of kind `prior_vectors`.
        options: see `SamplingOptions`.

    Raises:
        RequestError: as in `generate`; no prior, a prior that reads the other condition, vectors of another
            shape, or no CLIP to encode the prompt with.
    """
    unused = ("size", "keep_stages", "watermark")
    chosen = replace(collect(options, verb="sample_prior", unused=unused), size=None)
    if vectors is not None:
        if prompt is not None:
            raise RequestError("sample_prior: give a prompt or vectors, not both")
        return _sample_from_vectors(model, vectors, num_images, chosen)
    if prompt is None:
        raise RequestError("sample_prior: give a prompt or vectors")
    captions = _captions(prompt, num_images)
    seeds = choose_seeds(num_images, chosen.seed, prompts=len(captions) // max(num_images, 1))
    call = Call(model, seeds, chosen, needs=["prior"])
    with torch.inference_mode():
        return call.sample_prior(*call.encode(captions, embeds=True)).float().cpu()


def _sample_from_vectors(model: Model, vectors: Tensor, num_images: int, chosen: SamplingOptions) -> Tensor:
    prior = prior_of_vectors(model)
    if chosen.negative:
        raise RequestError("sample_prior: a negative prompt needs a prior that reads captions")
    rows = usable_vectors(prior, vectors, model.name)
    call = Call(model, choose_seeds(num_images, chosen.seed, prompts=len(rows)), chosen, needs=["prior"])
    used = call.sampling["prior"]
    with torch.inference_mode():
        rows = rows.to(model.device).repeat_interleave(num_images, dim=0)
        steps = prior.sample(rows, used, call.noise("prior"))
        return call.run("prior", steps, prior.length(used)).float().cpu()


def decode(
    model: Model,
    image_embeds: Tensor | Embeddings,
    prompt: str | Sequence[str] = "",
    *,
    num_images: int = 1,
    **options: Unpack[OptionKeywords],
) -> Generation:
    """Decode image embeddings, the second part of `generate`.

    `sample_prior` and `decode` with the same seed give the images of `generate` with that seed.

    Args:
        image_embeds: z_i, [N, D], from `sample_prior`, `encode_images`, a file (`unclip.read_embeddings`) or
            a model of your own.
        prompt: captions for the decoder, one for all embeddings or one each; "" for none.
        num_images: images of each embedding.
        options: see `SamplingOptions`. The seeds count on over all images.

    Raises:
        RequestError: as in `generate`; embeddings of another shape or CLIP or with NaN, no decoder.
    """
    z_i = usable_embeds(model, image_embeds)
    n = len(z_i)
    prompts = [prompt] * n if isinstance(prompt, str) else list(prompt)
    if len(prompts) != n:
        raise RequestError(f"{len(prompts)} prompts for {n} embeddings")
    captions = [check_negative(p) for p in prompts for _ in range(num_images)]
    chosen = collect(options)
    call = Call(model, choose_seeds(n * num_images, chosen.seed), chosen)
    with torch.inference_mode():
        z_i = z_i.to(model.device).repeat_interleave(num_images, dim=0)
        made = call.upsample(call.decode(z_i, *call.encode(captions)))
    arguments = [{"verb": "decode", "prompt": caption, "negative": call.negative} for caption in captions]
    return call.finish(made, z_i, arguments)


def upsample(
    model: Model, images: Image.Image | Sequence[Image.Image], **options: Unpack[OptionKeywords]
) -> Generation:
    """Upsample pictures, the last part of `generate`.

    Args:
        images: each is cropped to its middle part of the shape of `size` and resized to the largest input
            size of an upsampler that does not exceed the pictures.
        options: see `SamplingOptions`; `size` must be above that input.

    Raises:
        RequestError: as in `generate`; no upsampler.
    """
    pictures = [images] if isinstance(images, Image.Image) else list(images)
    if not model.upsamplers:
        raise RequestError(f"{model.name}: has no upsampler")
    chosen = collect(options, verb="upsample", unused=["negative"])
    call = Call(model, choose_seeds(len(pictures), chosen.seed), chosen, needs=[])
    middles = [middle_of(one, call.size) for one in pictures]
    starts = {side: call.size_at(side) for side in (u.size // u.factor for u in model.upsamplers)}
    fits = (s for s, size in starts.items() if all(size.width <= one.width for one in middles))
    side = max(fits, default=min(starts))
    call.chain = [u for u in call.chain if u.size > side]
    if not call.chain:
        raise RequestError(
            f"size {call.size}: {model.name} upsamples these pictures from {starts[side]} pixels"
        )
    with torch.inference_mode():
        x = [to_tensor(one.resize(starts[side], Image.Resampling.LANCZOS)) for one in middles]
        made = call.upsample(torch.stack(x).to(model.device), start=side)
    return call.finish(made, torch.empty(len(middles), 0), [{"verb": "upsample"}] * len(middles))


def _captions(prompt: str | Sequence[str], num_images: int) -> list[str]:
    """One caption per image."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    return [check_prompt(p) for p in prompts for _ in range(num_images)]
