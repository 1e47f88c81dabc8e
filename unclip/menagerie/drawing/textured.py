"""What the styles on paper share: page-wide textures and an unsteady hand.

Upsamplers learn from pairs of the same picture at 64, 256 and 1024 px. Textures are therefore measured in
canvas units and fixed to the page (they do not turn with a tilted head). Each is sampled from a mip level, so
that it fades to its mean when it is too small to see. All randomness comes from the pen's generator, which is
asked for the same numbers at every size.
"""

from __future__ import annotations

import math
from typing import Any, Final

import skia

from unclip.menagerie.drawing.pen import UNITS, Colour, Pen, Point, luminance
from unclip.menagerie.drawing.textures import TILE, Tile

BLACK: Final[Colour] = (22, 18, 24)
PAGE: Final = skia.Path().addRect(skia.Rect.MakeLTRB(-20, -20, UNITS + 20, UNITS + 20))


def vivid(colour: Colour, amount: float) -> Colour:
    """The colour with its distance from grey of equal luminance enlarged by `amount`."""
    grey = luminance(colour) * 255
    r, g, b = (min(255, max(0, round(grey + (c - grey) * (1 + amount)))) for c in colour)
    return r, g, b


def vertical_gradient(bounds: skia.Rect, top: Colour, bottom: Colour) -> skia.Shader:
    """A gradient from the top to the bottom of a shape's bounds."""
    ends = [skia.Point(0, bounds.top()), skia.Point(0, bounds.bottom() + 1)]
    return skia.GradientShader.MakeLinear(points=ends, colors=[skia.Color(*top), skia.Color(*bottom)])


def _paint(colour: Colour, alpha: float, shader: Any) -> skia.Paint:
    """A paint with an optional shader, set at once because `Paint.setShader` copies the whole image."""
    ink = skia.ColorSetARGB(round(255 * alpha), *colour)
    if shader is None:
        return skia.Paint(AntiAlias=True, Color=ink)
    return skia.Paint(AntiAlias=True, Color=ink, Shader=shader)


class TexturePen(Pen):
    """The base of the pens on paper."""

    behind = True  # whether the setting is being drawn

    def foreground(self) -> None:
        self.behind = False

    def texture(self, tile: Tile, angle: float = 0, shift: Point = (0, 0)) -> skia.Shader:
        """The tile as a shader in page units, independent of the canvas transform."""
        level = min(max(round(-math.log2(self.scale)), 0), len(tile) - 1)
        local = skia.Matrix()
        self.canvas.getTotalMatrix().invert(local)
        local.preScale(self.scale, self.scale).preTranslate(*shift).preRotate(angle).preScale(
            2**level, 2**level
        )
        repeat = skia.TileMode.kRepeat
        return tile[level].makeShader(repeat, repeat, skia.SamplingOptions(skia.FilterMode.kLinear), local)

    def wobbled(self, path: skia.Path, amount: float, step: float, *, line: bool = False) -> skia.Path:
        """The path as drawn by an unsteady hand. Small parts keep their form."""
        seed = self.rng.getrandbits(30)  # drawn before the early return, so that every call takes one number
        bounds = path.getBounds()
        extent = max(bounds.width(), bounds.height())
        if extent < 30:
            return path
        amount, step = min(amount, extent * 0.012), min(step, extent * 0.3)
        # Fill style closes contours; a line must stay open.
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
        """Stroke with round ends, optionally with a texture."""
        paint = _paint(colour, alpha, shader)
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(width)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        self.canvas.drawPath(path, paint)

    def cover(self, path: skia.Path, colour: Colour, alpha: float = 1, shader: Any = None) -> None:
        """Fill, optionally with a texture."""
        self.canvas.drawPath(path, _paint(colour, alpha, shader))

    def cover_through(
        self, path: skia.Path, colour: Colour, alpha: float, shader: Any, gradient: Any, mode: skia.BlendMode
    ) -> None:
        """Fill with a texture that a gradient fades (mode kDstIn) or colours (kSrcIn)."""
        bounds = path.getBounds()
        self.canvas.saveLayer(bounds, skia.Paint(Alphaf=alpha))
        self.canvas.drawPath(path, _paint(colour, 1, shader))
        self.canvas.drawRect(bounds, skia.Paint(Shader=gradient, BlendMode=mode))
        self.canvas.restore()

    def random_shift(self) -> Point:
        return self.rng.uniform(0, TILE), self.rng.uniform(0, TILE)
