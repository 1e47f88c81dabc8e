"""Colours, paths and the pen that draws them: the flat style and the interface of all styles.

The canvas measures 1000 × 1000 units, y pointing down, at any size in pixels. The code that draws a thing
passes a path and a colour; the pen of the style renders them (flat, hatched, dotted, washed).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import skia

Colour = tuple[int, int, int]
Point = tuple[float, float]

UNITS = 1000.0
INK: Colour = (43, 35, 40)

PALETTE: dict[str, Colour] = {
    "red": (217, 43, 48),
    "orange": (245, 133, 31),
    "yellow": (252, 209, 42),
    "green": (58, 158, 78),
    "blue": (41, 104, 209),
    "purple": (128, 63, 168),
    "pink": (247, 140, 184),
    "brown": (128, 80, 46),
    "black": (38, 36, 42),
    "white": (248, 247, 243),
}


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def darker(colour: Colour, share: float = 0.25) -> Colour:
    """The colour mixed with deep violet: shadows are not grey."""
    return mix(colour, (20, 14, 30), share)


def lighter(colour: Colour, share: float = 0.35) -> Colour:
    """The colour mixed with white."""
    return mix(colour, (255, 255, 255), share)


def luminance(colour: Colour) -> float:
    """The perceived lightness of a colour (Rec. 601), from 0 to 1."""
    r, g, b = colour
    return (0.299 * r + 0.587 * g + 0.114 * b) / 255


@cache
def points(text: str) -> tuple[Point, ...]:
    """Points in the notation of SVG's `points` attribute: "x,y x,y …"."""
    return tuple((float(x), float(y)) for x, _, y in (pair.partition(",") for pair in text.split()))


def oval(x: float, y: float, rx: float, ry: float | None = None) -> skia.Path:
    """An ellipse by centre and radii."""
    ry = rx if ry is None else ry
    return skia.Path().addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))


def box(left: float, top: float, right: float, bottom: float, radius: float = 0) -> skia.Path:
    """A rectangle with rounded corners."""
    return skia.Path().addRoundRect(skia.Rect.MakeLTRB(left, top, right, bottom), radius, radius)


def polygon(*points: Point) -> skia.Path:
    """A closed polygon."""
    path = skia.Path()
    path.addPoly([skia.Point(x, y) for x, y in points], True)
    return path


def star(x: float, y: float, outer: float, inner: float, spikes: int = 5, angle: float = 0) -> skia.Path:
    """A star with one spike straight up, turned clockwise by `angle` degrees."""
    corners = []
    for i in range(2 * spikes):
        radius, turn = inner if i % 2 else outer, math.radians(angle + 180 * i / spikes - 90)
        corners.append((x + radius * math.cos(turn), y + radius * math.sin(turn)))
    return polygon(*corners)


def smooth(*points: Point, closed: bool = True, tension: float = 0.5) -> skia.Path:
    """A curve through all points: a cardinal spline as Bézier segments."""
    n = len(points)

    def at(i: int) -> Point:
        return points[i % n] if closed else points[min(max(i, 0), n - 1)]

    path = skia.Path()
    path.moveTo(*points[0])
    for i in range(n if closed else n - 1):
        p0, p1, p2, p3 = at(i - 1), at(i), at(i + 1), at(i + 2)
        k = tension / 3 * 2
        path.cubicTo(
            p1[0] + (p2[0] - p0[0]) * k / 2,
            p1[1] + (p2[1] - p0[1]) * k / 2,
            p2[0] - (p3[0] - p1[0]) * k / 2,
            p2[1] - (p3[1] - p1[1]) * k / 2,
            *p2,
        )
    if closed:
        path.close()
    return path


def mirror(path: skia.Path, axis: float = 500.0) -> skia.Path:
    """The path reflected about the vertical line x = axis."""
    copy = skia.Path(path)
    copy.transform(skia.Matrix().setScale(-1, 1).postTranslate(2 * axis, 0))
    return copy


class Pen:
    """The flat style, and the interface of all others.

    Args:
        canvas: scaled so that the picture is 1000 × 1000 units.
        rng: for textures. It is seeded by the scene, so that a scene is drawn the same every time.
        scale: pixels per unit.
    """

    def __init__(self, canvas: skia.Canvas, rng: random.Random, scale: float) -> None:
        self.canvas, self.rng, self.scale = canvas, rng, scale

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        """Fill a shape. `outline` is False for parts inside another shape (a belly, a highlight)."""
        self.canvas.drawPath(path, skia.Paint(AntiAlias=True, Color=skia.Color(*colour)))

    def line(self, path: skia.Path, colour: Colour, width: float) -> None:
        """Stroke a path with round ends."""
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*colour), Style=skia.Paint.kStroke_Style)
        paint.setStrokeWidth(width)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        self.canvas.drawPath(path, paint)

    def limb(self, path: skia.Path, colour: Colour, width: float) -> None:
        """A thick stroke that counts as a shape (an arm, a tail), outlined if the style outlines shapes."""
        paint = skia.Paint(Style=skia.Paint.kStroke_Style, StrokeWidth=width, StrokeCap=skia.Paint.kRound_Cap)
        outline = skia.Path()
        paint.getFillPath(path, outline)
        self.fill(outline, colour)

    def tint(self, path: skia.Path, colour: Colour, alpha: float) -> None:
        """A translucent layer (shadow, glow) in every style, never outlined."""
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*colour))
        paint.setAlphaf(alpha)
        self.canvas.drawPath(path, paint)

    def backdrop(self, colours: Sequence[Colour]) -> None:
        """The whole canvas as a vertical gradient through the colours (one colour: plain)."""
        colours = [*colours, colours[0]] if len(colours) == 1 else list(colours)
        shader = skia.GradientShader.MakeLinear(
            points=[skia.Point(0, 0), skia.Point(0, UNITS)], colors=[skia.Color(*c) for c in colours]
        )
        self.canvas.drawPaint(skia.Paint(Shader=shader))

    def foreground(self) -> None:
        """Called once between the setting and the figure: some styles draw the setting more lightly."""

    def finish(self) -> None:
        """Called once at the end: paper grain and borders."""

    @contextmanager
    def moved(
        self,
        x: float = 0,
        y: float = 0,
        *,
        scale: float = 1,
        angle: float = 0,
        about: Point = (500, 500),
        flip: bool = False,
    ) -> Iterator[None]:
        """Scale, rotate by `angle` degrees and flip about a point, then shift what is drawn inside."""
        self.canvas.save()
        self.canvas.translate(x + about[0], y + about[1])
        self.canvas.rotate(angle)
        self.canvas.scale(-scale if flip else scale, scale)
        self.canvas.translate(-about[0], -about[1])
        try:
            yield
        finally:
            self.canvas.restore()

    @contextmanager
    def within(self, path: skia.Path) -> Iterator[None]:
        """Clip what is drawn inside to the path (stripes on a shirt, a patch on a face)."""
        self.canvas.save()
        self.canvas.clipPath(path, doAntiAlias=True)
        try:
            yield
        finally:
            self.canvas.restore()
