"""What a sample holds: its picture and its captions, or the reason why it cannot be used."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict

from PIL import Image, ImageOps

from unclip.data.tar import Sample
from unclip.errors import DataError

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
NAMED = 5  # shards, in a message
SPARE = 2  # times the side that is wanted, below which a JPEG is not decoded smaller

Skipped = Counter[tuple[str, str]]  # (shard, reason) → samples


class BadSample(DataError):
    """One sample that cannot be used: left out, and counted under its `reason`."""

    def __init__(self, sample: Sample, reason: str, detail: str = "") -> None:
        super().__init__(f"sample {sample['__key__']}: {reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


def image_suffix(sample: Sample) -> str:
    """The suffix under which the sample keeps its picture."""
    if "__bad__" in sample:
        raise BadSample(sample, sample["__bad__"])
    for suffix in IMAGE_SUFFIXES:
        if suffix in sample:
            return suffix
    raise BadSample(sample, "no picture")


def picture(sample: Sample, side: int | None = None) -> Image.Image:
    """The sample's decoded picture: RGB, upright, on white where it is transparent.

    Args:
        side: what its shorter side will be `scaled` to. A JPEG of several times that is decoded at a half, a
            quarter or an eighth, which costs so much less, and never below twice that side, where it would be
            seen.

    Raises:
        BadSample: there is none, it is damaged, or it would unfold to more pixels than Pillow thinks safe.
    """
    content = sample[image_suffix(sample)]
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        if side is not None:
            image.draft(image.mode, (SPARE * side, SPARE * side))
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Image.DecompressionBombError:
        raise BadSample(sample, "decompression bomb") from None
    except (
        Exception
    ) as error:  # Pillow raises what it likes: OSError, ValueError, SyntaxError, struct.error …
        raise BadSample(sample, "unreadable picture", str(error)) from None


def scaled(image: Image.Image, side: int) -> Image.Image:
    """The picture with its shorter side brought to `side` pixels."""
    if min(image.size) == side:
        return image
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def captions(sample: Sample) -> list[str]:
    """All captions of the sample: `captions` or `caption` of its JSON, else its text. Empty ones do not
    count.

    Raises:
        BadSample: there is none, or it is damaged.
    """
    if "__bad__" in sample:
        raise BadSample(sample, sample["__bad__"])
    try:
        about = json.loads(sample.get("json", b"{}"))
        text = sample.get("txt", b"").decode("utf-8")
    except (ValueError, RecursionError) as error:
        raise BadSample(sample, "unreadable caption", str(error)) from None
    several = (about.get("captions") or about.get("caption")) if isinstance(about, dict) else None
    if not several:
        several = text
    found = [str(one).strip() for one in ([several] if isinstance(several, str) else several)]
    found = [one for one in found if one]
    if not found:
        raise BadSample(sample, "no caption")
    return found


def label(sample: Sample) -> int | None:
    """The number of the sample's class, from its JSON; None where that says none.

    Raises:
        BadSample: it is no such number.
    """
    try:
        about = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise BadSample(sample, "unreadable label", str(error)) from None
    found = about.get("label") if isinstance(about, dict) else None
    if found is not None and (type(found) is not int or found < 0):
        raise BadSample(sample, "unreadable label", repr(found))
    return found


def described(skipped: Skipped) -> str:
    """What was skipped, by shard, worst first: `a.tar: 3 no caption, 1 unreadable picture; b.tar: …`."""
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
