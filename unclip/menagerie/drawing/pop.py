"""Pop art: a comic with Ben-Day dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import skia

from unclip.menagerie.drawing.pen import UNITS, Colour, darker, lighter, luminance, oval
from unclip.menagerie.drawing.textured import BLACK, TexturePen, vivid
from unclip.menagerie.drawing.textures import dots, halftone


class PopPen(TexturePen):
    """A comic: black contours, loud colours, Ben-Day dots on the side away from the light."""

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
        """Fill a crescent with dots at the lower right, with a hard edge."""
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
        """Draw rays from behind the figure in nearly the background's colour, so that it keeps its name."""
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
        """Draw the panel's border."""
        self.stroke(skia.Path().addRect(skia.Rect.MakeLTRB(5, 5, UNITS - 5, UNITS - 5)), BLACK, 14)
