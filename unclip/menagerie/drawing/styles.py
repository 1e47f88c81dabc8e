"""Five styles: each a pen, and for pixel art the grid it draws on.

A picture must be the same picture at 64, 256 and 1024 pixels, since upsamplers learn from such pairs. So
every texture is measured in canvas units and laid on the *page* (it does not turn with a tilted head),
sampled at its own level of detail so that it fades to its own average when it gets too small to see; and all
chance comes from the pen's generator, which is asked the same questions at every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import skia

from unclip.menagerie.drawing.pen import UNITS, Colour, Pen, Point, darker, lighter, mix, oval
from unclip.menagerie.drawing.pixel import FINE, GRID, PixelPen, pixelate
from unclip.menagerie.drawing.textures import (
    TILE,
    Tile,
    cold_press,
    dots,
    graphite,
    halftone,
    hatching,
    tooth,
    wash,
)

Pixels = npt.NDArray[np.uint8]

WHITE: Final[Colour] = (255, 255, 255)
BLACK: Final[Colour] = (22, 18, 24)


# --- colour
# ------------------------------------------------------------------------------------------------------


def luminance(colour: Colour) -> float:
    """How light a colour looks, from 0 to 1."""
    r, g, b = colour
    return (0.299 * r + 0.587 * g + 0.114 * b) / 255


def vivid(colour: Colour, amount: float) -> Colour:
    """The colour pushed away from the grey of its own luminance."""
    grey = luminance(colour) * 255
    r, g, b = (min(255, max(0, round(grey + (c - grey) * (1 + amount)))) for c in colour)
    return r, g, b


# --- the flat pen, and what the others share
# -----------------------------------------------------------------------


class FlatPen(Pen):
    """Clean shapes without outlines, each a touch lighter at its top than at its foot."""

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        if not outline:
            super().fill(path, colour, outline=False)
            return
        shader = _vertical(path.getBounds(), lighter(colour, 0.10), darker(colour, 0.09))
        self.canvas.drawPath(path, skia.Paint(AntiAlias=True, Shader=shader))


def _vertical(bounds: skia.Rect, top: Colour, bottom: Colour) -> skia.Shader:
    """A gradient down a shape's height."""
    ends = [skia.Point(0, bounds.top()), skia.Point(0, bounds.bottom() + 1)]
    return skia.GradientShader.MakeLinear(points=ends, colors=[skia.Color(*top), skia.Color(*bottom)])


def _paint(colour: Colour, alpha: float, shader: Any) -> skia.Paint:
    """A paint with perhaps a shader, which must be given at once: `Paint.setShader` copies the whole image,
    slowly.
    """
    ink = skia.ColorSetARGB(round(255 * alpha), *colour)
    if shader is None:
        return skia.Paint(AntiAlias=True, Color=ink)
    return skia.Paint(AntiAlias=True, Color=ink, Shader=shader)


class TexturePen(Pen):
    """What the pens on paper share: page-wide textures and an unsteady hand."""

    behind = True  # until `foreground`

    def foreground(self) -> None:
        self.behind = False

    def texture(self, tile: Tile, angle: float = 0, shift: Point = (0, 0)) -> skia.Shader:
        """The tile as a shader in page units, however the canvas is turned just now."""
        level = min(max(round(-math.log2(self.scale)), 0), len(tile) - 1)
        local = skia.Matrix()
        self.canvas.getTotalMatrix().invert(local)
        local.preScale(self.scale, self.scale).preTranslate(*shift).preRotate(angle).preScale(
            2**level, 2**level
        )
        repeat = skia.TileMode.kRepeat
        return tile[level].makeShader(repeat, repeat, skia.SamplingOptions(skia.FilterMode.kLinear), local)

    def wobbled(self, path: skia.Path, amount: float, step: float, *, line: bool = False) -> skia.Path:
        """The path as an unsteady hand follows it; small parts keep their form."""
        seed = self.rng.getrandbits(30)  # asked even where it is not needed: one draw for each call
        bounds = path.getBounds()
        extent = max(bounds.width(), bounds.height())
        if extent < 30:
            return path
        amount, step = min(amount, extent * 0.012), min(step, extent * 0.3)
        # A fill's contours are closed on the way, which a line's must not be.
        paint = skia.Paint(Style=skia.Paint.kStroke_Style if line else skia.Paint.kFill_Style, StrokeWidth=0)
        paint.setPathEffect(
            skia.PathEffect.MakeCompose(
                skia.CornerPathEffect.Make(step * 0.8), skia.DiscretePathEffect.Make(step, amount, seed)
            )
        )
        result = skia.Path()
        paint.getFillPath(path, result)
        return result

    def stroke(
        self, path: skia.Path, colour: Colour, width: float, alpha: float = 1, shader: Any = None
    ) -> None:
        """A plain stroke with round ends, of a texture if there is one."""
        paint = _paint(colour, alpha, shader)
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(width)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        self.canvas.drawPath(path, paint)

    def cover(self, path: skia.Path, colour: Colour, alpha: float = 1, shader: Any = None) -> None:
        """A plain fill, of a texture if there is one."""
        self.canvas.drawPath(path, _paint(colour, alpha, shader))

    def cover_through(
        self, path: skia.Path, colour: Colour, alpha: float, shader: Any, gradient: Any, mode: skia.BlendMode
    ) -> None:
        """A fill of a texture that a gradient fades (mode kDstIn) or colours (kSrcIn)."""
        bounds = path.getBounds()
        self.canvas.saveLayer(bounds, skia.Paint(Alphaf=alpha))
        self.canvas.drawPath(path, _paint(colour, 1, shader))
        self.canvas.drawRect(bounds, skia.Paint(Shader=gradient, BlendMode=mode))
        self.canvas.restore()

    def random_shift(self) -> Point:
        return self.rng.uniform(0, TILE), self.rng.uniform(0, TILE)


PAGE: Final = skia.Path().addRect(skia.Rect.MakeLTRB(-20, -20, UNITS + 20, UNITS + 20))


# --- pencil
# ------------------------------------------------------------------------------------------------------


class PencilPen(TexturePen):
    """Coloured pencils on cream paper: a light tint, hatching over it, and a sketchy graphite outline gone
    over twice.
    """

    CREAM: Final[Colour] = (247, 240, 224)
    GRAPHITE: Final[Colour] = (62, 56, 60)

    def _tint(self, colour: Colour) -> Colour:
        """What lies under the hatching: pale, but less so for dark colours, which must stay dark."""
        bright = luminance(colour)
        share = 0.52 + 0.56 * (1 - bright) ** 2
        return mix(self.CREAM, colour, share) if bright < 0.93 else colour

    def _crayon(self, colour: Colour) -> Colour:
        """The pencil's own colour: that of the shape, pressed firmly; near-white is shaded with a cool
        grey.
        """
        if luminance(colour) > 0.93:
            return (206, 207, 214)
        return darker(vivid(colour, 0.15), 0.07)

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        angle = self.rng.choice((32.0, 40.0, 48.0)) + self.rng.uniform(-3, 3)
        shift = self.random_shift()
        shape = self.wobbled(path, 2.2, 34)
        bounds = shape.getBounds()
        if max(bounds.width(), bounds.height()) < 26:  # a dot of the pencil: no room for hatching
            self.cover(shape, mix(self._tint(colour), self._crayon(colour), 0.6))
            return
        pressure = (0.5 if luminance(colour) > 0.93 else 0.85) * (0.8 if self.behind else 1)
        self.cover(shape, self._tint(colour))
        self.cover(shape, self._crayon(colour), pressure, self.texture(hatching(), angle, shift))
        if not outline:
            self.stroke(shape, self._crayon(darker(colour, 0.1)), 3, 0.5)
            return
        if not self.behind:
            self._shade(shape, colour, angle, shift)
        strength = 0.45 if self.behind else 0.95
        if self.behind:
            self.stroke(shape, self.GRAPHITE, 4.0, strength)
            return
        self.stroke(shape, self.GRAPHITE, 7.0, strength, self.texture(graphite()))
        self.stroke(self.wobbled(path, 5, 70), self.GRAPHITE, 3.0, strength * 0.6)

    def _shade(self, shape: skia.Path, colour: Colour, angle: float, shift: Point) -> None:
        """A second layer of strokes across the first, on the side away from the light."""
        bounds = shape.getBounds()
        radius = max(bounds.width(), bounds.height())
        if radius < 60:
            return
        centre = skia.Point(bounds.left() + bounds.width() * 0.32, bounds.top() + bounds.height() * 0.25)
        mask = skia.GradientShader.MakeRadial(
            center=centre,
            radius=radius,
            colors=[skia.ColorSetARGB(0, 0, 0, 0), skia.ColorBLACK],
            positions=[0.35, 1.0],
        )
        strokes = self.texture(hatching(), angle + 62, shift)
        dark = (150, 150, 168) if luminance(colour) > 0.93 else darker(colour, 0.5)
        self.cover_through(shape, dark, 0.75, strokes, mask, skia.BlendMode.kDstIn)

    def line(self, path: skia.Path, colour: Colour, width: float) -> None:
        shape = self.wobbled(path, 1.6, 30, line=True)
        self.stroke(shape, mix(self.CREAM, colour, 0.55), width, 0.7)
        self.stroke(shape, colour, width, 1, self.texture(graphite()))

    def backdrop(self, colours: Sequence[Colour]) -> None:
        self.canvas.drawPaint(skia.Paint(Color=skia.Color(*self.CREAM)))
        angle, shift = 42 + self.rng.uniform(-6, 6), self.random_shift()
        super().backdrop([self._tint(c) for c in colours])
        whites = all(luminance(c) > 0.93 for c in colours)
        if len(colours) == 1:
            self.cover(
                PAGE,
                self._crayon(colours[0]),
                0.35 if whites else 0.8,
                self.texture(hatching(), angle, shift),
            )
            return
        pencils = [skia.Color(*self._crayon(c)) for c in colours]
        gradient = skia.GradientShader.MakeLinear(
            points=[skia.Point(0, 0), skia.Point(0, UNITS)], colors=pencils
        )
        strokes = self.texture(hatching(), angle, shift)
        self.cover_through(PAGE, BLACK, 0.35 if whites else 0.8, strokes, gradient, skia.BlendMode.kSrcIn)

    def finish(self) -> None:
        self.cover(PAGE, self.CREAM, 1, self.texture(tooth()))


# --- watercolour
# -------------------------------------------------------------------------------------------------


class WatercolourPen(TexturePen):
    """Washes on rough white paper: pigment pools and dries to a darker rim, and neighbours do not quite
    touch.
    """

    PAPER: Final[Colour] = (253, 251, 245)

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        shape = self.wobbled(path, 4.5, 40)
        shift = self.random_shift()
        if outline:
            self.stroke(shape, self.PAPER, 9 if self.behind else 11, 0.35 if self.behind else 0.85)
        self._wash(shape, colour, shift)
        bounds = shape.getBounds()
        if min(bounds.width(), bounds.height()) > 24:
            if outline and not self.behind:
                self.stroke(shape, self._pool(colour), 9, 0.55, self.texture(wash(), 0, shift))
            self.stroke(shape, self._pool(colour), 3.5, 0.42 if outline else 0.2)

    def _pool(self, colour: Colour) -> Colour:
        """Where the pigment gathers."""
        if luminance(colour) > 0.9:
            return (150, 165, 188)
        return darker(vivid(colour, 0.35), 0.30)

    def _wash(self, shape: skia.Path, colour: Colour, shift: Point) -> None:
        bright, bounds = luminance(colour), shape.getBounds()
        if max(bounds.width(), bounds.height()) < 26:  # a touch of the brush's tip
            self.cover(shape, colour, 0.92)
            return
        if bright > 0.9:  # white is the paper itself, with a breath of grey-blue in its hollows
            self.cover(shape, mix(self.PAPER, colour, 0.5))
            self.cover(shape, (168, 184, 208), 0.42, self.texture(wash(), 0, shift))
            return
        body = 0.60 + 0.30 * (1 - bright)
        top, foot = mix(self.PAPER, colour, body - 0.14), mix(self.PAPER, colour, min(1, body + 0.16))
        self.cover(shape, colour, 1, _vertical(bounds, top, foot))
        self.cover(shape, darker(vivid(colour, 0.3), 0.12), 1, self.texture(wash(), 0, shift))

    def line(self, path: skia.Path, colour: Colour, width: float) -> None:
        self.stroke(self.wobbled(path, 2.5, 30, line=True), colour, width, 0.88)

    def tint(self, path: skia.Path, colour: Colour, alpha: float) -> None:
        shape, shift = self.wobbled(path, 4.5, 40), self.random_shift()
        self.cover(shape, colour, min(1.0, alpha * 2.1), self.texture(wash(), 0, shift))

    def backdrop(self, colours: Sequence[Colour]) -> None:
        stops = [*colours, *colours] if len(colours) == 1 else list(colours)
        shift = self.random_shift()
        body = [mix(self.PAPER, c, 0.66 + 0.24 * (1 - luminance(c))) for c in stops]
        super().backdrop(body)
        pigments = [(168, 184, 208) if luminance(c) > 0.9 else darker(vivid(c, 0.3), 0.08) for c in stops]
        gradient = skia.GradientShader.MakeLinear(
            points=[skia.Point(0, 0), skia.Point(0, UNITS)], colors=[skia.Color(*c) for c in pigments]
        )
        pools = self.texture(wash(), 0, shift)
        strength = 0.4 if all(luminance(c) > 0.9 for c in stops) else 0.9
        self.cover_through(PAGE, BLACK, strength, pools, gradient, skia.BlendMode.kSrcIn)

    def foreground(self) -> None:
        """The setting ends in a ragged edge, as on a sheet taped to a board and painted almost to the
        tape.
        """
        edge = self.wobbled(
            skia.Path().addRoundRect(skia.Rect.MakeLTRB(24, 24, UNITS - 24, UNITS - 24), 14, 14), 9, 46
        )
        self.stroke(edge, (70, 74, 96), 12, 0.13)
        frame = skia.Path(edge)
        frame.addPath(PAGE)
        frame.setFillType(skia.PathFillType.kEvenOdd)
        self.cover(frame, self.PAPER)
        super().foreground()

    def finish(self) -> None:
        self.cover(PAGE, (70, 66, 84), 1, self.texture(cold_press()))


# --- pop art
# -----------------------------------------------------------------------------------------------------


class PopPen(TexturePen):
    """A comic: black contours, loud colours, Ben-Day dots where a shape turns away from the light."""

    CONTOUR: Final = 13.0

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        loud = vivid(colour, 0.25)
        self.cover(path, loud)
        self._dotted(path, loud, outline)
        if outline:
            bounds = path.getBounds()
            extent = max(bounds.width(), bounds.height())
            self.stroke(path, BLACK, min(self.CONTOUR * (0.7 if self.behind else 1), max(5.0, extent * 0.12)))

    def _dotted(self, path: skia.Path, colour: Colour, outline: bool) -> None:
        """A crescent of dots at the lower right, cut hard as comics do."""
        bounds = path.getBounds()
        radius = max(bounds.width(), bounds.height())
        if radius < 90 or not outline:
            return
        lit = oval(
            bounds.left() + bounds.width() * 0.36, bounds.top() + bounds.height() * 0.36, radius * 0.48
        )
        self.canvas.save()
        self.canvas.clipPath(lit, skia.ClipOp.kDifference, True)
        self.cover(path, self._ink(colour), 1, self.texture(dots()))
        self.canvas.restore()

    def _ink(self, colour: Colour) -> Colour:
        """The dots' colour: darker than the shape, but lighter on black."""
        bright = luminance(colour)
        if bright > 0.9:
            return (160, 190, 226)
        if bright < 0.2:
            return (86, 86, 118)
        return darker(vivid(colour, 0.3), 0.34)

    def line(self, path: skia.Path, colour: Colour, width: float) -> None:
        super().line(path, colour, width * 1.15)

    def backdrop(self, colours: Sequence[Colour]) -> None:
        loud = [vivid(c, 0.25) for c in colours]
        super().backdrop(loud)
        if len(colours) == 1:
            self._rays(loud[0])
        ink = self._ink(loud[-1]) if len(colours) == 1 else darker(loud[-1], 0.28)
        self.cover(halftone(), ink, 0.85)

    def _rays(self, colour: Colour) -> None:
        """Rays from behind the figure, of nearly the ground's colour so that it keeps its name."""
        count, turn, rays = 14, self.rng.uniform(0, 1), skia.Path()
        for i in range(count):
            rays.moveTo(500, 470)
            for side in (0.0, 0.5):
                angle = 2 * math.pi * (i + turn + side) / count
                rays.lineTo(500 + 900 * math.cos(angle), 470 + 900 * math.sin(angle))
            rays.close()
        bright = luminance(colour)
        self.cover(
            rays, darker(colour, 0.05) if bright > 0.9 else lighter(colour, 0.10 if bright < 0.2 else 0.17)
        )

    def finish(self) -> None:
        """The panel's border."""
        self.stroke(skia.Path().addRect(skia.Rect.MakeLTRB(5, 5, UNITS - 5, UNITS - 5)), BLACK, 14)


# --- the five
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How a style draws.

    Attributes:
        pen: the pen.
        grid: the fixed size in pixels a style draws at before it is enlarged; None draws at the picture's
            size.
        develop: what is done to the drawn pixels before they are enlarged.
    """

    pen: type[Pen]
    grid: int | None = None
    develop: Callable[[Pixels], Pixels] | None = None


PENS: dict[str, Style] = {
    "flat illustration": Style(FlatPen),
    "pencil drawing": Style(PencilPen),
    "pixel art": Style(PixelPen, grid=GRID * FINE, develop=pixelate),
    "pop art": Style(PopPen),
    "watercolour": Style(WatercolourPen),
}
