"""Ten settings behind the figure, whose feet stand on the ground at y = 905.

Large masses of colour identify a setting. Details stay at the sides, so that the middle is calm behind a hat.
Many small things (stars, windows, books of one colour) are drawn as one path, which is fast.
"""

from __future__ import annotations

import random

from unclip.menagerie.drawing.landscapes import LANDSCAPES
from unclip.menagerie.drawing.pen import Colour, Pen
from unclip.menagerie.drawing.places import PLACES
from unclip.menagerie.drawing.scenery import WHITE, Setting


def _plain(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([colour or WHITE])


def _randomly_mirrored(setting: Setting) -> Setting:
    """The setting, mirrored with probability ½."""

    def draw(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
        with pen.moved(flip=rng.random() < 0.5):
            setting(pen, rng, colour)

    return draw


SETTING_DRAWINGS: dict[str, Setting] = {
    "plain": _plain,
    **{name: _randomly_mirrored(setting) for name, setting in (LANDSCAPES | PLACES).items()},
}
