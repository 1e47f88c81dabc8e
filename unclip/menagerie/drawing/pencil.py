"""The pencil drawing: coloured pencils on cream paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import skia

from unclip.menagerie.drawing.pen import UNITS, Colour, Point, darker, luminance, mix
from unclip.menagerie.drawing.textured import BLACK, PAGE, TexturePen, vivid
from unclip.menagerie.drawing.textures import graphite, hatching, tooth


class PencilPen(TexturePen):
    """Coloured pencils on cream paper: a light tint, hatching and a sketchy graphite outline."""

    CREAM: Final[Colour] = (247, 240, 224)
    GRAPHITE: Final[Colour] = (62, 56, 60)

    def _tint(self, colour: Colour) -> Colour:
        """The colour under the hatching: pale, but less so for dark colours, which must stay dark."""
        bright = luminance(colour)
        share = 0.52 + 0.56 * (1 - bright) ** 2
        return mix(self.CREAM, colour, share) if bright < 0.93 else colour

    def _crayon(self, colour: Colour) -> Colour:
        """The pencil's colour: the shape's, pressed firmly, or a cool grey for near-white."""
        if luminance(colour) > 0.93:
            return (206, 207, 214)
        return darker(vivid(colour, 0.15), 0.07)

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        angle = self.rng.choice((32.0, 40.0, 48.0)) + self.rng.uniform(-3, 3)
        shift = self.random_shift()
        shape = self.wobbled(path, 2.2, 34)
        bounds = shape.getBounds()
        if max(bounds.width(), bounds.height()) < 26:  # too small for hatching
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
        """Hatch a second layer across the first, on the side away from the light."""
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
