"""The watercolour: washes on rough white paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import skia

from unclip.menagerie.drawing.pen import UNITS, Colour, Point, darker, luminance, mix
from unclip.menagerie.drawing.textured import BLACK, PAGE, TexturePen, vertical_gradient, vivid
from unclip.menagerie.drawing.textures import cold_press, wash


class WatercolourPen(TexturePen):
    """Washes on rough paper: pigment dries to a darker rim, and neighbours leave a gap between them."""

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
        """The colour where pigment gathers."""
        if luminance(colour) > 0.9:
            return (150, 165, 188)
        return darker(vivid(colour, 0.35), 0.30)

    def _wash(self, shape: skia.Path, colour: Colour, shift: Point) -> None:
        bright, bounds = luminance(colour), shape.getBounds()
        if max(bounds.width(), bounds.height()) < 26:  # too small for a wash
            self.cover(shape, colour, 0.92)
            return
        if bright > 0.9:  # white is the bare paper, with grey-blue in its hollows
            self.cover(shape, mix(self.PAPER, colour, 0.5))
            self.cover(shape, (168, 184, 208), 0.42, self.texture(wash(), 0, shift))
            return
        body = 0.60 + 0.30 * (1 - bright)
        top, foot = mix(self.PAPER, colour, body - 0.14), mix(self.PAPER, colour, min(1, body + 0.16))
        self.cover(shape, colour, 1, vertical_gradient(bounds, top, foot))
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
        """Mask the setting to a ragged edge, as on paper taped to a board."""
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
