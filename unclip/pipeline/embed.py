"""Embeddings in and out of a pipeline: those of pictures and captions, and checks of a user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Clip, encode_pictures, same_clip
from unclip.embeddings import Embeddings, check_embeddings, check_finite
from unclip.errors import RequestError
from unclip.images import on_white, plain
from unclip.pipeline.call import Call
from unclip.pipeline.model import Model
from unclip.stages.prior_vectors import VectorPrior

Key = Image.Image | str | Tensor | Embeddings  # a picture, a prompt or one embedding z_i


def encode_images(model: Model, images: Image.Image | Sequence[Image.Image]) -> Tensor:
    """Encode pictures by the model's CLIP: z_i [N, D], float32 on the CPU.

    Args:
        images: of any size; CLIP crops each by its own rule.

    Raises:
        RequestError: no pictures, or a CLIP without an image encoder.
    """
    return encode_each(model.clip, [images] if isinstance(images, Image.Image) else images)


def encode_text(model: Model, prompt: str | Sequence[str]) -> Tensor:
    """Encode captions by the model's CLIP: z_t [N, D], float32 on the CPU.

    The decoder also accepts z_t in place of z_i, with worse pictures (Ramesh et al. 2022, §5.1).
    """
    return encode_captions(model.clip, [prompt] if isinstance(prompt, str) else prompt)


def encode_each(clip: Clip, pictures: Iterable[Image.Image]) -> Tensor:
    """z_i [N, D] of pictures of any size and mode, one by one so that none depends on its batch; on the CPU.

    Raises:
        RequestError: no pictures, or a CLIP without an image encoder.
    """
    with torch.inference_mode():
        found = [encode_pictures(clip, [on_white(plain(picture))]).float().cpu() for picture in pictures]
    if not found:
        raise RequestError("no pictures to encode")
    return torch.cat(found)


def encode_captions(clip: Clip, captions: Sequence[str]) -> Tensor:
    """z_t [N, D] of captions, on the CPU."""
    with torch.inference_mode():
        return clip.encode_text(list(captions)).embed.float().cpu()


def usable_embeds(model: Model, embeds: Tensor | Embeddings) -> Tensor:
    """Embeddings that a model's decoder can use, float32 [N, D].

    Raises:
        RequestError: another shape or width, NaN, infinite numbers, or embeddings of another CLIP.
    """
    recorded = embeds.clip if isinstance(embeds, Embeddings) else None
    tensor = embeds.image_embeds if isinstance(embeds, Embeddings) else embeds
    rows = check_embeddings(tensor.float(), "image_embeds")
    check_source(rows.shape[1], recorded, model)
    return rows


def check_source(width: int, recorded: str | None, model: Model, name: str = "image_embeds") -> None:
    """Check that embeddings are those that a model's decoder reads.

    Args:
        recorded: identity of their CLIP, if known.
        name: what they are, for messages.

    Raises:
        RequestError: another width, or another CLIP.
    """
    decoder = model.decoder
    try:
        theirs, same = model.clip.identity, same_clip(recorded, model.clip)
    except RequestError:  # a decoder by itself
        theirs, same = decoder.config.clip or "that it was trained with", recorded == decoder.config.clip
    if width != decoder.embed:
        source = f"of CLIP {recorded} " if recorded else ""
        raise RequestError(
            f"{name}: {source}has {width} numbers per embedding; {model.name} decodes those of CLIP {theirs}, "
            f"which have {decoder.embed}"
        )
    if recorded is not None and not same:
        raise RequestError(
            f"{name}: holds embeddings of CLIP {recorded}; {model.name} decodes those of CLIP {theirs}. If "
            "both are the same weights, save the embeddings as .npy, which records no CLIP"
        )


def z_i_of(call: Call, key: Image.Image | Tensor | Embeddings) -> Tensor:
    """z_i [1, D] of a picture, or of an embedding of one's own.

    Raises:
        RequestError: as `usable_embeds`, or several embeddings.
    """
    if isinstance(key, Image.Image):
        return call.encode_images([key])
    rows = usable_embeds(call.model, key)
    if len(rows) != 1:
        raise RequestError(f"{len(rows)} embeddings: a key is one, [D] or [1, D]")
    return rows.to(call.model.device)


def key_name(key: Key) -> str:
    """What a key is, for the settings of a picture."""
    if isinstance(key, str):
        return key
    return "a picture" if isinstance(key, Image.Image) else "an embedding"


def prior_of_vectors(model: Model) -> VectorPrior:
    """The model's prior, if it reads vectors.

    Raises:
        RequestError: none, or one that reads captions.
    """
    if model.prior is None:
        raise RequestError(f"{model.name}: has no prior, so it cannot sample from vectors")
    if not isinstance(model.prior, VectorPrior):
        raise RequestError(
            f"{model.name}: its prior reads captions, not vectors; one that reads vectors is trained by "
            "configs/prior-from-vectors.yaml"
        )
    return model.prior


def usable_vectors(prior: VectorPrior, vectors: Tensor, name: str) -> Tensor:
    """Vectors that a prior can read, float32 [K, count, width].

    Args:
        vectors: [K, count, width]; with a count of 1 also [K, width] or [width].
        name: of the model, for messages.

    Raises:
        RequestError: another shape, no vectors, NaN or infinite numbers.
    """
    assert prior.vector_shape is not None
    count, width = prior.vector_shape
    rows = vectors.float()
    if count == 1 and rows.ndim in (1, 2) and rows.shape[-2:] != (1, width):
        rows = rows[..., None, :]
    rows = rows[None] if rows.ndim == 2 else rows
    if rows.ndim != 3 or rows.shape[1:] != (count, width) or not len(rows):
        wanted = f"[N, {width}]" if count == 1 else f"[N, {count}, {width}]"
        raise RequestError(f"vectors of shape {list(vectors.shape)}: the prior of {name} reads {wanted}")
    check_finite(rows, "vectors")
    return rows
