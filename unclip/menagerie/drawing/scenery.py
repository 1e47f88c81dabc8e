"""Shapes that several settings share: ground, clouds and dots."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import skia

from unclip.menagerie.drawing.pen import Colour, Pen, Point, oval, smooth

Setting = Callable[[Pen, random.Random, Colour | None], None]

WHITE: Colour = (255, 255, 255)
BARK: Colour = (98, 66, 46)


def ground(*ridge: Point) -> skia.Path:
    """The area below a smooth ridge that runs from the left edge to the right."""
    path = smooth(*ridge, closed=False)
    path.lineTo(1060, 1060)
    path.lineTo(-60, 1060)
    path.close()
    return path


def rolling_ground(rng: random.Random, y: float, swell: float, bumps: int = 4) -> skia.Path:
    """Ground whose ridge rolls up and down by `swell` about the height y."""
    up = rng.choice((-1, 1))
    ridge = [
        (-60 + 1120 * k / bumps, y + up * (-1) ** k * swell * rng.uniform(0.5, 1)) for k in range(bumps + 1)
    ]
    return ground(*ridge)


def together(paths: Iterable[skia.Path]) -> skia.Path:
    """Several paths as one, which is faster to draw."""
    whole = skia.Path()
    for path in paths:
        whole.addPath(path)
    return whole


def scattered_dots(rng: random.Random, count: int, across: Point, down: Point, radius: Point) -> skia.Path:
    """Dots scattered over a rectangle. Each argument after `count` is a range (low, high)."""
    return together(
        oval(rng.uniform(*across), rng.uniform(*down), rng.uniform(*radius)) for _ in range(count)
    )


def cloud(x: float, y: float, size: float) -> skia.Path:
    """A cloud of four ovals about a centre."""
    return together(
        oval(x + dx * size, y + dy * size, rx * size, ry * size)
        for dx, dy, rx, ry in ((-62, 8, 48, 32), (-14, -20, 54, 50), (48, -4, 50, 40), (0, 18, 104, 24))
    )


def clouds(pen: Pen, rng: random.Random, colour: Colour) -> None:
    """One cloud at each side, and a smaller one further up."""
    for x, y, size in ((150, 190, 1.15), (850, 270, 1.3), (640, 80, 0.7)):
        shape = cloud(x + rng.uniform(-60, 60), y + rng.uniform(-60, 60), size * rng.uniform(0.85, 1.2))
        pen.fill(shape, colour, outline=False)
