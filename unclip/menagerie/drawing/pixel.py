"""The pixel-art pen: a small grid, hard edges, dark contours and few colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import skia

from unclip.menagerie.drawing.pen import INK, UNITS, Colour, Pen, darker, mix

Pixels = npt.NDArray[np.uint8]

GRID: Final = 64  # divides 64, 256 and 1024; on 32 the eyes and the smaller hats fall apart
FINE: Final = 3  # samples per side of each pixel; the most frequent colour wins
CELL: Final = UNITS / GRID


def pixelate(array: Pixels) -> Pixels:
    """Replace each FINE × FINE block by its most frequent colour, which keeps edges hard."""
    n = array.shape[0] // FINE
    coarse = array.astype(np.int64) >> 3  # groups similar shades, and limits the palette to 15 bits
    codes = (coarse[..., 0] << 10) | (coarse[..., 1] << 5) | coarse[..., 2]
    votes = codes.reshape(n, FINE, n, FINE).transpose(0, 2, 1, 3).reshape(n * n, FINE * FINE)
    counts = (votes[:, :, None] == votes[:, None, :]).sum(-1)
    winner = counts.argmax(1)
    code = votes[np.arange(n * n), winner].reshape(n, n)
    rgb = np.stack([code >> 10, (code >> 5) & 31, code & 31], -1)
    return (rgb * 255 // 31).astype(np.uint8)


class PixelPen(Pen):
    """Hard edges on a coarse grid: no anti-aliasing, dark contours, small parts snapped to whole pixels."""

    def _paint(self, colour: Colour) -> skia.Paint:
        return skia.Paint(AntiAlias=False, Color=skia.Color(*colour))

    def _cells(self, bounds: skia.Rect) -> skia.Rect | None:
        """The whole pixels that a small part covers on the page. None if it is too small to draw."""
        matrix = self.canvas.getTotalMatrix()
        page = matrix.mapRect(bounds)
        cell = CELL * self.scale
        if page.width() < 0.4 * cell and page.height() < 0.4 * cell:
            return None
        wide, high = max(1, round(page.width() / cell)), max(1, round(page.height() / cell))
        left, top = round(page.centerX() / cell - wide / 2), round(page.centerY() / cell - high / 2)
        return skia.Rect.MakeXYWH(left * cell, top * cell, wide * cell, high * cell)

    def fill(self, path: skia.Path, colour: Colour, *, outline: bool = True) -> None:
        bounds = path.getBounds()
        if max(bounds.width(), bounds.height()) < 2.4 * CELL and not outline:
            if (cells := self._cells(bounds)) is not None:
                self.canvas.save()
                self.canvas.resetMatrix()
                self.canvas.drawRect(cells, self._paint(colour))
                self.canvas.restore()
            return
        if outline:
            edge = self._paint(mix(darker(colour, 0.62), INK, 0.3))
            edge.setStyle(skia.Paint.kStroke_Style)
            edge.setStrokeWidth(1.3 * CELL)
            edge.setStrokeJoin(skia.Paint.kRound_Join)
            self.canvas.drawPath(path, edge)
        self.canvas.drawPath(path, self._paint(colour))

    def line(self, path: skia.Path, colour: Colour, width: float) -> None:
        paint = self._paint(colour)
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(max(width, 0.8 * CELL))
        self.canvas.drawPath(path, paint)

    def tint(self, path: skia.Path, colour: Colour, alpha: float) -> None:
        paint = self._paint(colour)
        paint.setAlphaf(alpha)
        self.canvas.drawPath(path, paint)

    def backdrop(self, colours: Sequence[Colour]) -> None:
        """Draw bands of colour, with a checkered row between two bands."""
        if len(colours) == 1:
            self.canvas.drawPaint(self._paint(colours[0]))
            return
        bands = 4 * (len(colours) - 1)
        shades = []
        for i in range(bands):
            at = (i + 0.5) / bands * (len(colours) - 1)
            shades.append(mix(colours[int(at)], colours[int(at) + 1], at % 1))
        for row in range(GRID):
            at = row * bands // GRID
            self.canvas.drawRect(skia.Rect.MakeXYWH(0, row * CELL, UNITS, CELL), self._paint(shades[at]))
            after = (row + 1) * bands // GRID
            if after != at and after < bands:
                for column in range(row % 2, GRID, 2):
                    self.canvas.drawRect(
                        skia.Rect.MakeXYWH(column * CELL, row * CELL, CELL, CELL), self._paint(shades[after])
                    )
