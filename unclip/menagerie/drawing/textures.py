"""Seamless tiles of the textures of paper, pencil, watercolour and print."""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import skia

from unclip.menagerie.drawing.pen import UNITS

Field = npt.NDArray[np.float64]

TILE: Final = 512  # side of a texture tile in texels and canvas units: about one texel per pixel at 1024 px


def _noise(seed: int, low: float, high: float, stretch: float = 1.0) -> Field:
    """Seamless noise of mean 0 and standard deviation 1, with `low` to `high` waves per tile.

    `stretch` elongates it along y.
    """
    white = np.random.default_rng(seed).standard_normal((TILE, TILE))
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE) * TILE * stretch, np.fft.fftfreq(TILE) * TILE, indexing="ij")
    radius = np.hypot(fx, fy)
    band = np.exp(-((radius / high) ** 2)) * (1 - np.exp(-((radius / low) ** 2)))
    field: Field = np.fft.ifft2(np.fft.fft2(white) * band).real
    normal: Field = field / field.std()
    return normal


Tile = tuple[skia.Image, ...]


def _alpha(field: Field) -> Tile:
    """A mip pyramid of alpha-only tiles, each level half the size of the one before.

    A shader made of it has the paint's colour, so one tile serves all colours. The levels are plain averages,
    so that a texture too fine to see has the same tone as in a larger picture.
    """
    field, levels = np.clip(field, 0, 1), []
    while field.shape[0] >= 8:
        alpha = np.rint(field * 255).astype(np.uint8)
        size = (field.shape[0], field.shape[0])
        levels.append(
            skia.Image.frombytes(alpha.tobytes(), size, skia.kAlpha_8_ColorType, skia.kPremul_AlphaType)
        )
        field = (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2]) / 4
    return tuple(levels)


@cache
def hatching() -> Tile:
    """Pencil strokes along y, of uneven pressure, on paper with a tooth."""
    x = np.arange(TILE)[None, :] / TILE
    wave = np.sin(2 * math.pi * (40 * x + 0.30 * _noise(1, 1, 10, stretch=4)))
    pressure = 0.30 * _noise(2, 2, 24, stretch=5) + 0.42 * _noise(3, 40, 200)
    return _alpha(0.60 + 0.42 * wave + 0.55 * pressure)


@cache
def graphite() -> Tile:
    """A soft pencil's line, broken by the paper's tooth."""
    return _alpha(0.82 + 0.24 * _noise(4, 50, 220))


@cache
def tooth() -> Tile:
    """Specks of paper that the pencil skips."""
    return _alpha(0.10 + 0.11 * _noise(5, 60, 240))


@cache
def wash() -> Tile:
    """Pigment in water: broad pools with dark tide marks, and a fine granulation."""
    pools = _noise(6, 1.5, 7)
    tides = np.exp(-((_noise(7, 1, 5) / 0.16) ** 2))
    return _alpha(0.44 + 0.17 * pools + 0.10 * tides + 0.07 * _noise(8, 60, 200))


@cache
def cold_press() -> Tile:
    """The shaded side of the bumps of watercolour paper."""
    bumps = _noise(9, 30, 110)
    return _alpha(0.045 + 0.9 * (bumps - np.roll(bumps, (3, 3), (0, 1))) * 0.05)


@cache
def dots() -> Tile:
    """A Ben-Day screen at 45°: a square lattice with an additional dot in the middle of each cell."""
    pitch = TILE / 16
    y, x = np.mgrid[:TILE, :TILE] + 0.5
    corner = np.hypot((x + pitch / 2) % pitch - pitch / 2, (y + pitch / 2) % pitch - pitch / 2)
    middle = np.hypot(x % pitch - pitch / 2, y % pitch - pitch / 2)
    return _alpha(0.5 + (pitch * 0.27 - np.minimum(corner, middle)) / 1.5)


@cache
def halftone() -> skia.Path:
    """Dots that grow from the middle of the page to its bottom, as one path."""
    path, pitch = skia.Path(), 25.0
    for row in range(int(UNITS / pitch) + 2):
        y = row * pitch
        radius = 15.5 * ((y - 330) / (UNITS - 330))
        if radius > 1.5:
            for column in range(int(UNITS / pitch / 2) + 2):
                path.addCircle((2 * column + row % 2) * pitch, y, radius)
    return path
