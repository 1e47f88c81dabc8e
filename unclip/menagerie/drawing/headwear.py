"""Ten kinds of headwear, each drawn around the hat's seat at (500, 262) of the common skeleton, in any
colour.

The head is some 280 wide at the seat and 350 at y = 300, where the face begins: hats cover what is above.
Each hat is its colour nearly all over; what shapes it (folds, bands, shadows) are tones of the same colour,
so that a black hat gets lighter lines and a white one darker lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import skia

from unclip.menagerie.drawing.pen import (
    Colour,
    Pen,
    Point,
    box,
    darker,
    lighter,
    mirror,
    oval,
    polygon,
    smooth,
)

GOLD: Colour = (242, 190, 62)
WHITE: Colour = (252, 250, 244)


# --- tailoring, shared with the garments
# -------------------------------------------------------------------------


def brightness(colour: Colour) -> float:
    """How light a colour looks, 0 to 255."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def shade(colour: Colour, share: float = 0.3) -> Colour:
    """A tone of the colour that shows on it: darker, but lighter on black, and less strong on white."""
    if brightness(colour) < 60:
        return lighter(colour, share)
    return darker(colour, share * 0.75 if brightness(colour) > 235 else share)


def trim(colour: Colour) -> Colour:
    """For small ornaments on the colour: gold, or white where gold would not show."""
    return WHITE if colour[0] > 200 and 110 < colour[1] < 230 and colour[2] < 80 else GOLD


def piece(pen: Pen, path: skia.Path, colour: Colour, shadow: Point = (-24, -14)) -> None:
    """A part of the clothes: a thin rim (or else white on white would vanish), the cloth, a shadow along one
    side.

    The shadow is what a copy of the shape shifted by `shadow` leaves uncovered.
    """
    pen.line(path, shade(colour, 0.45), 12)
    pen.fill(path, colour)
    lit = skia.Path(path)
    lit.offset(*shadow)
    pen.fill(skia.Op(path, lit, skia.kDifference_PathOp), shade(colour, 0.2), outline=False)


def folds(pen: Pen, lines: Iterable[skia.Path], colour: Colour, width: float = 9) -> None:
    """Seams, ribs and creases on cloth of the colour."""
    for line in lines:
        pen.line(line, shade(colour, 0.36), width)


def curve(*points: Point) -> skia.Path:
    """An open smooth curve."""
    return smooth(*points, closed=False)


def star(x: float, y: float, radius: float, angle: float = 0) -> skia.Path:
    """A five-pointed star."""
    corners = []
    for i in range(10):
        r, turn = radius * (0.45 if i % 2 else 1), math.radians(angle + 36 * i - 90)
        corners.append((x + r * math.cos(turn), y + r * math.sin(turn)))
    return polygon(*corners)


def pompom(pen: Pen, x: float, y: float, radius: float, colour: Colour, tufts: int = 11) -> None:
    """A fluffy ball."""
    edge = []
    for i in range(2 * tufts):
        r, turn = radius * (0.86 if i % 2 else 1.06), math.pi * i / tufts
        edge.append((x + r * math.cos(turn), y + r * math.sin(turn)))
    piece(pen, smooth(*edge), colour, shadow=(-radius * 0.3, -radius * 0.3))


# --- hats
# --------------------------------------------------------------------------------------------------------


def _nothing(pen: Pen, colour: Colour) -> None:
    return None


@dataclass(frozen=True)
class Headwear:
    """`front` is drawn over the head, `behind` before it (a brim's far side)."""

    front: Callable[[Pen, Colour], None]
    behind: Callable[[Pen, Colour], None] = _nothing


def _beret(pen: Pen, colour: Colour) -> None:
    pen.limb(curve((478, 150), (470, 122), (484, 96)), shade(colour), 24)
    band = smooth((352, 262), (500, 232), (646, 258), (662, 296), (500, 268), (346, 300))
    piece(pen, band, shade(colour, 0.4))
    disc = smooth(
        (322, 272),
        (308, 220),
        (370, 160),
        (470, 128),
        (590, 132),
        (700, 178),
        (752, 252),
        (738, 304),
        (672, 298),
        (560, 266),
        (420, 262),
    )
    piece(pen, disc, colour, shadow=(-14, -30))
    folds(pen, [curve((400, 190), (450, 164), (510, 158)), curve((600, 240), (660, 250), (706, 276))], colour)


def _top_hat(pen: Pen, colour: Colour) -> None:
    brim = smooth(
        (288, 236), (330, 262), (500, 276), (670, 262), (712, 236), (690, 290), (500, 312), (310, 290)
    )
    crown = smooth(
        (384, 46), (500, 34), (616, 46), (602, 150), (614, 270), (500, 288), (386, 270), (398, 150)
    )
    piece(pen, oval(500, 266, 200, 34), shade(colour, 0.2))
    piece(pen, crown, colour, shadow=(-40, 0))
    with pen.within(crown):
        pen.fill(
            smooth((370, 196), (500, 212), (630, 196), (630, 262), (500, 278), (370, 262)),
            shade(colour, 0.5),
            outline=False,
        )
        pen.fill(oval(500, 50, 130, 22), shade(colour, 0.25), outline=False)
    piece(pen, brim, colour, shadow=(0, -14))


def _crown(pen: Pen, colour: Colour) -> None:
    body = polygon((352, 292), (322, 128), (416, 200), (500, 92), (584, 200), (678, 128), (648, 292))
    body.addPath(smooth((352, 284), (500, 292), (648, 284), (644, 300), (500, 310), (356, 300)))
    piece(pen, body, colour, shadow=(-26, 0))
    with pen.within(body):
        pen.fill(box(330, 248, 670, 262), trim(colour), outline=False)
    for x, y, radius in ((322, 122, 27), (500, 84, 32), (678, 122, 27)):
        pen.fill(oval(x, y, radius), trim(colour))
    for x in (412, 588):
        pen.fill(oval(x, 276, 13), shade(colour, 0.6), outline=False)
    pen.fill(
        polygon((500, 166), (526, 204), (500, 242), (474, 204)),
        lighter(colour, 0.7) if brightness(colour) < 235 else shade(colour),
    )


def _crown_behind(pen: Pen, colour: Colour) -> None:
    back = polygon(
        (344, 280), (352, 200), (412, 142), (470, 214), (530, 214), (588, 142), (648, 200), (656, 280)
    )
    pen.fill(back, shade(colour, 0.42))
    for x in (412, 588):
        pen.fill(oval(x, 138, 18), shade(trim(colour), 0.25))


def _party_hat(pen: Pen, colour: Colour) -> None:
    cone = smooth(
        (384, 274),
        (440, 160),
        (493, 48),
        (507, 48),
        (560, 160),
        (616, 274),
        (560, 296),
        (500, 302),
        (440, 296),
        tension=0.35,
    )
    piece(pen, cone, colour, shadow=(-30, 0))
    dots = WHITE if brightness(colour) < 200 else shade(colour, 0.4)
    with pen.within(cone):
        for x, y in ((500, 128), (458, 186), (540, 196), (412, 256), (496, 256), (584, 260)):
            pen.fill(oval(x, y, 19), dots, outline=False)
    pompom(pen, 500, 50, 38, mixed_tuft(colour))


def mixed_tuft(colour: Colour) -> Colour:
    """The paler (on white: greyer) tone of pom-poms."""
    return lighter(colour, 0.45) if brightness(colour) < 235 else shade(colour, 0.2)


def _cap(pen: Pen, colour: Colour) -> None:
    peak = smooth(
        (530, 254), (640, 232), (740, 246), (812, 296), (790, 318), (700, 296), (600, 292), (520, 300)
    )
    dome = smooth(
        (338, 300), (330, 236), (372, 148), (480, 104), (590, 128), (652, 206), (668, 292), (500, 276)
    )
    piece(pen, peak, shade(colour, 0.14), shadow=(-6, -20))
    piece(pen, dome, colour, shadow=(22, -4))
    folds(pen, [curve((486, 106), (428, 180), (420, 280)), curve((486, 106), (566, 170), (596, 280))], colour)
    folds(pen, [curve((338, 276), (500, 250), (664, 268))], colour, 11)
    pen.fill(oval(484, 102, 22, 15), shade(colour))


def _cowboy_hat(pen: Pen, colour: Colour) -> None:
    crown = smooth(
        (372, 286), (380, 180), (402, 88), (446, 70), (500, 98), (554, 70), (598, 88), (620, 180), (628, 286)
    )
    brim = smooth(
        (272, 150),
        (262, 178),
        (300, 262),
        (390, 308),
        (500, 318),
        (610, 308),
        (700, 262),
        (738, 178),
        (728, 150),
        (690, 212),
        (620, 252),
        (500, 264),
        (380, 252),
        (310, 212),
    )
    piece(pen, crown, colour, shadow=(-30, 0))
    with pen.within(crown):
        pen.fill(
            smooth((360, 198), (500, 214), (640, 198), (650, 258), (500, 272), (350, 258)),
            shade(colour, 0.5),
            outline=False,
        )
        pen.fill(
            smooth((500, 92), (526, 108), (514, 160), (500, 176), (486, 160), (474, 108)),
            shade(colour, 0.3),
            outline=False,
        )
    piece(pen, brim, colour, shadow=(0, -18))


def _wizard_hat(pen: Pen, colour: Colour) -> None:
    cone = smooth(
        (366, 268),
        (420, 170),
        (458, 84),
        (520, 34),
        (604, 34),
        (664, 82),
        (660, 112),
        (604, 100),
        (572, 116),
        (590, 180),
        (634, 268),
        (500, 290),
    )
    piece(pen, oval(500, 266, 216, 42), colour, shadow=(0, -18))
    piece(pen, cone, colour, shadow=(-24, 4))
    with pen.within(cone):
        pen.fill(
            smooth((340, 226), (500, 252), (660, 226), (664, 266), (500, 294), (336, 266)),
            shade(colour, 0.45),
            outline=False,
        )
    folds(pen, [curve((474, 100), (520, 118), (566, 112))], colour)
    for x, y, radius, angle in ((506, 182, 36, 8), (436, 212, 19, -14), (560, 66, 19, 20)):
        pen.fill(star(x, y, radius, angle), trim(colour), outline=False)


def _beanie(pen: Pen, colour: Colour) -> None:
    dome = smooth(
        (334, 276), (342, 196), (410, 124), (500, 104), (590, 124), (658, 196), (666, 276), (500, 270)
    )
    pompom(pen, 500, 84, 54, mixed_tuft(colour))
    piece(pen, dome, colour, shadow=(-24, 6))
    folds(
        pen,
        (
            curve((500 + top, 124 + abs(top) * 0.35), (500 + 1.9 * top, 180), (500 + 2.3 * top, 250))
            for top in (-56, -28, 0, 28, 56)
        ),
        colour,
    )
    rim = smooth(
        (322, 244),
        (400, 228),
        (500, 224),
        (600, 228),
        (678, 244),
        (684, 296),
        (600, 304),
        (500, 300),
        (400, 304),
        (316, 296),
    )
    piece(pen, rim, lighter(colour, 0.14), shadow=(0, -12))
    folds(pen, (curve((500 + x, 238), (500 + 1.02 * x, 290)) for x in range(-150, 151, 50)), colour, 12)


def _chef_hat(pen: Pen, colour: Colour) -> None:
    puff = smooth(
        (392, 226),
        (326, 196),
        (300, 130),
        (346, 78),
        (404, 74),
        (446, 34),
        (512, 22),
        (566, 44),
        (604, 76),
        (662, 84),
        (702, 136),
        (674, 198),
        (608, 226),
        (500, 236),
    )
    piece(pen, puff, colour, shadow=(-20, -18))
    folds(pen, [curve((404, 78), (420, 90), (430, 112)), curve((600, 78), (586, 90), (576, 114))], colour)
    band = smooth((376, 190), (500, 204), (624, 190), (632, 286), (500, 304), (368, 286), tension=0.3)
    piece(pen, band, lighter(colour, 0.1), shadow=(-24, 0))
    folds(pen, (curve((500 + x, 136), (500 + 0.8 * x, 190)) for x in (-96, 0, 96)), colour, 11)
    folds(pen, [curve((376, 192), (500, 206), (624, 192))], colour, 11)


def _headphones(pen: Pen, colour: Colour) -> None:
    # A closed sickle, not a limb: pens that fill the outline of a stroke in their own way may close it across
    # the face.
    arch = smooth(
        (264, 360),
        (282, 276),
        (362, 204),
        (500, 178),
        (638, 204),
        (718, 276),
        (736, 360),
        (692, 360),
        (676, 292),
        (610, 240),
        (500, 222),
        (390, 240),
        (324, 292),
        (308, 360),
    )
    piece(pen, arch, colour, shadow=(0, -8))
    folds(pen, [curve((396, 216), (500, 199), (604, 216))], colour, 14)
    cup = smooth(
        (300, 296),
        (318, 330),
        (320, 396),
        (306, 462),
        (270, 478),
        (226, 452),
        (210, 388),
        (226, 322),
        (264, 292),
    )
    cushion = smooth((300, 300), (334, 320), (344, 388), (334, 446), (302, 470), (290, 388))
    for side in (cushion, mirror(cushion)):
        piece(pen, side, shade(colour, 0.5))
    for side in (cup, mirror(cup)):
        piece(pen, side, colour, shadow=(-10, -14))
    for x in (258, 742):
        pen.fill(oval(x, 384, 22, 46), shade(colour), outline=False)


HEADWEAR_DRAWINGS: dict[str, Headwear] = {
    "beret": Headwear(_beret),
    "top hat": Headwear(_top_hat),
    "crown": Headwear(_crown, _crown_behind),
    "party hat": Headwear(_party_hat),
    "cap": Headwear(_cap),
    "cowboy hat": Headwear(_cowboy_hat),
    "wizard hat": Headwear(_wizard_hat),
    "beanie": Headwear(_beanie),
    "chef hat": Headwear(_chef_hat),
    "headphones": Headwear(_headphones),
}
