"""Examine samples before they are packed: why one is left out, or the hash of its image.

This module does not import torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from unclip.data.sample import BadSample, captions, image_suffix, picture
from unclip.data.source import Unit
from unclip.data.tar import Sample
from unclip.provenance.verify import WATERMARK, generated
from unclip.provenance.watermark import detect


@dataclass(frozen=True)
class Limits:
    """Limits on the size of images.

    Attributes:
        min_side: smallest shorter side in pixels.
        max_side: largest longer side in pixels.
        max_aspect: largest ratio of the longer to the shorter side.
    """

    min_side: int = 64
    max_side: int = 16384
    max_aspect: float = 3.0

    def reason_against(self, size: tuple[int, int]) -> str | None:
        """Return why an image of this size is left out; None if it is kept."""
        short, long = sorted(size)
        if short < self.min_side:
            return "too small"
        if long > self.max_side:
            return "too large"
        return "extreme aspect ratio" if long > self.max_aspect * short else None


class Finding(NamedTuple):
    """Result for one sample.

    Attributes:
        name: of the image file, or of the sample in its tar.
        reason: why it is left out; None if it can be kept.
        hash: of the image file; empty if it could not be read.
    """

    name: str
    reason: str | None
    hash: str


def examine(unit: Unit, limits: Limits, *, keep_generated: bool) -> list[Finding]:
    """Examine all samples of a unit, in order."""
    found = []
    for sample in unit.samples():
        name = f"{sample['__url__']}: {sample['__key__']}" if unit.tar else sample["__key__"]
        try:
            captions(sample)
            reason = _reason_against(sample, limits, keep_generated)
            found.append(Finding(name, reason, content_hash(sample[image_suffix(sample)])))
        except BadSample as error:
            reason = "too large" if error.reason == "decompression bomb" else error.reason
            found.append(Finding(name, reason, ""))
    return found


def content_hash(content: bytes) -> str:
    """Hash the bytes of an image file, to find duplicates."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _reason_against(sample: Sample, limits: Limits, keep_generated: bool) -> str | None:
    """Return why a sample is left out, or None. Metadata come first, as they need no decoding."""
    mark = None if keep_generated else generated(sample[image_suffix(sample)], watermark=False)
    if mark is None:
        image = picture(sample)
        if reason := limits.reason_against(image.size):
            return reason
        if not keep_generated and detect(image, search=False).found:
            mark = WATERMARK
    return mark and f"generated ({mark})"
