"""Images at the server's edge: uploads are checked and decoded; results are resized, marked and encoded."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import torch
from PIL import Image

from unclip import images
from unclip.errors import RequestError
from unclip.pictures import WrongSize, on_white, opened, plain
from unclip.pipeline.masks import read_mask
from unclip.pipeline.sizes import Size
from unclip.provenance import metadata
from unclip.provenance.credentials import Signer
from unclip.serve.envelope import ApiError

KEPT_SIDE = 1024  # pixels: queued requests hold no larger images unless their output is larger
SQUARE: Final = Size(KEPT_SIDE, KEPT_SIDE)
CLIENT_TEXT = (
    "prompt",
    "negative",
    "before",
    "after",
    "from",
    "to",
)  # settings that may hold a client's words

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class UploadLimits:
    """What an uploaded image may be.

    Attributes:
        size: the file's length in bytes must be below it.
        side: largest width and height in pixels, checked before any pixel is decoded.
        formats: Pillow's names.
        scale_jpeg: decode large JPEGs at 1/2, 1/4 or 1/8 of their size, as libjpeg does at no cost.
    """

    size: int = 4 << 20
    side: int = 4096
    formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP")
    scale_jpeg: bool = False


LENIENT: Final = UploadLimits()
STRICT: Final = UploadLimits(formats=("PNG",))
PAGE: Final = UploadLimits(size=32 << 20, scale_jpeg=True)


class Decoders:
    """Two threads that decode uploads, so that large images cannot fill the memory."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="unclip-decode")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function that decodes uploads, once a thread is free."""
        return await asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Marks:
    """Which marks the server's pictures carry.

    Attributes:
        watermark: the invisible watermark in the pixels.
        metadata: the type of source and the sampling settings, in the file.
        prompts: whether these settings include the client's own words.
        signer: adds content credentials, if given.
    """

    watermark: bool = True
    metadata: bool = True
    prompts: bool = False
    signer: Signer | None = None

    def settings(self, image: Image.Image) -> dict[str, Any]:
        """The settings that may be published; empty for a preview, which carries none."""
        found = image.info.get("unclip", {})
        return {key: value for key, value in found.items() if self.prompts or key not in CLIENT_TEXT}


def read_upload(data: bytes | None, name: str, limits: UploadLimits) -> Image.Image:
    """Decodes an uploaded image to RGB, or to RGBA where some of it is transparent.

    The format is taken from the bytes. Clients send most images as `application/octet-stream`.

    Args:
        name: the form's field, for messages.

    Raises:
        ApiError: missing, too large, of another format, or damaged.
    """
    if data is None:
        raise ApiError(f"'{name}' is a required property", param=name)
    if len(data) >= limits.size:
        raise _bad_format(name, limits)
    try:
        with opened(io.BytesIO(data), limits.formats) as image:
            if limits.scale_jpeg and max(image.size) > KEPT_SIDE:
                image.draft(None, (KEPT_SIDE, KEPT_SIDE))  # does nothing to other formats
            if max(image.size) > limits.side:
                width, height = image.size
                message = f"at most {limits.side}x{limits.side} pixels, got {width}x{height}."
                raise WrongSize("too large", message)
            return plain(image)
    except RequestError as error:
        if not isinstance(error, WrongSize) or error.fault == "decompression bomb":
            raise _bad_format(name, limits) from None
        raise ApiError(f"Invalid input image - {error}", param=name) from None


def check_edit(
    image: Image.Image, mask: Image.Image | None, *, strict: bool, size: Size = SQUARE
) -> tuple[Image.Image, Image.Image | None]:
    """Returns the image to edit and its mask, white where to paint; no mask if nothing is transparent.

    Args:
        size: of the result; the middle part of its shape is edited.

    Raises:
        ApiError: they do not match or, if strict, nothing is transparent.
    """
    if mask is not None and mask.size != image.size:
        message = "Invalid mask image format - mask size does not match image size"
        raise ApiError(message, param="mask", code="invalid_mask_image_format")
    if strict and mask is not None and mask.mode != "RGBA":
        message = "Invalid mask image format - the mask must have transparent areas"
        raise ApiError(message, param="mask", code="invalid_mask_image_format")
    if strict and mask is None and image.mode != "RGBA":
        message = f"Invalid input image - format must be in ['RGBA', 'LA', 'L'], got {image.mode}."
        raise ApiError(message, param="image")
    image = _middle(image, size, strict=strict)
    paint = read_mask(image, None if mask is None else _middle(mask, size, strict=strict))
    image = on_white(_fitted(image, size))
    return image, None if paint is None else _resize_mask(
        Image.fromarray(paint.numpy()).convert("L"), image.size
    )


def check_variation(image: Image.Image, *, strict: bool, size: Size = SQUARE) -> Image.Image:
    """Returns the RGB image to vary: the middle part of the shape of the result's size."""
    return _fitted(on_white(_middle(image, size, strict=strict)), size)


def composite_kept(made: Image.Image, image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Replaces the kept pixels of an edit by those of the original image, at the size of `made`.

    An image that was uploaded at the output size keeps these pixels bit for bit.
    """
    if mask is None:
        return made
    return Image.composite(
        made, image.resize(made.size, Image.Resampling.LANCZOS), _resize_mask(mask, made.size)
    )


def encode(
    image: Image.Image,
    marks: Marks,
    *,
    part: bool,
    mask: Image.Image | None = None,
    settings: Mapping[str, Any] | None = None,
    format: metadata.Format = "PNG",
    quality: int | None = None,
) -> bytes:
    """Encodes a picture as a file, with its marks.

    Args:
        part: a model made a part of the picture only.
        mask: white where the model painted, at any size; None if it painted everything.
        settings: written into the file.
        quality: of JPEG or WebP, 0 to 100. Default: 95 and 92.
    """
    if marks.watermark:
        painted = None if mask is None else torch.from_numpy(np.asarray(_resize_mask(mask, image.size)) > 0)
        image = images.mark(image, painted)
    if not marks.metadata:
        return metadata.encode(image, format, quality=quality)
    source: metadata.Source = "compositeWithTrainedAlgorithmicMedia" if part else "trainedAlgorithmicMedia"
    file = metadata.encode(image, format, source=source, settings=settings, quality=quality)
    return marks.signer.sign(file, source) if marks.signer else file


def preview(x0: torch.Tensor, size: Size) -> Image.Image:
    """Converts the decoder's x0-prediction, rendered to [3, H, W], to an image of a size."""
    return images.to_pil(x0).resize(size, Image.Resampling.BICUBIC)


def _fitted(image: Image.Image, size: Size) -> Image.Image:
    """A square, shrunk to `KEPT_SIDE`; an image of another shape at exactly the result's size."""
    if size.width == size.height:
        size = Size(min(image.width, KEPT_SIDE), min(image.height, KEPT_SIDE))
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _resize_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes a mask; a pixel is white if any part of it was, as the model takes it."""
    return mask.resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 if value else 0)


def _middle(image: Image.Image, shape: Size, *, strict: bool) -> Image.Image:
    if strict and image.width != image.height:
        message = "Invalid input image - expected an image with equal width and height, "
        raise ApiError(f"{message}got {image.width}x{image.height} instead.")
    return images.centre_crop(image, shape)


def _bad_format(name: str, limits: UploadLimits) -> ApiError:
    kinds = {"WEBP": "WebP"}
    *most, last = [kinds.get(one, one) for one in limits.formats]
    formats = f"{', '.join(most)} or {last}" if most else last
    message = f"Uploaded image must be a {formats} and less than {limits.size >> 20} MB."
    return ApiError(message, param=name, code="invalid_image_format")
