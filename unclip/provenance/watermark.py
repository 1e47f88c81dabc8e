"""Invisible zero-bit watermark: a fixed noise pattern in the middle frequencies (Cox et al. 1997).

It carries one statement, "made by unclip". The pattern is public so that everyone can detect it, so it can
also be removed or forged: it labels images for honest use and clean training data and is no proof.

Images of any size and aspect ratio are stretched to a canonical grid of 256 × 256 for detection.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unclip.pictures import eight_bit

Array = NDArray[np.floating[Any]]

KEY = 20220413  # seed of the pattern; a change would make all earlier images undetectable
GRID = 256  # side of the canonical grid
LOW, HIGH = 10, 56  # cycles per image: lower ones are visible, higher ones are lost at half size
STRENGTH = 2.7  # RMS of the added pattern, in 1/255: PSNR 39.5 dB
LIMIT = 3.0  # clipping of details before detection, in 1/255: stronger ones are image content
FALSE_POSITIVES = 1e-6  # rate per image, over all places of a search
REDUCED = 4 * GRID  # pixels of the shorter side; more resolution does not help detection
SMALLEST_CROP = 0.75  # smallest crop that a search covers, as a share of the side
NATIVE = (256, 512, 1024)  # sides of generated images; their crops are found at any aspect ratio


class Detection(NamedTuple):
    """Score of the pattern, in standard deviations of unmarked images, and the threshold of detection."""

    score: float
    threshold: float

    @property
    def found(self) -> bool:
        """Whether the image is marked; false for one in a million unmarked images."""
        return self.score > self.threshold


def embed(pixels: Array, where: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Add the watermark to an image. The result is not rounded.

    Args:
        pixels: float [H, W, 3] in 0–255.
        where: mask [H, W], True for pixels to mark; the others are unchanged. None marks all.
    """
    image = np.asarray(pixels, dtype=np.float32)
    height, width = image.shape[:2]
    mark = _pattern(height, width) * _hiding(image.mean(axis=2))
    mark *= STRENGTH / max(float(np.sqrt(np.mean(np.square(mark)))), 1e-6)
    if where is not None:
        mark *= where
    marked: NDArray[np.float32] = np.clip(image + mark[..., None], 0, 255, dtype=np.float32)
    return marked


def detect(picture: Image.Image, *, search: bool = True) -> Detection:
    """Detect the watermark.

    Args:
        search: also detect crops of marked images, down to 3/4 of each side; 30 times slower.
    """
    grey = eight_bit(picture).convert("L")
    if (factor := min(grey.size) // REDUCED) > 1:
        grey = grey.reduce(factor)  # once for all searched sizes
    # Half of the false positive rate goes to uncropped images, the usual case.
    whole = Detection(_score(grey, GRID, GRID), _threshold(places=2 if search else 1))
    if whole.found or not search:
        return whole
    crops = _crops(grey.width, grey.height)
    places = sum((GRID - w + 1) * (GRID - h + 1) for w, h in crops)
    return Detection(max(_score(grey, w, h) for w, h in crops), _threshold(places=2 * places))


def _threshold(places: int) -> float:
    """Score that the maximum over `places` exceeds by chance with probability FALSE_POSITIVES."""
    return NormalDist().inv_cdf(1 - FALSE_POSITIVES / places)


def _crops(width: int, height: int) -> list[tuple[int, int]]:
    """Sizes on the canonical grid to try for an image that may be a crop of a larger one."""
    sides = {(side, side) for side in range(round(GRID * SMALLEST_CROP), GRID, 2)}
    for native in NATIVE:
        cut = round(width * GRID / native), round(height * GRID / native)
        if all(GRID * SMALLEST_CROP <= side <= GRID for side in cut):
            sides.add(cut)
    return sorted(sides - {(GRID, GRID)})


def _score(grey: Image.Image, width: int, height: int) -> float:
    """Best correlation with the pattern at this size, over all offsets of the crop."""
    small = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    canvas = np.zeros((GRID, GRID))
    canvas[:height, :width] = np.clip(small - _box(small), -LIMIT, LIMIT)
    fit = np.fft.irfft2(_whitened(canvas) * np.conj(_spectrum()), s=(GRID, GRID))
    spread = float(fit.std())
    if spread < 1e-12:  # constant image
        return 0.0
    # A crop at offset (y, x) matches the pattern shifted by (−y, −x).
    shifts = np.roll(fit[::-1, ::-1], (1, 1), axis=(0, 1))[: GRID - height + 1, : GRID - width + 1]
    return float(shifts.max()) / spread


def _whitened(canvas: Array) -> NDArray[np.complexfloating[Any, Any]]:
    """Spectrum within the band, divided by its local mean magnitude so that no texture dominates."""
    loudness = _box(np.abs(np.fft.fft2(canvas)))[:, : GRID // 2 + 1]
    return np.where(_band(), np.fft.rfft2(canvas) / (loudness + 1e-9), 0)


def _hiding(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Masking weight per pixel [H, W], by local contrast: texture hides more than a clear sky."""
    picture = Image.fromarray(grey)
    small = np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float64)
    spread = np.sqrt(np.maximum(_box(np.square(small)) - _box(small) ** 2, 0))
    hiding = Image.fromarray(np.clip(spread / 12, 0.8, 2).astype(np.float32))
    return np.asarray(hiding.resize(picture.size, Image.Resampling.BILINEAR))


def _box(values: Array) -> Array:
    """Mean filter of 9 × 9 with periodic boundary."""
    for axis in (0, 1):
        around = [(5, 4) if axis == a else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(values, around, mode="wrap"), axis=axis, dtype=np.float64)
        total = total.swapaxes(0, axis)
        values = ((total[9:] - total[:-9]) / 9).swapaxes(0, axis)
    return values


@lru_cache(maxsize=8)
def _pattern(height: int, width: int) -> NDArray[np.float32]:
    """Pattern of unit variance at this size. It is band-limited, so resizing is exact."""
    spectrum = np.zeros((height, width // 2 + 1), dtype=complex)
    rows, columns = min(height, GRID) // 2, min(width, GRID) // 2
    source = _spectrum()
    spectrum[:rows, :columns] = source[:rows, :columns]
    spectrum[height - rows + 1 :, :columns] = source[GRID - rows + 1 :, :columns]
    pattern = np.fft.irfft2(spectrum, s=(height, width))
    unit: NDArray[np.float32] = (pattern / max(pattern.std(), 1e-12)).astype(np.float32)
    return unit


@lru_cache(maxsize=1)
def _spectrum() -> NDArray[np.complexfloating[Any, Any]]:
    """Half spectrum of the pattern [256, 129]: unit magnitude and random phases within the band.

    NumPy guarantees RandomState's numbers in every version, unlike those of newer generators.
    """
    spectrum = np.fft.rfft2(np.random.RandomState(KEY).standard_normal((GRID, GRID)))
    return np.where(_band(), spectrum / np.abs(spectrum), 0)


def _band() -> NDArray[np.bool_]:
    """Mask of the half spectrum: frequencies of the pattern."""
    frequency: Array = np.hypot(np.fft.fftfreq(GRID)[:, None] * GRID, np.fft.rfftfreq(GRID)[None] * GRID)
    inside: NDArray[np.bool_] = (frequency >= LOW) & (frequency <= HIGH)
    return inside
