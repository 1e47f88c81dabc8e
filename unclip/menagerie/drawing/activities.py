"""Eight activities and held things, with the positions of the hands.

Things do not overlap the head. Each has a rim or a second colour, so that it is visible on a background of
its own colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import skia

from unclip.menagerie.drawing.figure import HANGING
from unclip.menagerie.drawing.pen import (
    PALETTE,
    Colour,
    Pen,
    Point,
    box,
    darker,
    lighter,
    mix,
    oval,
    points,
    polygon,
    smooth,
    star,
)

WHITE: Colour = (255, 255, 255)
CREAM: Colour = (255, 244, 220)
WOOD: Colour = (236, 168, 82)
DARK_WOOD: Colour = (104, 54, 30)
LEAF: Colour = (70, 160, 66)


def _nothing(pen: Pen) -> None:
    return None


@dataclass(frozen=True)
class Activity:
    """What to draw: `behind` before the figure, `front` after the torso (over the hands if `over_hands`)."""

    front: Callable[[Pen], None] = _nothing
    behind: Callable[[Pen], None] = _nothing
    hands: tuple[Point, Point] = HANGING
    over_hands: bool = False


# The left hand hangs, the right one holds something up beside the head.
RAISED: tuple[Point, Point] = (HANGING[0], (752.0, 612.0))
SPREAD: tuple[Point, Point] = ((262.0, 680.0), (738.0, 680.0))
STRUMMING: tuple[Point, Point] = ((428.0, 772.0), (722.0, 668.0))
READING: tuple[Point, Point] = ((318.0, 782.0), (682.0, 782.0))


def _minus(path: skia.Path, hole: skia.Path) -> skia.Path:
    """The part of `path` outside `hole`, a crescent of shade. Draw it clipped to `path`."""
    crescent = skia.Path(path)
    crescent.addPath(hole)
    crescent.setFillType(skia.PathFillType.kEvenOdd)
    return crescent


def _balloon(pen: Pen) -> None:
    red = PALETTE["red"]
    pen.line(smooth(*points("838,375 806,450 814,530 752,612 770,690"), closed=False), (90, 76, 82), 9)
    pen.fill(polygon((838, 352), (866, 392), (810, 392)), darker(red, 0.35))
    skin = smooth(*points("838,100 918,135 950,220 912,312 838,368 764,312 726,220 758,135"))
    pen.fill(skin, red)
    with pen.within(skin):  # the shaded rim keeps a red balloon visible on red
        pen.tint(_minus(skin, oval(820, 218, 108, 138)), darker(red, 0.6), 0.55)
    pen.fill(oval(792, 182, 20, 34), lighter(red, 0.75), outline=False)


def _skateboard(pen: Pen) -> None:
    pen.tint(oval(500, 956, 300, 18), (20, 14, 30), 0.3)
    for x in (322, 678):
        pen.fill(box(x - 30, 908, x + 30, 930, 6), (150, 152, 162))
        for wheel in (x - 34, x + 34):
            pen.fill(oval(wheel, 934, 25), PALETTE["yellow"])
            pen.fill(oval(wheel, 934, 9), PALETTE["orange"], outline=False)
    deck = skia.Path()
    deck.moveTo(188, 868)
    deck.cubicTo(225, 896, 240, 902, 290, 902)
    deck.lineTo(710, 902)
    deck.cubicTo(760, 902, 775, 896, 812, 868)
    pen.limb(deck, (232, 62, 108), 34)
    pen.line(deck, (62, 54, 84), 11)  # the grip tape


def _guitar(pen: Pen) -> None:
    with pen.moved(angle=-21, about=(400, 790)):
        pen.fill(box(560, 772, 850, 808, 6), DARK_WOOD)
        for y in (764, 816):
            for x in (858, 886, 914):
                pen.fill(oval(x, y, 9), CREAM, outline=False)
        pen.fill(polygon(*points("838,772 856,760 938,766 938,814 856,820 838,808")), DARK_WOOD)
        body = points("268,790 300,694 385,684 455,716 530,700 585,740")
        shape = (*body, (592, 790), *((x, 1580 - y) for x, y in reversed(body[1:])))
        pen.fill(smooth(*shape), DARK_WOOD)
        pen.fill(
            smooth(*((430 + (x - 430) * 0.9, 790 + (y - 790) * 0.88) for x, y in shape)), WOOD, outline=False
        )
        pen.fill(oval(490, 790, 41), mix(WOOD, DARK_WOOD, 0.55), outline=False)
        pen.fill(oval(490, 790, 31), (48, 26, 20), outline=False)
        pen.fill(box(330, 758, 348, 822, 5), DARK_WOOD, outline=False)
        for y in (782, 790, 798):
            pen.line(polygon((340, y), (850, y)), CREAM, 3)


def _book(pen: Pen) -> None:
    cover: Colour = (38, 96, 176)
    pen.fill(polygon(*points("322,668 500,700 678,668 678,842 500,878 322,842")), cover)
    for side in (-1, 1):

        def at(x: float, y: float, side: int = side) -> Point:
            return 500 + side * x, y

        page = skia.Path()
        page.moveTo(*at(0, 694))
        page.cubicTo(*at(40, 652), *at(110, 648), *at(158, 654))
        page.lineTo(*at(158, 816))
        page.cubicTo(*at(110, 810), *at(40, 816), *at(0, 856))
        page.close()
        pen.fill(page, CREAM)
        for y in (694, 726, 758, 790):
            pen.line(smooth(at(32, y + 8), at(80, y - 6), at(130, y - 6), closed=False), (150, 136, 128), 8)
    pen.line(polygon((500, 698), (500, 852)), (150, 120, 100), 7)


def _ice_cream(pen: Pen) -> None:
    with pen.moved(24, 8):  # clear of wide ears
        cone = polygon((704, 548), (836, 548), (774, 730))
        pen.fill(cone, (222, 150, 72))
        with pen.within(cone):
            for x in range(620, 920, 44):
                pen.line(polygon((x, 540), (x + 90, 740)), (172, 100, 44), 7)
                pen.line(polygon((x, 540), (x - 90, 740)), (172, 100, 44), 7)
        pen.fill(oval(770, 330, 54), (255, 238, 186))
        pen.fill(oval(802, 408, 62), (150, 214, 178))
        pen.fill(
            smooth(
                *points("688,530 700,468 770,432 840,468 852,530 826,566 800,550 774,576 744,552 712,564")
            ),
            (247, 128, 168),
        )
        pen.fill(oval(776, 268, 23), PALETTE["red"])
        for x, y in ((742, 482), (782, 356), (824, 392), (740, 520)):
            pen.fill(oval(x, y, 8), WHITE, outline=False)


def _umbrella(pen: Pen) -> None:
    """A canopy of five gores that meet at the tip; the pole runs on through the hand to a hook."""
    x, top, edge, reach = 752.0, 140.0, 352.0, 202.0
    with pen.moved(angle=8, about=RAISED[1]):
        pole = skia.Path()
        pole.moveTo(x, top - 28)
        pole.lineTo(x, 712)
        pole.cubicTo(x, 762, x + 62, 762, x + 62, 716)
        pen.limb(pole, DARK_WOOD, 18)
        ribs = [x + reach * share for share in (-1, -0.66, -0.24, 0.24, 0.66, 1)]
        for k, (left, right) in enumerate(pairwise(ribs)):
            gore = skia.Path()
            gore.moveTo(x, top)
            gore.quadTo(left, top + 12, left, edge)
            gore.quadTo((left + right) / 2, edge - 44, right, edge)
            gore.quadTo(right, top + 12, x, top)
            pen.fill(gore, PALETTE["yellow"] if k % 2 else (24, 142, 160))


def _flower(pen: Pen) -> None:
    x, y = 848.0, 424.0
    pen.limb(smooth((738, 742), (752, 612), (812, 540), (x, y), closed=False), LEAF, 20)
    pen.fill(smooth((782, 590), (840, 556), (908, 580), (850, 622), tension=1.0), LEAF)
    for k in range(8):
        with pen.moved(angle=k * 45 + 10, about=(x, y)):
            pen.fill(oval(x, y - 68, 34, 50), (240, 84, 150) if k % 2 else (250, 120, 176))
    pen.fill(oval(x, y, 42), PALETTE["yellow"])
    pen.fill(oval(x, y, 24), (240, 166, 36), outline=False)


def _wand(pen: Pen) -> None:
    x, y = 836.0, 372.0
    pen.limb(polygon((728, 672), (x, y)), (52, 40, 84), 22)
    pen.line(polygon((806, 455), (x, y)), WHITE, 16)
    pen.fill(star(x, y, 118, 54), PALETTE["orange"])
    pen.fill(star(x, y, 92, 42), (255, 224, 70), outline=False)
    for sx, sy, size in ((928, 226, 44), (772, 216, 34), (925, 520, 40), (858, 575, 26)):
        pen.fill(star(sx, sy, size, size * 0.32, 4), (255, 224, 70))


ACTIVITY_DRAWINGS: dict[str, Activity] = {
    "holding a balloon": Activity(behind=_balloon, hands=RAISED),
    "riding a skateboard": Activity(behind=_skateboard, hands=SPREAD),
    "playing a guitar": Activity(front=_guitar, hands=STRUMMING),
    "reading a book": Activity(front=_book, hands=READING, over_hands=True),
    "eating an ice cream": Activity(front=_ice_cream, hands=(HANGING[0], (778.0, 634.0))),
    "holding an umbrella": Activity(behind=_umbrella, hands=RAISED),
    "holding a flower": Activity(front=_flower, hands=RAISED),
    "waving a magic wand": Activity(front=_wand, hands=RAISED),
}
