"""Five styles: each a pen and, for pixel art, the grid that it draws on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import skia

from unclip.menagerie.drawing.pen import Colour, Pen, darker, lighter
from unclip.menagerie.drawing.pencil import PencilPen
from unclip.menagerie.drawing.pixel import FINE, GRID, PixelPen, Pixels, pixelate
from unclip.menagerie.drawing.pop import PopPen
from unclip.menagerie.drawing.textured import vertical_gradient
from unclip.menagerie.drawing.watercolour import WatercolourPen


class FlatPen(Pen):
    """Clean shapes without outlines, slightly lighter at the top than at the bottom."""

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        if not outline:
            super().fill(path, colour, outline=False)
            return
        shader = vertical_gradient(path.getBounds(), lighter(colour, 0.10), darker(colour, 0.09))
        self.canvas.drawPath(path, skia.Paint(AntiAlias=True, Shader=shader))


@dataclass(frozen=True)
class Style:
    """How a style draws.

    Attributes:
        pen: class of the pen.
        grid: size in pixels at which the style draws before enlarging. None: the image's size.
        develop: post-processing of the drawn pixels before enlarging.
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
