"""Pictures at the server's edge: checked and decoded when they come, sized and marked when they go."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from unclip import images
from unclip.errors import RequestError
from unclip.pipeline.masks import read_mask
from unclip.provenance import metadata
from unclip.provenance.credentials import Signer
from unclip.serve.envelope import ApiError

LARGEST_FILE = 4 << 20  # bytes
LARGEST_SIDE = 4096  # pixels, before anything is decoded
KEPT_SIDE = 1024  # pixels: what waits in the queue is no larger than what comes out
FORMATS: Final = {True: ("PNG",), False: ("PNG", "JPEG", "WEBP")}  # strict, lenient
WORDS = ("prompt", "negative", "before", "after", "from", "to")  # settings that may hold what a client wrote


@dataclass(frozen=True)
class Marks:
    """What the server's pictures say of themselves.

    Attributes:
        watermark: in the pixels: a model made them.
        metadata: in the file: the type of source, and the settings.
        prompts: whether the settings hold what the client wrote, which is the client's own affair.
        signer: puts content credentials into the file, if there is one.
    """

    watermark: bool = True
    metadata: bool = True
    prompts: bool = False
    signer: Signer | None = None

    def settings(self, image: Image.Image) -> dict[str, Any]:
        """What may be told of how the picture was made; nothing of one under way."""
        return {key: value for key, value in image.info.get("unclip", {}).items() if self.prompts or key not in WORDS}


def read_upload(files: Mapping[str, bytes], name: str, *, strict: bool) -> Image.Image:
    """A picture of a form, RGB or RGBA, whole.

    What the client says of its type is not asked: programs send pictures as octet-stream.

    Raises:
        ApiError: it is missing, too large, of another format, or damaged.
    """
    data = files.get(name)
    if data is None:
        raise ApiError(f"'{name}' is a required property", param=name)
    formats = FORMATS[strict]
    if len(data) >= LARGEST_FILE:
        raise _bad_format(name, strict=strict)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if max(image.size) > LARGEST_SIDE:
                width, height = image.size
                message = f"Invalid input image - at most {LARGEST_SIDE}x{LARGEST_SIDE} pixels, got {width}x{height}."
                raise ApiError(message, param=name)
            return images.plain(image)
    except ApiError:
        raise
    except RequestError as error:
        raise ApiError(f"Invalid input image - {error}", param=name) from None
    except Exception:  # Pillow raises what it likes: OSError, ValueError, SyntaxError, struct.error, zlib.error …
        raise _bad_format(name, strict=strict) from None


def check_edit(image: Image.Image, mask: Image.Image | None, *, strict: bool) -> tuple[Image.Image, Image.Image | None]:
    """The square picture to edit, and white where to paint; None where nothing says so.

    Raises:
        ApiError: they do not go together, or, strictly, there is nothing transparent.
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
    image = _square(image, strict=strict)
    paint = read_mask(image, None if mask is None else _square(mask, strict=strict))
    image = _shrunk(image).convert("RGB")
    return image, None if paint is None else _covering(Image.fromarray(paint.numpy()).convert("L"), image.size)


def check_variation(image: Image.Image, *, strict: bool) -> Image.Image:
    """The square picture to vary, RGB."""
    return _shrunk(images.on_white(_square(image, strict=strict)))


def keep(made: Image.Image, image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """What was made, with the picture's own pixels where the mask keeps them, at the size of what was made.

    The model works at sizes of its own; a picture that was of the size asked for comes back with its own pixels.
    """
    if mask is None:
        return made
    return Image.composite(made, image.resize(made.size, Image.Resampling.LANCZOS), _covering(mask, made.size))


def encode(
    image: Image.Image,
    marks: Marks,
    *,
    part: bool,
    mask: Image.Image | None = None,
    settings: Mapping[str, Any] | None = None,
) -> bytes:
    """The picture as PNG, with the marks that say a model made it, or a part of it.

    Args:
        mask: white where the model painted, at any size; without one it painted everything.
        settings: what made it, as it may be told.
    """
    if marks.watermark:
        painted = None if mask is None else torch.from_numpy(np.asarray(_covering(mask, image.size)) > 0)
        image = images.mark(image, painted)
    if not marks.metadata:
        return metadata.encode(image)
    source: metadata.Source = "compositeWithTrainedAlgorithmicMedia" if part else "trainedAlgorithmicMedia"
    file = metadata.encode(image, source=source, settings=settings)
    return marks.signer.sign(file, source) if marks.signer else file


def preview(x0: torch.Tensor, size: int) -> Image.Image:
    """What the decoder [3, h, h] sees so far, at the size that was asked for."""
    return images.to_pil(x0).resize((size, size), Image.Resampling.BICUBIC)


def _shrunk(image: Image.Image) -> Image.Image:
    return image if image.width <= KEPT_SIDE else image.resize((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)


def _covering(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask at another size, white wherever any part of a pixel is, as the model takes it."""
    return mask.resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 if value else 0)


def _square(image: Image.Image, *, strict: bool) -> Image.Image:
    if strict and image.width != image.height:
        message = "Invalid input image - expected an image with equal width and height, "
        raise ApiError(f"{message}got {image.width}x{image.height} instead.")
    return images.centre_square(image)


def _bad_format(name: str, *, strict: bool) -> ApiError:
    kinds = "PNG" if strict else "PNG, JPEG or WebP"
    return ApiError(f"Uploaded image must be a {kinds} and less than 4 MB.", param=name, code="invalid_image_format")
