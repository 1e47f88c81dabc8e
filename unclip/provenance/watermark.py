"""The invisible watermark: a fixed noise pattern, spread over the picture's middle frequencies (Cox et al.
1997).

It says one thing only, "made by unclip", and no more (zero-bit). The pattern is public, as it must be for
everyone to look for it, so whoever wants to can remove or forge it: this is a label for honest use and for
clean training data, no seal.

Pictures are compared on a canonical grid of 256 × 256, to which they are stretched whatever their size and
shape.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]

KEY = 20220413  # of the pattern, once and for all: with another, no older picture would be recognised
GRID = 256  # side of the canonical grid
LOW, HIGH = 10, 56  # cycles per picture: below it is seen, above it half the size has no room for it
STRENGTH = 2.7  # root mean square of what is added, in 1/255: 39.5 dB
LIMIT = 3.0  # of a detail, in 1/255, when the mark is looked for: what stands out more is the picture's own
FALSE_POSITIVES = 1e-6  # of a whole search, however many places it looks at
REDUCED = 4 * GRID  # pixels of the shorter side beyond which nothing more is found
SMALLEST_CROP = 0.75  # of the side, down to which a search looks for the rest of a picture
NATIVE = (256, 512, 1024)  # sides of pictures as they are made and served; their crops are found at any shape


class Detection(NamedTuple):
    """How well the pattern fits, in standard deviations of what chance gives, and from where on that is a
    finding.
    """

    score: float
    threshold: float

    @property
    def found(self) -> bool:
        """Whether the picture carries the watermark; wrong once in a million unmarked ones."""
        return self.score > self.threshold


def embed(pixels: Array, where: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """The picture with the watermark, not yet rounded.

    Args:
        pixels: float [H, W, 3] in 0–255.
        where: True where a model painted, [H, W]; the other pixels stay as they are. None marks all of them.
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
    """Looks for the watermark.

    Args:
        search: also in what may be a part of a marked picture, down to three quarters of each side; 30 times
            as slow.
    """
    grey = picture.convert("L")
    if (factor := min(grey.size) // REDUCED) > 1:
        grey = grey.reduce(factor)  # once, and not again for each of the searched sizes
    # Whole pictures are the usual case: they have half of the chance of error to themselves.
    whole = Detection(_score(grey, GRID, GRID), _threshold(places=2 if search else 1))
    if whole.found or not search:
        return whole
    crops = _crops(grey.width, grey.height)
    places = sum((GRID - w + 1) * (GRID - h + 1) for w, h in crops)
    return Detection(max(_score(grey, w, h) for w, h in crops), _threshold(places=2 * places))


def _threshold(places: int) -> float:
    """What chance exceeds in none of so many places, but for once in a million pictures."""
    return NormalDist().inv_cdf(1 - FALSE_POSITIVES / places)


def _crops(width: int, height: int) -> list[tuple[int, int]]:
    """Sizes on the canonical grid that the picture may have, were it cut out of a larger one."""
    sides = {(side, side) for side in range(round(GRID * SMALLEST_CROP), GRID, 2)}
    for native in NATIVE:
        cut = round(width * GRID / native), round(height * GRID / native)
        if all(GRID * SMALLEST_CROP <= side <= GRID for side in cut):
            sides.add(cut)
    return sorted(sides - {(GRID, GRID)})


def _score(grey: Image.Image, width: int, height: int) -> float:
    """The best fit of the pattern to the picture at that size, over the places where it may have been cut
    out.
    """
    small = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    canvas = np.zeros((GRID, GRID))
    canvas[:height, :width] = np.clip(small - _box(small), -LIMIT, LIMIT)
    fit = np.fft.irfft2(_whitened(canvas) * np.conj(_spectrum()), s=(GRID, GRID))
    spread = float(fit.std())
    if spread < 1e-12:  # one colour all over
        return 0.0
    # A picture cut out `y` below and `x` right of the corner fits the pattern moved up and left by as much.
    shifts = np.roll(fit[::-1, ::-1], (1, 1), axis=(0, 1))[: GRID - height + 1, : GRID - width + 1]
    return float(shifts.max()) / spread


def _whitened(canvas: Array) -> NDArray[np.complexfloating[Any, Any]]:
    """The spectrum within the band, all frequencies made about equally loud, so that no texture outshouts the
    rest.
    """
    loudness = _box(np.abs(np.fft.fft2(canvas)))[:, : GRID // 2 + 1]
    return np.where(_band(), np.fft.rfft2(canvas) / (loudness + 1e-9), 0)


def _hiding(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much each place hides [H, W], by the spread of the values around it: texture more than a clear
    sky.
    """
    picture = Image.fromarray(grey)
    small = np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float64)
    spread = np.sqrt(np.maximum(_box(np.square(small)) - _box(small) ** 2, 0))
    hiding = Image.fromarray(np.clip(spread / 12, 0.8, 2).astype(np.float32))
    return np.asarray(hiding.resize(picture.size, Image.Resampling.BILINEAR))


def _box(values: Array) -> Array:
    """The mean over the 9 × 9 places around each; the picture goes on beyond its edges as on a torus."""
    for axis in (0, 1):
        around = [(5, 4) if axis == a else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(values, around, mode="wrap"), axis=axis, dtype=np.float64)
        total = total.swapaxes(0, axis)
        values = ((total[9:] - total[:-9]) / 9).swapaxes(0, axis)
    return values


@lru_cache(maxsize=8)
def _pattern(height: int, width: int) -> NDArray[np.float32]:
    """The pattern at that size, with unit variance. It is band-limited, so that every size holds the same one
    exactly.
    """
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
    """The pattern's half spectrum [256, 129]: random phases of one loudness within the band.

    RandomState is frozen by NumPy's policy, unlike the newer generators: the same numbers in every version.
    """
    spectrum = np.fft.rfft2(np.random.RandomState(KEY).standard_normal((GRID, GRID)))
    return np.where(_band(), spectrum / np.abs(spectrum), 0)


def _band() -> NDArray[np.bool_]:
    """Which frequencies of the half spectrum the pattern uses."""
    frequency: Array = np.hypot(np.fft.fftfreq(GRID)[:, None] * GRID, np.fft.rfftfreq(GRID)[None] * GRID)
    inside: NDArray[np.bool_] = (frequency >= LOW) & (frequency <= HIGH)
    return inside
