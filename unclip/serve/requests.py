"""Checked requests, as the worker draws them, and how they are made from the bodies that clients send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from PIL import Image

from unclip import images
from unclip.pipeline import check_prompt
from unclip.pipeline.options import check_negative
from unclip.pipeline.sizes import Size, SizeGrid, parse_size
from unclip.provenance.metadata import FORMATS, Format
from unclip.serve.envelope import ApiError
from unclip.serve.pictures import LENIENT, STRICT, check_edit, check_variation, read_upload
from unclip.serve.schema import (
    MAX_IMAGES,
    EditBody,
    EmbeddingBody,
    EmbeddingForm,
    GenerationBody,
    ImageBody,
    ResponseFormat,
    VariationBody,
    is_gpt_image,
)

OPTIONS: Final = {
    "steps": ("decoder", "steps"),
    "prior_steps": ("prior", "steps"),
    "guidance_scale": ("decoder", "guidance"),
    "prior_guidance_scale": ("prior", "guidance"),
}
MOST_IGNORED: Final = 20  # names of ignored fields in an answer
WHOLE_STRENGTH: Final = 0.7  # of an edit without a mask: colours and layout stay


@dataclass(frozen=True)
class GenerationRequest:
    """Images of a prompt.

    Attributes:
        n: number of images.
        size: of the output in pixels, as `Size.plain`.
        seed: seed of the first image, if the client chose it.
        options: changed sampling settings as (role, name, value); hashable, because equal ones are batched.
        preset: name of the sampling settings that `options` change.
        negative: negative prompt; empty for none.
        partial_images: number of previews; None for one answer at the end.
        model: name of the model as the client says it.
        format: file format of the images; `quality` is its encoder's, None for the usual one.
        ignored: names of fields that the client sent and that have no effect.
    """

    prompt: str
    n: int
    size: int | str
    response_format: ResponseFormat
    seed: int | None = None
    options: tuple[tuple[str, str, float], ...] = ()
    preset: str = "balanced"
    negative: str = ""
    partial_images: int | None = None
    model: str = ""
    format: Format = "PNG"
    quality: int | None = None
    ignored: tuple[str, ...] = ()

    @property
    def pixels(self) -> Size:
        """Width and height of the output."""
        return parse_size(self.size)

    def drawn(self, grid: SizeGrid) -> Size:
        """The size at which a model draws the output: the smallest of its shape that is not below it.

        Raises:
            ApiError: the model makes no such shape.
        """
        if (found := grid.holding(self.pixels)) is None:
            message = f"size {self.pixels}: {grid.name} makes no such shape; the nearest is "
            raise ApiError(
                f"{message}{grid.nearest(self.pixels)} - 'size'", param="size", code="invalid_size"
            )
        return found


@dataclass(frozen=True)
class DecodeRequest(GenerationRequest):
    """Images of given embeddings; the prompt is the decoder's caption and may be empty.

    Attributes:
        embeds: z_i of each image, [n, D], float32.
    """

    embeds: np.ndarray = field(kw_only=True)


@dataclass(frozen=True)
class EmbeddingRequest(GenerationRequest):
    """Embeddings z_i instead of images.

    Attributes:
        image: RGB; None to sample `n` embeddings of the prompt from the prior.
    """

    image: Image.Image | None = field(kw_only=True)

    def drawn(self, grid: SizeGrid) -> Size:
        return self.pixels  # nothing is drawn


@dataclass(frozen=True)
class EditRequest(GenerationRequest):
    """An image with a part to paint anew.

    Attributes:
        image: RGB, of the shape of `size`.
        mask: of the same size, white where to paint; None to paint all of it with `strength`.
        strength: as in `Pipeline.edit`.
    """

    image: Image.Image = field(kw_only=True)
    mask: Image.Image | None = field(kw_only=True)
    strength: float | None = field(kw_only=True)


@dataclass(frozen=True)
class VariationRequest(GenerationRequest):
    """Variations of an image; the prompt is empty."""

    image: Image.Image = field(kw_only=True)


@dataclass(frozen=True)
class EnlargeRequest(GenerationRequest):
    """An image that the upsamplers enlarge to `size`; the prompt is empty."""

    image: Image.Image = field(kw_only=True)


@dataclass(frozen=True)
class OutpaintRequest(GenerationRequest):
    """An image that is extended on all sides; like the next two and enlarging, only the page sends it.

    Attributes:
        to: (width, height) of the canvas in pixels, as `size`.
    """

    image: Image.Image = field(kw_only=True)
    to: tuple[int, int] = field(kw_only=True)

    def drawn(self, grid: SizeGrid) -> Size:
        return self.pixels  # drawn in windows, whose size `outpaint` chooses

    @property
    def mask(self) -> Image.Image:
        """White where the canvas is painted."""
        mask, (width, height) = Image.new("L", self.to, "white"), self.image.size
        corner = (self.to[0] - width) // 2, (self.to[1] - height) // 2
        mask.paste(0, (*corner, corner[0] + width, corner[1] + height))
        return mask


@dataclass(frozen=True)
class InterpolationRequest(GenerationRequest):
    """`n` images between two images or prompts, both ends included."""

    keys: tuple[Image.Image | str, Image.Image | str] = field(kw_only=True)


@dataclass(frozen=True)
class DiffRequest(GenerationRequest):
    """Text diff: `n` images from what one caption says of an image towards the prompt; the last one is at
    `theta`.
    """

    image: Image.Image = field(kw_only=True)
    before: str = field(kw_only=True)
    theta: float = field(kw_only=True)


def generation_request(body: GenerationBody) -> GenerationRequest:
    """Returns the request of a body: for images of a prompt or, with `image_embeds`, of embeddings."""
    if body.image_embeds is None:
        return GenerationRequest(_prompt(body.prompt), **common_fields(body), preset=body.preset)
    n = len(body.image_embeds) * body.n
    if n > MAX_IMAGES or (body.stream and n > 1):
        most = 1 if body.stream else MAX_IMAGES
        message = f"{body.n} images of each of {len(body.image_embeds)} embeddings are more than {most} - 'n'"
        raise ApiError(message, param="n")
    embeds = np.array(body.image_embeds, np.float32).repeat(body.n, axis=0)
    common = {**common_fields(body), "n": n, "preset": body.preset}
    return DecodeRequest(_prompt(body.prompt) if body.prompt else "", **common, embeds=embeds)


def check_width(wanted: GenerationRequest, width: int, model: str) -> None:
    """Refuses embeddings that the model cannot decode.

    Raises:
        ApiError: they are not `width` numbers each.
    """
    if isinstance(wanted, DecodeRequest) and (found := wanted.embeds.shape[1]) != width:
        message = f"an embedding has {found} numbers; those of {model} have {width} - 'image_embeds'"
        raise ApiError(message, param="image_embeds")


def embedding_request(body: EmbeddingBody | EmbeddingForm) -> EmbeddingRequest:
    """Returns the request of a body or, after its image is decoded, of a form."""
    common = {**common_fields(body), "preset": body.preset}
    upload = body.image if isinstance(body, EmbeddingForm) else None
    if upload is None:
        return EmbeddingRequest(_prompt(body.prompt), **common, image=None)
    if body.prompt is not None or body.n != 1:
        raise ApiError("an image has one embedding: leave 'prompt' and 'n' out - 'image'", param="image")
    image = images.on_white(read_upload(upload, "image", LENIENT))
    return EmbeddingRequest("", **common, image=image)


def edit_request(body: EditBody, *, strict: bool) -> EditRequest:
    """Decodes the images of a form and returns its request."""
    prompt, common = _prompt(body.prompt), common_fields(body)
    limits = STRICT if strict else LENIENT
    image = read_upload(body.image, "image", limits)
    mask = read_upload(body.mask, "mask", limits) if body.mask else None
    image, paint = check_edit(image, mask, strict=strict, size=parse_size(body.size))
    strength = WHOLE_STRENGTH if paint is None and body.strength is None else body.strength
    return EditRequest(prompt, **common, image=image, mask=paint, strength=strength)


def variation_request(body: VariationBody, *, strict: bool) -> VariationRequest:
    """Decodes the image of a form and returns its request."""
    image = read_upload(body.image, "image", STRICT if strict else LENIENT)
    picture = check_variation(image, strict=strict, size=parse_size(body.size))
    return VariationRequest("", **common_fields(body), image=picture)


def common_fields(body: ImageBody) -> dict[str, Any]:
    """Returns the arguments of `GenerationRequest` that all bodies have."""
    if body.stream and body.n > 1:
        raise ApiError("A stream shows one picture: n must be 1 - 'n'", param="n")
    form: Format = FORMATS[f".{body.output_format}"]
    unused: set[str] = {"output_compression"} & body.model_fields_set if form == "PNG" else set()
    b64 = "b64_json" if is_gpt_image(body.model) else None
    options = [(role, name, getattr(body, key)) for key, (role, name) in OPTIONS.items()]
    return {
        "n": body.n,
        "size": body.size,
        "response_format": b64 or body.response_format or "url",
        "seed": body.seed,
        "options": tuple(option for option in options if option[2] is not None),
        "partial_images": body.partial_images if body.stream else None,
        "model": body.model or "",
        "negative": check_negative(body.negative_prompt or ""),
        "format": form,
        "quality": body.output_compression,
        "ignored": tuple(_shown(name) for name in sorted({*body.unknown, *unused})[:MOST_IGNORED]),
    }


def _shown(name: str) -> str:
    """A client's name of a field, which may hold what UTF-8 cannot encode."""
    return name[:50].encode("utf-8", "backslashreplace").decode()


def _prompt(prompt: str | None) -> str:
    if prompt is None:
        raise ApiError("'prompt' is a required property", param="prompt")
    if not prompt.strip():
        raise ApiError("'' is too short - 'prompt'", param="prompt")
    # Checked here because a prompt that cannot be encoded would fail the whole batch that it is drawn in.
    return check_prompt(prompt)
