"""Sizes of images: how they are written, and which of them a model makes.

Imports nothing heavy: the command line reads this at start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import ceil, floor, gcd, lcm, log, sqrt
from typing import NamedTuple

from unclip.errors import RequestError

HOW = "write WIDTHxHEIGHT in pixels, as in 1024x768, or the side of a square"
LARGEST = 1024  # side in pixels of DALL·E 2's images
SHAPES = ((3, 2), (4, 3), (16, 9))  # ratios to offer, besides squares
LONGEST = 4  # largest ratio of the sides of an image, and of its area to its stage's square
SAME_SHAPE = 1.02  # ratio of two aspect ratios below which a picture is resized rather than cropped


class Size(NamedTuple):
    """Width and height of an image in pixels."""

    width: int
    height: int

    @property
    def plain(self) -> int | str:
        """As in options and settings: the side of a square, or "1024x768"."""
        return self.width if self.width == self.height else f"{self.width}x{self.height}"

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def shape_like(self, other: tuple[float, float]) -> float:
        """Ratio of the two aspect ratios, at least 1."""
        ratio = self.width * other[1] / (self.height * other[0])
        return max(ratio, 1 / ratio)

    def distance(self, wish: tuple[float, float]) -> float:
        """How far it is from a wished (width, height): in shape first, then in area."""
        area = abs(log(self.area / (wish[0] * wish[1])))
        return 20 * log(self.shape_like(wish)) + area

    def __str__(self) -> str:
        return str(self.plain)


def parse_size(value: int | str | tuple[int, int]) -> Size:
    """Read a size: the side of a square, (width, height), or a string of either, as "1024" or "1024x768".

    Raises:
        RequestError: something else.
    """
    if isinstance(value, int):
        return Size(value, value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, int) for one in value):
        return Size(*value)
    if isinstance(value, str):
        sides = value.lower().replace("×", "x").split("x")
        if len(sides) <= 2 and all(one.strip().isdecimal() for one in sides):
            return Size(int(sides[0]), int(sides[-1]))
    raise RequestError(f"size {value}: {HOW}")


class SizeGrid:
    """The sizes of the images that a model makes.

    Every stage has a nominal side, that of its squares. An image of W × H pixels belongs to the stage whose
    side s is nearest to √(W · H), with s between W and H. Every stage before that one, of side s', then runs
    at W · s'/s × H · s'/s pixels, which must be whole numbers and multiples of what its network needs.
    A flexible decoder makes every size whose sides are multiples of its unit. No side is more than four times
    the other, and no area more than four times the stage's square.

    Args:
        name: the model's, for messages.
        units: for each nominal side of the chain, also an upsampler's input, the number of pixels that the
            sides of its images are multiples of.
        stages: nominal sides of the stages, ascending.
        flexible: whether the only stage is a flexible decoder (`BaseDecoder.flexible`).
    """

    def __init__(
        self, name: str, units: Mapping[int, int], stages: Sequence[int], *, flexible: bool = False
    ) -> None:
        self.name, self.units, self.stages, self.flexible = name, units, tuple(stages), flexible
        # A model that ends at 256 px also makes 1024 px by Lanczos resampling: on photographs it is better
        # than an upsampler that was not trained on any (docs/how-to/karlo.md).
        last = self.stages[-1]
        resampled = last < LARGEST <= 4 * last and not flexible
        self.sides = (*self.stages, LARGEST) if resampled else self.stages

    @property
    def squares(self) -> tuple[int, ...]:
        """Sides of squares to offer: those of the stages, or of a flexible decoder up to twice its own."""
        if not self.flexible:
            return self.stages
        side = self.stages[0]
        return tuple(one for one in (side, side * 3 // 2, 2 * side) if one % self.units[side] == 0)

    def step(self, side: int) -> int:
        """The unit, in pixels, of the sides of a stage's images: they are multiples of it."""
        if self.flexible:
            return self.units[side]
        return lcm(*(side * unit // gcd(side * unit, own) for own, unit in self.units.items() if own <= side))

    def side(self, size: Size) -> int | None:
        """Nominal side of the stage that makes images of a size; None if the model makes none."""
        if min(size) < 1 or max(size) > LONGEST * min(size):
            return None
        if self.flexible:
            side = self.stages[0]
            if size.area > LONGEST * side**2:
                return None
        elif size.width == size.height:
            return size.width if size.width in self.sides else None
        else:
            holding = [side for side in self.sides if min(size) <= side <= max(size)]
            if not holding:
                return None
            side = min(holding, key=lambda one: (max(one**2 / size.area, size.area / one**2), -one))
        step = self.step(side)
        return side if size.width % step == 0 == size.height % step else None

    def check(self, size: Size) -> int:
        """As `side`.

        Raises:
            RequestError: the model makes no images of this size.
        """
        if (side := self.side(size)) is not None:
            return side
        sides = ", ".join(map(str, self.sides))
        if min(size) < 1 or (size.width == size.height and not self.flexible):
            raise RequestError(f"size {size}: {self.name} makes pictures of {sides} pixels")
        if self.flexible:
            side = self.stages[0]
            what = (
                f"makes pictures in steps of {self.step(side)} pixels, up to {2 * side}x{2 * side} or as many"
            )
        else:
            what = f"makes squares of {sides} pixels, and some other shapes"
        raise RequestError(f"size {size}: {self.name} {what}; the nearest to this is {self.nearest(size)}")

    def examples(self) -> dict[str, str]:
        """Some sizes by the side of each square, to read."""
        found = {}
        for side in self.squares if self.flexible else self.sides:
            shapes = [one for ratio in SHAPES if (one := self.shaped(side, ratio))]
            step = self.step(self.stages[0] if self.flexible else side)
            how = "" if self.flexible or side in self.stages else f", resampled from {self.stages[-1]}"
            found[str(side)] = f"{', '.join(map(str, shapes))} … in steps of {step}{how}"
        return found

    def at(self, size: Size, stage: int) -> Size:
        """Size of the images of an earlier stage, by its nominal side, for images of a size."""
        side = self.check(size)
        return Size(size.width * stage // side, size.height * stage // side)

    def nearest(self, size: tuple[int, int]) -> Size:
        """The size nearest to a wish in shape first, then in area."""
        width, height = size
        wish = Size(min(width, LONGEST * height), min(height, LONGEST * width))
        squares = (Size(side, side) for side in self.sides)
        return min(chain(squares, self._shaped(wish, self.sides)), key=lambda one: one.distance(wish))

    def holding(self, size: tuple[int, int]) -> Size | None:
        """The smallest size of the stages' images with the shape of a picture that holds the picture.

        For a flexible decoder, at least half the area of its square: it draws smaller images worse.

        Returns:
            The largest size of that shape if none holds the picture; None if the model makes no such shape.
        """
        least = self.stages[0] ** 2 // 2 if self.flexible else 0
        shaped = (one for one in self._shaped(size, self.stages) if one.area >= least)
        near = 1.0 if size[0] == size[1] else SAME_SHAPE
        same = [one for one in shaped if one.shape_like(size) <= near]
        holds = [one for one in same if one.width >= size[0] and one.height >= size[1]]
        return min(holds, default=max(same, default=None, key=_area), key=_area)

    def shaped(self, side: int, ratio: tuple[int, int]) -> Size | None:
        """The size with a shape, nearly, that is nearest to one of `squares`."""
        stages, high = self.stages if self.flexible else [side], side * sqrt(ratio[1] / ratio[0])
        same = [one for one in self._shaped(ratio, stages) if one.shape_like(ratio) <= SAME_SHAPE]
        return min(same, default=None, key=lambda one: one.distance((side**2 / high, high)))

    def scaled(self, size: tuple[int, int], side: int) -> Size | None:
        """The size of a later stage, by its nominal side, for images of an earlier one's size.

        Returns:
            None if the stages make no such images.
        """
        if (own := self.side(found := Size(*size))) is None or own > side:
            return None
        found = Size(found.width * side // own, found.height * side // own)
        return found if self.side(found) == side else None

    def _shaped(self, shape: tuple[int, int], sides: Sequence[int]) -> Iterator[Size]:
        """The sizes of stages nearest to a shape: at most two for each width."""
        for side in sides:
            step = self.step(side)
            for width in range(step, LONGEST * side + 1, step):
                height = width * shape[1] / shape[0] / step
                for rows in {floor(height), ceil(height)}:
                    if self.side(size := Size(width, rows * step)) == side:
                        yield size


def _area(size: Size) -> int:
    return size.area
