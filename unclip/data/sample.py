"""Decode a sample: its image, captions and label, or the reason why it is unusable."""

from __future__ import annotations

import io
import random
from collections import Counter, defaultdict
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unclip.data.config import JSON
from unclip.data.tar import Sample
from unclip.embeddings import parse_npy
from unclip.errors import DataError, RequestError
from unclip.pictures import WrongSize, on_white, open_picture
from unclip.text import decode, legible, parse_json

# Formats that Pillow does not read, or only with a plug-in, and what a message says of them.
FOREIGN = {
    **dict.fromkeys(("heic", "heif"), "HEIC needs pillow-heif"),
    **{suffix: f"{suffix} is not read" for suffix in ("jxl", "cr2", "cr3", "nef", "arw", "dng", "svg")},
}
# A sample with several images is read from the first in this order.
IMAGE_SUFFIXES = (
    *("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "jfif", "jpe", "apng", "dib"),
    *("jp2", "j2k", "pbm", "pgm", "ppm", "pnm", "pfm", "qoi", "tga", "ico", *FOREIGN),
)
NAMED = 5  # shards that a message lists
SPARE = 2  # JPEGs are decoded at no less than this multiple of the wanted side

Skipped = Counter[tuple[str, str]]  # (shard, reason) → samples


class BadSample(DataError):
    """An unusable sample. It is skipped and counted under its `reason`."""

    def __init__(self, sample: Sample, reason: str, detail: str = "") -> None:
        super().__init__(f"sample {sample['__key__']}: {reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


def image_suffix(sample: Sample) -> str:
    """Return the suffix of the sample's image file.

    Raises:
        BadSample: there is none.
    """
    if "__bad__" in sample:
        raise BadSample(sample, sample["__bad__"])
    for suffix in IMAGE_SUFFIXES:
        if suffix in sample:
            return suffix
    raise BadSample(sample, "no picture")


def picture(sample: Sample, side: int | None = None) -> Image.Image:
    """Decode the sample's image: RGB, EXIF orientation applied, transparency on white.

    Args:
        side: length in pixels to which the shorter side will be `scaled`. A large JPEG is then decoded at
            1/2, 1/4 or 1/8 of its size, which is faster, but never below twice this side. None decodes all.

    Raises:
        BadSample: the image is missing, damaged, or outside the limits of `unclip.pictures`.
    """
    suffix = image_suffix(sample)
    try:
        return on_white(open_picture(io.BytesIO(sample[suffix]), side=side and SPARE * side))
    except WrongSize as error:
        raise BadSample(sample, error.fault) from None
    except RequestError as error:
        raise BadSample(sample, FOREIGN.get(suffix, "unreadable picture"), str(error)) from None


def scaled(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its shorter side has `side` pixels (bicubic)."""
    if min(image.size) == side:
        return image
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def pair(sample: Sample, size: int | None, crop: int, rng: random.Random) -> tuple[Image.Image, Image.Image]:
    """Decode an image and its `low.png`, the input of an upsampler, and crop both at the same random place.

    Args:
        size: side in pixels to which the image's middle square is resized; None for a square image as it is.
        crop: side of the crop of it.

    Raises:
        BadSample: as `picture`, or `low.png` is missing or not a whole fraction of the square.
    """
    if "low.png" not in sample:
        raise BadSample(sample, "no low.png")
    low = picture({"__key__": sample["__key__"], "png": sample["low.png"]})
    high = picture(sample)
    size = size or min(high.size)
    factor = max(size // low.width, 1)
    if low.size != (size // factor,) * 2 or crop % factor or crop > size:
        raise BadSample(sample, "low.png of another size", f"{low.width} × {low.height}")
    high = scaled(high, size)
    x, y = (rng.randint(0, low.width - crop // factor) for _ in range(2))
    left, top = (high.width - size) // 2 + factor * x, (high.height - size) // 2 + factor * y
    side = crop // factor
    return high.crop((left, top, left + crop, top + crop)), low.crop((x, y, x + side, y + side))


def captions(sample: Sample) -> list[str]:
    """Read all captions: `captions` or `caption` of the JSON, else the text file. Empty ones are dropped.

    Raises:
        BadSample: there is no caption, or it is damaged.
    """
    if "__bad__" in sample:
        raise BadSample(sample, sample["__bad__"])
    try:
        fields = about(sample)
        found = caption_list(fields.get("captions")) or caption_list(fields.get("caption"))
        found = found or caption_list(decode(sample.get("txt", b""), legacy=True))
    except ValueError as error:
        raise BadSample(sample, "unreadable caption", str(error)) from None
    if not found:
        raise BadSample(sample, "no caption")
    return found


def caption_list(value: object) -> list[str]:
    """Read the captions in a field: text, a number, or a list of these. None and NaN are no caption.

    Raises:
        ValueError: the field holds something else.
    """
    if isinstance(value, list):
        if any(isinstance(one, list) for one in value):
            raise ValueError("a list in a list")
        return [caption for one in value for caption in caption_list(one)]
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return []
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{'an object' if isinstance(value, dict) else value} instead of text")
    return [text] if (text := legible(str(value)).strip()) else []


def about(sample: Sample) -> dict[str, Any]:
    """The sample's JSON object; empty without one.

    Raises:
        ValueError: damaged.
    """
    found = parse_json(sample["json"]) if "json" in sample else {}
    return found if isinstance(found, dict) else {}


def label(sample: Sample) -> int | None:
    """Read the sample's class, an integer, from its JSON; None if it has none.

    Raises:
        BadSample: the label is not a non-negative integer.
    """
    try:
        found = about(sample).get("label")
    except ValueError as error:
        raise BadSample(sample, "unreadable label", str(error)) from None
    if found is not None and (type(found) is not int or found < 0):
        raise BadSample(sample, "unreadable label", repr(found)[:60])
    return found


def vectors(sample: Sample, source: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read the sample's vectors [count, width].

    Args:
        source: where they are, see `DataConfig.vectors`.
        shape: (count, width); one vector may also be [width].

    Raises:
        BadSample: missing, damaged, of another shape, or not finite.
    """
    if "__bad__" in sample:
        raise BadSample(sample, sample["__bad__"])
    try:
        if source.startswith(JSON):
            listed = about(sample).get(source.removeprefix(JSON))
            found = None if listed is None else np.asarray(listed, np.float32)
        else:
            found = parse_npy(io.BytesIO(sample[source])) if source in sample else None
    except (ValueError, TypeError) as error:
        raise BadSample(sample, "unreadable vectors", str(error)) from None
    if found is None:
        raise BadSample(sample, "no vectors", f"data.vectors is {source}")
    if found.shape not in (shape, shape[shape[0] == 1 :]):
        wanted = list(shape[shape[0] == 1 :])
        raise BadSample(sample, "vectors of another shape", f"{list(found.shape)}, the stage reads {wanted}")
    if not np.isfinite(found).all():
        raise BadSample(sample, "vectors with NaN or infinite numbers")
    return found.reshape(shape)


def described(skipped: Skipped) -> str:
    """Format skipped samples, worst shards first: `a.tar: 3 no caption, 1 unreadable picture; b.tar: …`."""
    shards: dict[str, Counter[str]] = defaultdict(Counter)
    for (shard, reason), count in skipped.items():
        shards[shard][reason] += count
    worst = sorted(shards, key=lambda shard: (-shards[shard].total(), shard))
    parts = [
        f"{shard}: {', '.join(f'{n} {reason}' for reason, n in shards[shard].most_common())}"
        for shard in worst
    ]
    more = f"; and {len(parts) - NAMED} more shards" if len(parts) > NAMED else ""
    return "; ".join(parts[:NAMED]) + more
