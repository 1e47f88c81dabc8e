"""Shared by headwear and garments: tones of one colour, pieces of cloth, folds and ornaments.

A piece is its colour nearly all over. Tones of the same colour shape it (folds, bands, shadows), so that
black cloth gets lighter lines and white cloth darker ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import skia

from unclip.menagerie.drawing.pen import Colour, Pen, Point, darker, lighter, luminance, smooth

GOLD: Colour = (242, 190, 62)
WHITE: Colour = (252, 250, 244)
WHITISH = 0.92  # luminance from which cloth counts as white


def _nothing(pen: Pen, colour: Colour) -> None:
    return None


@dataclass(frozen=True)
class Clothing:
    """How to draw a garment or headwear in any colour.

    Attributes:
        front: drawn over the body (under the arms) or over the head.
        behind: drawn before the body or the head: a cape, the far side of a crown.
        sleeves: whether arms have the garment's colour.
    """

    front: Callable[[Pen, Colour], None]
    behind: Callable[[Pen, Colour], None] = _nothing
    sleeves: bool = False


def shade(colour: Colour, share: float = 0.3) -> Colour:
    """A tone that contrasts with the colour: darker, but lighter on black, and weaker on white."""
    if luminance(colour) < 0.24:
        return lighter(colour, share)
    return darker(colour, share * 0.75 if luminance(colour) > WHITISH else share)


def trim(colour: Colour) -> Colour:
    """The colour of small ornaments: gold, or white where gold would not show."""
    return WHITE if colour[0] > 200 and 110 < colour[1] < 230 and colour[2] < 80 else GOLD


def tuft_tone(colour: Colour) -> Colour:
    """The tone of pom-poms: paler than the colour, or grey on white."""
    return lighter(colour, 0.45) if luminance(colour) < WHITISH else shade(colour, 0.2)


def piece(pen: Pen, path: skia.Path, colour: Colour, shadow: Point = (-24, -14)) -> None:
    """A piece of cloth with a thin rim, which keeps white visible on white, and a shadow along one side.

    The shadow is the part that a copy of the shape shifted by `shadow` leaves uncovered.
    """
    pen.line(path, shade(colour, 0.45), 12)
    pen.fill(path, colour)
    lit = skia.Path(path)
    lit.offset(*shadow)
    pen.fill(skia.Op(path, lit, skia.kDifference_PathOp), shade(colour, 0.2), outline=False)


def folds(pen: Pen, lines: Iterable[skia.Path], colour: Colour, width: float = 9) -> None:
    """Seams, ribs and creases on cloth of the colour."""
    for line in lines:
        pen.line(line, shade(colour, 0.36), width)


def curve(*points: Point) -> skia.Path:
    """An open smooth curve."""
    return smooth(*points, closed=False)


def pompom(pen: Pen, x: float, y: float, radius: float, colour: Colour, tufts: int = 11) -> None:
    """A fluffy ball."""
    edge = []
    for i in range(2 * tufts):
        r, turn = radius * (0.86 if i % 2 else 1.06), math.pi * i / tufts
        edge.append((x + r * math.cos(turn), y + r * math.sin(turn)))
    piece(pen, smooth(*edge), colour, shadow=(-radius * 0.3, -radius * 0.3))
