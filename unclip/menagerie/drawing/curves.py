"""Smooth curves about the figure's axis.

Points are (dx, y): dx counts from the axis x = 500 to the right, since almost everything is symmetric. Paths
are cached, because building splines takes longer than drawing them. Do not change a returned path in place.
"""

from __future__ import annotations

import math
from functools import cache

import skia

from unclip.menagerie.drawing.pen import Point, mirror, smooth


@cache
def shape(*points: Point, tension: float = 1.1) -> skia.Path:
    """A closed curve through (dx, y) points. A repeated point makes a corner.

    Tangents are weighted by chord length (uniform in `pen.smooth`), which avoids bumps at unevenly spaced
    points.
    """
    n = len(points)
    tangents = [_tangent(points[i - 1], points[i], points[(i + 1) % n]) for i in range(n)]
    path = skia.Path()
    path.moveTo(500 + points[0][0], points[0][1])
    for i in range(n):
        (ax, ay), (bx, by) = points[i], points[(i + 1) % n]
        (ux, uy), (vx, vy) = tangents[i], tangents[(i + 1) % n]
        reach = math.hypot(bx - ax, by - ay) * tension / 3
        path.cubicTo(
            500 + ax + ux * reach, ay + uy * reach, 500 + bx - vx * reach, by - vy * reach, 500 + bx, by
        )
    path.close()
    return path


def _tangent(before: Point, here: Point, after: Point) -> Point:
    back, ahead = math.dist(before, here), math.dist(here, after)
    if not back or not ahead:
        return 0.0, 0.0
    x = (here[0] - before[0]) / back * ahead + (after[0] - here[0]) / ahead * back
    y = (here[1] - before[1]) / back * ahead + (after[1] - here[1]) / ahead * back
    return x / (back + ahead), y / (back + ahead)


@cache
def reflected(*points: Point, tension: float = 1.1) -> skia.Path:
    """The mirror image of `shape`."""
    return mirror(shape(*points, tension=tension))


@cache
def whole(*points: Point, tension: float = 1.1) -> skia.Path:
    """A symmetric closed curve, given by its right half from top to bottom.

    Points on the axis are not doubled.
    """
    left = [(-dx, y) for dx, y in reversed(points) if dx > 0]
    return shape(*points, *left, tension=tension)


@cache
def stroke(*points: Point) -> skia.Path:
    """An open curve through (dx, y) points: tails, smiles, seams."""
    return smooth(*((500 + dx, y) for dx, y in points), closed=False, tension=0.55)


@cache
def fluff(
    dx: float, y: float, rx: float, ry: float, lobes: int, puff: float = 0.2, turn: float = 0.0
) -> skia.Path:
    """A scalloped cloud about a centre, for fluffy ears, manes and cotton tails.

    `puff` is how far the lobes stand out.
    """

    def at(step: float, reach: float) -> Point:
        angle = 2 * math.pi * step / lobes + turn
        return 500 + dx + rx * reach * math.sin(angle), y - ry * reach * math.cos(angle)

    path = skia.Path()
    path.moveTo(*at(0, 1))
    for i in range(lobes):
        path.cubicTo(*at(i + 0.12, 1 + puff), *at(i + 0.88, 1 + puff), *at(i + 1, 1))
    path.close()
    return path


def shrunk(points: tuple[Point, ...], share: float, towards: Point) -> tuple[Point, ...]:
    """The points scaled by `share` towards a point: the lining of an ear, the iris of an eye."""
    return tuple(
        (towards[0] + (x - towards[0]) * share, towards[1] + (y - towards[1]) * share) for x, y in points
    )
