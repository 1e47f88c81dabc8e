"""The parts that creatures share: eyes, noses, ears, cheeks, feet, in the (dx, y) coordinates of `curves`."""

from __future__ import annotations

import math
from functools import cache

import skia

from unclip.menagerie.drawing.curves import reflected, shape, shrunk, stroke, whole
from unclip.menagerie.drawing.figure import FEET, torso
from unclip.menagerie.drawing.pen import INK, Colour, Pen, Point, darker, lighter, oval, points

CREAM: Colour = (255, 243, 222)
WHITE: Colour = (252, 250, 246)
COAL: Colour = (52, 48, 58)
PINK: Colour = (246, 172, 176)
ROSE: Colour = (240, 112, 120)
SHINE: Colour = (255, 255, 255)
TONGUE: Colour = (238, 112, 128)

# The common head, about the skeleton's oval, a little fuller in the cheeks.
HEAD: tuple[Point, ...] = points("0,212 112,234 184,300 210,390 196,474 126,548 0,577")


@cache
def body_shape() -> skia.Path:
    """The common torso, built once."""
    return torso()


def both(pen: Pen, colour: Colour, *points: Point, outline: bool = True, tension: float = 1.1) -> None:
    """A curve on the right and its mirror image on the left."""
    pen.fill(shape(*points, tension=tension), colour, outline=outline)
    pen.fill(reflected(*points, tension=tension), colour, outline=outline)


def ovals(
    pen: Pen,
    colour: Colour,
    dx: float,
    y: float,
    rx: float,
    ry: float | None = None,
    *,
    outline: bool = False,
) -> None:
    """An ellipse on either side."""
    for x in (500 - dx, 500 + dx):
        pen.fill(oval(x, y, rx, ry), colour, outline=outline)


def lines(pen: Pen, colour: Colour, width: float, *points: Point) -> None:
    """An open curve on either side."""
    pen.line(stroke(*points), colour, width)
    pen.line(stroke(*((-dx, y) for dx, y in points)), colour, width)


def round_ears(
    pen: Pen, coat: Colour, lining: Colour, dx: float = 172, y: float = 262, radius: float = 72
) -> None:
    """A bear's ears, far enough out to be visible beside a hat."""
    ovals(pen, coat, dx, y, radius, outline=True)
    ovals(pen, lining, dx + 4, y + 4, radius * 0.58)


def pointed_ears(
    pen: Pen,
    coat: Colour,
    lining: Colour,
    inner: Point,
    tip: Point,
    outer: Point,
    *,
    blunt: float = 0.07,
    tip_colour: Colour | None = None,
) -> None:
    """A cat's or dog's ears between two roots, with bulged edges. `blunt` rounds the tip."""
    base = ((inner[0] + outer[0]) / 2, (inner[1] + outer[1]) / 2)
    _ear_pair(pen, coat, inner, tip, outer, blunt)
    if tip_colour:
        near, far = shrunk((inner, outer), 0.55, tip)
        _ear_pair(pen, tip_colour, near, tip, far, blunt * 1.8, outline=False)
    near, top, far = shrunk((inner, tip, outer), 0.6, base)
    _ear_pair(pen, lining, near, top, far, blunt, outline=False)


def _ear_pair(
    pen: Pen, colour: Colour, inner: Point, tip: Point, outer: Point, blunt: float, *, outline: bool = True
) -> None:
    for side in (-1, 1):
        pen.fill(_ear(inner, tip, outer, blunt, side), colour, outline=outline)


@cache
def _ear(inner: Point, tip: Point, outer: Point, blunt: float, side: int) -> skia.Path:
    def along(a: Point, b: Point, share: float, out: float) -> Point:
        length = math.dist(a, b)
        nx, ny = (b[1] - a[1]) / length, -(b[0] - a[0]) / length
        out *= length
        return 500 + side * (a[0] + (b[0] - a[0]) * share + nx * out), a[1] + (b[1] - a[1]) * share + ny * out

    path = skia.Path()
    path.moveTo(*along(inner, tip, 0, 0))
    path.quadTo(*along(inner, tip, 0.6, 0.12), *along(inner, tip, 1 - blunt, 0.02))
    path.quadTo(*along(inner, tip, 1, 0), *along(tip, outer, blunt, 0.02))
    path.quadTo(*along(tip, outer, 0.45, 0.13), *along(tip, outer, 1, 0))
    path.close()
    return path


def eyes(pen: Pen, dx: float = 92, y: float = 402, size: float = 29, colour: Colour = INK) -> None:
    """Dark shining eyes, a little taller than wide."""
    for x in (500 - dx, 500 + dx):
        pen.fill(oval(x, y, size, size * 1.18), colour, outline=False)
        _shine(pen, x, y, size)


def big_eyes(pen: Pen, dx: float, y: float, size: float, iris: Colour, pupil: tuple[float, float]) -> None:
    """Eyes with a coloured iris; `pupil` gives its radii."""
    for x in (500 - dx, 500 + dx):
        pen.fill(oval(x, y, size, size * 1.06), INK, outline=False)
        pen.fill(oval(x, y, size * 0.84, size * 0.9), iris, outline=False)
        pen.fill(oval(x, y, *pupil), INK, outline=False)
        _shine(pen, x, y, size * 0.8)


def _shine(pen: Pen, x: float, y: float, size: float) -> None:
    pen.fill(oval(x + size * 0.3, y - size * 0.42, size * 0.36), SHINE, outline=False)
    pen.fill(oval(x - size * 0.32, y + size * 0.48, size * 0.17), SHINE, outline=False)


def blush(pen: Pen, dx: float = 146, y: float = 466, alpha: float = 0.42, colour: Colour = ROSE) -> None:
    """Rosy cheeks."""
    for x in (500 - dx, 500 + dx):
        pen.tint(oval(x, y, 36, 23), colour, alpha)


def nose(pen: Pen, y: float = 452, width: float = 32, colour: Colour = INK) -> None:
    """A soft triangle with a gleam."""
    h = width * 0.72
    pen.fill(
        whole((0, y - h * 0.85), (width * 0.8, y - h * 0.72), (width, y - h * 0.1), (0, y + h)),
        colour,
        outline=False,
    )
    pen.fill(
        oval(500 - width * 0.25, y - h * 0.42, width * 0.3, h * 0.2), lighter(colour, 0.55), outline=False
    )


def mouth(pen: Pen, y: float = 492, width: float = 38, colour: Colour = INK, philtrum: float = 20) -> None:
    """The w under an animal's nose: two arcs and a short line up to the nose."""
    lines(pen, colour, 9, (0, y), (width * 0.5, y + width * 0.42), (width, y - width * 0.08))
    if philtrum:
        pen.line(stroke((0, y - philtrum), (0, y)), colour, 9)


def open_mouth(pen: Pen, y: float = 494, width: float = 26, height: float = 34) -> None:
    """A happy open mouth with a tongue; draw the w over its upper edge."""
    pen.fill(
        whole((0, y), (width, y + 2), (width * 0.8, y + height * 0.7), (0, y + height)),
        (120, 40, 52),
        outline=False,
    )
    pen.fill(oval(500, y + height * 0.66, width * 0.58, height * 0.32), TONGUE, outline=False)


def whiskers(pen: Pen, colour: Colour, dx: float = 150, y: float = 470, length: float = 108) -> None:
    """Two whiskers on either side. A third would merge with them at 64 px."""
    for spread in (-0.8, 0.8):
        lines(
            pen,
            colour,
            6,
            (dx, y + spread * 20),
            (dx + length / 2, y + spread * 30 - 5),
            (dx + length, y + spread * 42),
        )


def feet(pen: Pen, colour: Colour, pads: Colour | None = None, *, toes: bool = True) -> None:
    """Two feet from the front, with pads or with toes."""
    for x, y in FEET:
        pen.fill(oval(x, y, 62, 38), colour)
        if pads:
            pen.fill(oval(x, y + 12, 30, 17), pads, outline=False)
        elif toes:
            for dx in (-18, 18):
                pen.line(stroke((x + dx - 500, y + 16), (x + dx - 500, y + 30)), darker(colour, 0.35), 7)


def trunk(pen: Pen, coat: Colour, belly: Colour | None = None) -> None:
    """Torso and belly."""
    pen.fill(body_shape(), coat)
    if belly:
        pen.fill(whole(*points("0,640 70,672 96,760 62,830 0,846")), belly, outline=False)


def bib(pen: Pen, colour: Colour) -> None:
    """A light chest, tapering to the belly, with a ruff at the neck."""
    with pen.within(body_shape()):
        pen.fill(whole(*points("0,540 104,590 88,690 58,790 0,830")), colour, outline=False)
