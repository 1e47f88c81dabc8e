"""The page's menus of sizes: a square's side, and a shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from unclip.errors import RequestError
from unclip.pipeline.sizes import SHAPES, Size, SizeGrid

SQUARE: Final = "1:1"


@dataclass(frozen=True)
class SizeMenu:
    """The sizes that the page offers, of those that a model makes."""

    grid: SizeGrid

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the squares in pixels."""
        return self.grid.squares

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Ratios by their names."""
        both = [*SHAPES, *((b, a) for a, b in SHAPES)]
        made = [one for one in both if any(self.grid.shaped(side, one) for side in self.sides)]
        return {f"{width}:{height}": (width, height) for width, height in ((1, 1), *made)}

    def chosen(self, side: int, shape: str) -> Size:
        """The size of a shape whose area is nearest to that of a square.

        Raises:
            RequestError: the page does not offer it.
        """
        for name, value, offered in (("Size", side, self.sides), ("Shape", shape, self.shapes)):
            if value not in offered:
                raise RequestError(f"{name}: {value} is not one of {', '.join(map(str, offered))}.")
        size = Size(side, side) if shape == SQUARE else self.grid.shaped(side, self.shapes[shape])
        if size is None:
            raise RequestError(f"The model makes no shape of {shape} at {side} pixels.")
        return size
