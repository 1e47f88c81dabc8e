"""Settings away from land and daylight: space, a city at night, underwater, a library."""

from __future__ import annotations

import random

import skia

from unclip.menagerie.drawing.pen import Colour, Pen, Point, box, darker, lighter, mix, oval, polygon, smooth
from unclip.menagerie.drawing.scenery import WHITE, Setting, ground, rolling_ground, scattered_dots, together

LAMPLIGHT: Colour = (255, 214, 110)
BOOKS: tuple[Colour, ...] = (
    (178, 52, 50),
    (36, 96, 136),
    (60, 128, 84),
    (220, 164, 60),
    (120, 66, 120),
    (226, 210, 176),
)


def _space(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(10, 10, 34), (24, 18, 62), (52, 32, 96)])
    pen.fill(scattered_dots(rng, 34, (0, 1000), (0, 760), (4, 7)), (190, 200, 240), outline=False)
    pen.fill(scattered_dots(rng, 12, (0, 1000), (0, 700), (8, 12)), (255, 246, 214), outline=False)
    _planet(pen, rng, rng.uniform(140, 200), rng.uniform(170, 270))
    pen.fill(oval(rng.uniform(860, 930), rng.uniform(360, 520), rng.uniform(30, 46)), (112, 190, 204))
    pen.fill(ground((-60, 800), (250, 752), (700, 745), (1060, 806)), (150, 152, 164))
    craters = ((120, 860, 70), (880, 850, 60), (770, 950, 80), (270, 960, 62), (330, 800, 34), (660, 790, 36))
    for place, y, about in craters:
        x, size = place + rng.uniform(-30, 30), about * rng.uniform(0.85, 1.15)
        pen.fill(oval(x, y, size, size * 0.36), (112, 114, 130))
        pen.fill(oval(x, y + size * 0.09, size * 0.86, size * 0.25), (128, 130, 146), outline=False)


def _planet(pen: Pen, rng: random.Random, x: float, y: float) -> None:
    colour = rng.choice(((236, 132, 84), (226, 112, 140), (232, 176, 84)))
    globe = oval(x, y, 108)
    with pen.moved(angle=-20, about=(x, y)):
        pen.line(oval(x, y, 172, 40), (246, 216, 160), 16)
        pen.fill(globe, colour)
        with pen.within(globe):
            pen.fill(box(x - 120, y - 62, x + 120, y - 34), lighter(colour, 0.3), outline=False)
            pen.fill(box(x - 120, y + 44, x + 120, y + 72), darker(colour, 0.2), outline=False)
        near = skia.Path().addArc(skia.Rect.MakeLTRB(x - 172, y - 40, x + 172, y + 40), 0, 180)
        pen.line(near, (246, 216, 160), 16)


def _city(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(16, 20, 58), (44, 46, 108), (110, 76, 136)])
    pen.fill(scattered_dots(rng, 18, (0, 1000), (0, 330), (4, 7)), (226, 228, 255), outline=False)
    moon = (rng.uniform(800, 890), rng.uniform(110, 170))
    pen.tint(oval(*moon, 118), (255, 244, 200), 0.16)
    pen.fill(oval(*moon, 76), (255, 244, 200))
    _skyline(pen, rng, (62, 60, 124), (-30.0, 1030.0), (380, 560), lit=0.2)
    _skyline(pen, rng, (28, 30, 74), (-40.0, 300.0), (270, 480), lit=0.6)
    _skyline(pen, rng, (28, 30, 74), (700.0, 1040.0), (360, 520), lit=0.6)
    pen.fill(box(-20, 800, 1020, 1020), (58, 56, 84), outline=False)
    pen.fill(box(-20, 800, 1020, 822), (128, 122, 152), outline=False)
    pen.fill(
        together(box(x, 952, x + 110, 970) for x in range(-40, 1000, 220)), (240, 214, 130), outline=False
    )


def _skyline(pen: Pen, rng: random.Random, colour: Colour, across: Point, tops: Point, lit: float) -> None:
    """A row of towers; a share `lit` of their windows shines."""
    x, windows = across[0], skia.Path()
    while x < across[1]:
        width, top = rng.uniform(120, 170), rng.uniform(*tops)
        pen.fill(box(x, top, x + width, 830), colour)
        for column in range(int((width - 20) // 44)):
            for row in range(int((780 - top) // 62)):
                if rng.random() < lit:
                    left, high = x + 20 + 44 * column, top + 26 + 62 * row
                    windows.addRect(skia.Rect.MakeLTRB(left, high, left + 26, high + 34))
        x += width
    pen.fill(windows, LAMPLIGHT, outline=False)


def _underwater(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(86, 214, 222), (22, 140, 184), (12, 78, 138)])
    for place in (140, 430, 720):
        x = place + rng.uniform(-60, 60)
        pen.tint(polygon((x, -10), (x + 110, -10), (x + 40, 900), (x - 190, 900)), WHITE, 0.13)
    pen.fill(rolling_ground(rng, 800, 30, 3), (30, 112, 150), outline=False)
    for x in (50.0, 120.0, 880.0, 955.0):
        _seaweed(
            pen, x + rng.uniform(-20, 20), rng.uniform(430, 620), rng.choice(((28, 150, 96), (60, 172, 84)))
        )
    pen.fill(rolling_ground(rng, 868, 18, 3), (216, 204, 154), outline=False)
    _coral(pen, rng.uniform(190, 230), (244, 104, 120))
    _coral(pen, rng.uniform(790, 830), (250, 150, 70))
    _fish(pen, rng.uniform(100, 200), rng.uniform(160, 330), (255, 190, 50))
    _fish(pen, rng.uniform(820, 900), rng.uniform(330, 480), (250, 128, 90))
    for x in (rng.uniform(60, 220), rng.uniform(800, 940)):
        for k in range(4):
            bubble = oval(x + rng.uniform(-40, 40), 120 + 190 * k + rng.uniform(-50, 50), rng.uniform(13, 26))
            pen.line(bubble, (214, 246, 250), 7)


def _seaweed(pen: Pen, x: float, top: float, colour: Colour) -> None:
    bends = [(x + (24 if k % 2 else -24), top + (920 - top) * k / 4) for k in range(5)]
    pen.limb(smooth(*bends, closed=False, tension=0.9), colour, 36)


def _coral(pen: Pen, x: float, colour: Colour) -> None:
    for tip, bend in ((-76, -70), (-20, -10), (40, 20), (84, 86)):
        branch = skia.Path()
        branch.moveTo(x, 930)
        branch.quadTo(x + bend, 850, x + tip, 770 + abs(tip) * 0.4)
        pen.limb(branch, colour, 32)


def _fish(pen: Pen, x: float, y: float, colour: Colour) -> None:
    pen.fill(polygon((x + 34, y), (x + 92, y - 40), (x + 92, y + 40)), darker(colour, 0.15))
    pen.fill(oval(x, y, 62, 38), colour)
    pen.fill(oval(x - 32, y - 8, 9), (30, 30, 50), outline=False)


def _library(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    wood = rng.choice(((112, 70, 42), (126, 76, 40), (98, 60, 44)))
    pen.backdrop([darker(wood, 0.5)])
    shelves = (40, 232, 424, 616)
    spines: dict[Colour, skia.Path] = {shade: skia.Path() for shade in BOOKS}
    for top in shelves:
        x = -10.0
        while x < 1000:
            width = rng.uniform(30, 52)
            spine = skia.Rect.MakeLTRB(x, top + rng.uniform(14, 62), x + width - 4, top + 170)
            spines[rng.choice(BOOKS)].addRect(spine)
            x += width
    for shade, path in spines.items():
        pen.fill(path, mix(shade, wood, 0.15), outline=False)
    pen.tint(
        box(265, -20, 735, 800), darker(wood, 0.6), 0.5
    )  # the middle stands in shade, calm behind the figure
    for top in shelves:
        pen.fill(box(-20, top + 166, 1020, top + 192), wood)
    for x in (-14, 240, 740, 994):
        pen.fill(box(x, -20, x + 24, 810), wood)
    pen.fill(box(-20, 800, 1020, 1020), (204, 146, 86), outline=False)
    for y in (848, 906, 968):
        pen.line(polygon((-20, y), (1020, y)), (166, 110, 62), 6)
    rug = rng.choice(((160, 44, 52), (44, 84, 124), (58, 108, 80)))
    pen.fill(oval(500, 920, 390, 62), rug)
    pen.line(oval(500, 920, 350, 48), (236, 204, 140), 8)


PLACES: dict[str, Setting] = {
    "space": _space,
    "city at night": _city,
    "underwater": _underwater,
    "library": _library,
}
