"""Invisible zero-bit watermark: a fixed noise pattern in the middle frequencies (Cox et al. 1997).

It carries one statement, "made by unclip". The pattern is public so that everyone can detect it, so it can
also be removed or forged: it labels images for honest use and clean training data and is no proof.

The pattern is periodic. Its period is the shorter side of the image, so that its frequencies are known for
every crop and inside every screenshot once the scale is: detection resamples the image so that the period
would have 128 cells, adds all periods up, and correlates with the pattern at every offset by FFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from math import log2
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unclip.pictures import eight_bit

Array = NDArray[np.floating[Any]]
Spectrum = NDArray[np.complexfloating[Any, Any]]

KEY = 20220413  # seed of the pattern; a change would make all earlier images undetectable
GRID = 256  # side of the canonical grid
LOW, HIGH = 10, 56  # cycles per image: lower ones are visible, higher ones are lost at half size
STRENGTH = 2.7  # RMS of the added pattern, in 1/255: PSNR 39.5 dB
LIMIT = 3.0  # clipping of details before detection, in 1/255: stronger ones are image content
FALSE_POSITIVES = 1e-6  # rate per image, over all looks of a detection
REDUCED = 4 * GRID  # pixels of the shorter side; more resolution does not help detection

CELLS = 128  # side of a period in a search: twice the highest frequency, and some
SEARCHED = (68, 427)  # shorter sides of an image in such cells: from a 16:9 crop to a wide screenshot
LONGEST = 8 * CELLS  # longer side in cells
ANGLES = (-3.0, -2.25, -1.5, -0.75, 0.75, 1.5, 2.25, 3.0)  # degrees; half a step costs a fifth of the score
TURNED = (107, 142)  # shorter sides at which a turned image is searched
TOGETHER = 16  # looks at once; more are no faster
SHARES = (96, CELLS)  # sides of crops of an earlier version's image of any aspect ratio, which was stretched


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
    side = min(height, width)
    mark = np.pad(_pattern(side, side), ((0, height - side), (0, width - side)), mode="wrap")
    mark *= _hiding(image.mean(axis=2))
    mark *= STRENGTH / max(float(np.sqrt(np.mean(np.square(mark)))), 1e-6)
    if where is not None:
        mark *= where
    marked: NDArray[np.float32] = np.clip(image + mark[..., None], 0, 255, dtype=np.float32)
    return marked


def detect(picture: Image.Image, *, search: bool = True) -> Detection:
    """Detect the watermark.

    Args:
        search: also detect parts of marked images (from 3/5 of each side), marked images within a larger
            one such as a screenshot (up to 10/3 of the shorter side), mirrored ones, and rotations up to 3°;
            50 times slower.
    """
    grey = eight_bit(picture).convert("L")
    if (factor := min(grey.size) // REDUCED) > 1:
        grey = grey.reduce(factor)  # once for all searched sizes
    # Half of the false positive rate goes to uncropped images, the usual case.
    halves, looks = 2 if search else 1, 1 if grey.width == grey.height else 2
    score = _score(grey) if looks == 1 else max(_score(grey), _score_of_period(grey))
    whole = Detection(score, _threshold(looks * halves))
    if whole.found or not search:
        return whole
    best, count, placements = 0.0, 0, _placements(grey)
    while canvases := list(islice(placements, TOGETHER)):
        fits = _fits(np.stack(canvases))
        best, count = max(best, float(fits.max())), count + fits.size
    return Detection(best, _threshold(max(count, 1) * halves))


def _threshold(looks: int) -> float:
    """Score that the maximum of this many looks exceeds by chance with probability FALSE_POSITIVES.

    Of an image chosen without regard to the pattern, a score is a sum of cosines with independent random
    phases, divided by its standard deviation: its tails are no heavier than the normal distribution's.
    """
    return -NormalDist().inv_cdf(FALSE_POSITIVES / looks)


def _score(grey: Image.Image) -> float:
    """Correlation with one period stretched to the image: of all square ones, and all of earlier versions."""
    small = np.asarray(grey.resize((GRID, GRID), Image.Resampling.BICUBIC), dtype=np.float32)
    fit = np.fft.irfft2(_whitened(_details(small)) * np.conj(_spectrum()), s=(GRID, GRID))
    spread = float(fit.std())
    return float(fit[0, 0]) / spread if spread > 1e-12 else 0.0  # 0 for a constant image


def _score_of_period(grey: Image.Image) -> float:
    """Correlation of an image that is not square with the pattern, whose period is the shorter side."""
    canvas = next(_resampled(_shortened(grey), [CELLS]))
    return float(_fits(canvas[None])[0, 0, 0, 0])


def _placements(grey: Image.Image) -> Iterator[Array]:
    """Canvases [CELLS, CELLS] of all searched scales and angles, to be looked at with `_fits`."""
    if grey.width != grey.height:
        square = grey.resize((2 * CELLS, 2 * CELLS), Image.Resampling.BICUBIC)
        yield from _resampled(square, range(*SHARES))
    grey = _shortened(grey)
    most = min(SEARCHED[1], 2 * min(grey.size), LONGEST * min(grey.size) // max(grey.size))
    sides, side = list[int](), SEARCHED[0]
    while side <= most:
        sides.append(side)
        side = max(side + 1, round(side * 1.009))
    for _, octave in groupby(sides, key=lambda side: int(2 * log2(side / SEARCHED[0]))):
        yield from _resampled(grey, list(octave))
    turned = [side for side in sides if TURNED[0] <= side <= TURNED[1]]
    for angle in ANGLES if turned else ():
        yield from _resampled(grey, turned, angle)


def _shortened(grey: Image.Image) -> Image.Image:
    """The first 8 periods of a longer strip."""
    longest = LONGEST // CELLS * min(grey.size)
    return grey.crop((0, 0, min(grey.width, longest), min(grey.height, longest)))


def _resampled(grey: Image.Image, sides: Sequence[int], angle: float = 0.0) -> Iterator[Array]:
    """Canvases of an image by the cells of its shorter side, with all periods of the pattern added up."""

    def resize(image: Image.Image, side: int) -> Image.Image:
        factor = side / min(image.size)
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        return image.resize(size, Image.Resampling.BILINEAR)

    fine = np.asarray(resize(grey, 2 * max(sides)), dtype=np.float32)
    details = Image.fromarray(_details(fine).astype(np.float32)).rotate(angle, Image.Resampling.BILINEAR)
    for side in sides:
        cells = np.asarray(resize(details, side))
        height, width = -(-cells.shape[0] // CELLS), -(-cells.shape[1] // CELLS)
        canvas = np.zeros((height * CELLS, width * CELLS), dtype=np.float32)
        canvas[: cells.shape[0], : cells.shape[1]] = cells
        yield canvas.reshape(height, CELLS, width, CELLS).sum(axis=(0, 2))


def _fits(canvases: Array) -> Array:
    """Scores [2, N, CELLS, CELLS] of canvases [N, CELLS, CELLS]: mirrored or not, at every offset."""
    pattern = np.conj(_searched_spectra())[:, None]
    fits: Array = np.fft.irfft2(_whitened(canvases) * pattern, s=(CELLS, CELLS))
    spread = fits.std(axis=(-2, -1), keepdims=True)
    found: Array = np.divide(fits, spread, out=np.zeros_like(fits), where=spread > 1e-12)
    return found


def _details(grey: Array) -> Array:
    """High frequencies [H, W] without strong edges."""
    details: Array = np.clip(grey - _box(grey), -LIMIT, LIMIT)
    return details


def _whitened(canvas: Array) -> Spectrum:
    """Half spectrum within the band, divided by its local mean magnitude so that no texture dominates."""
    half = np.fft.rfft2(canvas)
    magnitude = np.abs(half)
    negative = magnitude[..., -np.arange(half.shape[-2]), 4:0:-1]  # a real image's frequencies −4 … −1
    loudness = _box(np.concatenate([negative, magnitude], axis=-1))[..., 4:]
    whitened: Spectrum = np.where(_band(half.shape[-2]), half / (loudness + 1e-9), 0)
    return whitened


def _hiding(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Masking weight per pixel [H, W], by local contrast: texture hides more than a clear sky."""
    picture = Image.fromarray(grey)
    small = np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float64)
    spread = np.sqrt(np.maximum(_box(np.square(small)) - _box(small) ** 2, 0))
    hiding = Image.fromarray(np.clip(spread / 12, 0.8, 2).astype(np.float32))
    return np.asarray(hiding.resize(picture.size, Image.Resampling.BILINEAR))


def _box(values: Array) -> Array:
    """Mean filter of 9 × 9 over the last two axes with periodic boundary."""
    for axis in (-2, -1):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (4, 4)
        padded = np.pad(values, padding, mode="wrap").swapaxes(axis, 0)
        length = len(padded) - 8
        values = np.mean([padded[i : i + length] for i in range(9)], axis=0).swapaxes(axis, 0)
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
    return np.where(_band(GRID), spectrum / np.abs(spectrum), 0)


@lru_cache(maxsize=1)
def _searched_spectra() -> Spectrum:
    """Half spectra [2, CELLS, CELLS / 2 + 1] of one period of the pattern and of its mirror image."""
    pattern = _pattern(CELLS, CELLS)
    return np.stack([np.fft.rfft2(one) for one in (pattern, pattern[:, ::-1])])


def _band(side: int) -> NDArray[np.bool_]:
    """Mask of the half spectrum [side, side / 2 + 1] of one period: frequencies of the pattern."""
    frequency: Array = np.hypot(np.fft.fftfreq(side)[:, None] * side, np.fft.rfftfreq(side)[None] * side)
    inside: NDArray[np.bool_] = (frequency >= LOW) & (frequency <= HIGH)
    return inside
