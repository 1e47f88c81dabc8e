"""Ten settings behind the figure. The ground meets the figure's feet at y = 905.

Each is told by its large masses of colour; detail stays at the sides, so that the middle is calm behind a
hat. What is many and small (stars, windows, books of one colour) is one path, which keeps a setting quick to
draw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import skia

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
    polygon,
    smooth,
)

Setting = Callable[[Pen, random.Random, Colour | None], None]

WHITE: Colour = (255, 255, 255)
LAMPLIGHT: Colour = (255, 214, 110)
BARK: Colour = (98, 66, 46)


# --- things that several settings share
# ---------------------------------------------------------------------------


def _ground(*ridge: Point) -> skia.Path:
    """Everything below a smooth ridge that runs from the left edge to the right."""
    path = smooth(*ridge, closed=False)
    path.lineTo(1060, 1060)
    path.lineTo(-60, 1060)
    path.close()
    return path


def _rolling(rng: random.Random, y: float, swell: float, bumps: int = 4) -> skia.Path:
    """Ground whose ridge rolls up and down by `swell` about the height y."""
    up = rng.choice((-1, 1))
    ridge = [
        (-60 + 1120 * k / bumps, y + up * (-1) ** k * swell * rng.uniform(0.5, 1)) for k in range(bumps + 1)
    ]
    return _ground(*ridge)


def _together(paths: Iterable[skia.Path]) -> skia.Path:
    """Many small things as one path."""
    whole = skia.Path()
    for path in paths:
        whole.addPath(path)
    return whole


def _dots(rng: random.Random, count: int, across: Point, down: Point, radius: Point) -> skia.Path:
    """Dots strewn over a rectangle; every argument after the count is a range."""
    return _together(
        oval(rng.uniform(*across), rng.uniform(*down), rng.uniform(*radius)) for _ in range(count)
    )


def _cloud(x: float, y: float, size: float) -> skia.Path:
    return _together(
        oval(x + dx * size, y + dy * size, rx * size, ry * size)
        for dx, dy, rx, ry in ((-62, 8, 48, 32), (-14, -20, 54, 50), (48, -4, 50, 40), (0, 18, 104, 24))
    )


def _clouds(pen: Pen, rng: random.Random, colour: Colour) -> None:
    """One cloud at each side, and a smaller one further up."""
    for x, y, size in ((150, 190, 1.15), (850, 270, 1.3), (640, 80, 0.7)):
        cloud = _cloud(x + rng.uniform(-60, 60), y + rng.uniform(-60, 60), size * rng.uniform(0.85, 1.2))
        pen.fill(cloud, colour, outline=False)


def _either_way(setting: Setting) -> Setting:
    """The setting as drawn or mirrored."""

    def draw(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
        with pen.moved(flip=rng.random() < 0.5):
            setting(pen, rng, colour)

    return draw


# --- the settings
# -------------------------------------------------------------------------------------------------


def _plain(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([colour or WHITE])


def _beach(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(92, 190, 240), (196, 236, 250), (196, 236, 250)])
    pen.fill(oval(rng.uniform(770, 880), rng.uniform(120, 190), 82), (255, 222, 74))
    pen.fill(_cloud(rng.uniform(560, 700), rng.uniform(290, 360), 0.9), WHITE, outline=False)
    sea, horizon = (18, 138, 190), rng.uniform(505, 545)
    pen.fill(box(-20, horizon, 1020, 800), sea, outline=False)
    pen.fill(box(-20, horizon + 90, 1020, 800), (40, 176, 204), outline=False)
    boat = rng.uniform(790, 900)
    pen.fill(polygon((boat, horizon - 90), (boat, horizon), (boat - 62, horizon)), WHITE)
    hull = (
        (boat - 70, horizon + 6),
        (boat + 52, horizon + 6),
        (boat + 34, horizon + 36),
        (boat - 54, horizon + 36),
    )
    pen.fill(polygon(*hull), PALETTE["red"])
    shore = rng.uniform(715, 745)
    for lower, shade in ((0, (226, 246, 246)), (26, (246, 216, 150))):  # foam, then sand
        y = shore + lower
        pen.fill(_ground((-60, y - 20), (250, y + 18), (600, y - 24), (1060, y + 16)), shade, outline=False)
    pen.fill(_dots(rng, 16, (20, 980), (830, 990), (4, 8)), (222, 182, 112), outline=False)
    _palm(pen, rng.uniform(80, 150), rng.uniform(250, 310))


def _palm(pen: Pen, x: float, top: float) -> None:
    pen.limb(smooth((x - 60, 860), (x - 34, 620), (x, top), closed=False), (150, 102, 62), 40)
    leaning = (
        (-190, 60, -70),
        (-130, -70, -70),
        (40, -130, -60),
        (170, -40, -80),
        (190, 110, -60),
        (80, 190, 0),
        (-90, 180, 0),
    )
    for dx, dy, droop in leaning:
        tip = (x + dx, top + dy)
        frond = skia.Path()
        frond.moveTo(x, top)
        frond.quadTo(x + dx * 0.5, top + dy * 0.5 + droop - 30, *tip)
        frond.quadTo(x + dx * 0.42, top + dy * 0.5 + droop + 52, x, top)
        pen.fill(frond, (34, 146, 78))
    pen.fill(oval(x - 10, top + 20, 22), (110, 70, 44))
    pen.fill(oval(x + 26, top + 26, 20), (110, 70, 44))


def _snow(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(132, 176, 214), (200, 222, 238), (232, 240, 246)])
    pen.fill(_rolling(rng, 560, 60), (206, 222, 238), outline=False)
    for x in (60.0, 190.0, 800.0, 930.0):
        _fir(pen, x + rng.uniform(-40, 40), rng.uniform(690, 730), rng.uniform(0.8, 1.2))
    pen.fill(_rolling(rng, 690, 34), (232, 241, 249), outline=False)
    _fir(pen, rng.uniform(20, 90), 850, rng.uniform(1.4, 1.65))
    pen.fill(_rolling(rng, 815, 24, 3), (250, 252, 255), outline=False)
    for radius, count in ((8, 22), (14, 14)):
        pen.fill(_dots(rng, count, (0, 1000), (0, 860), (radius * 0.8, radius * 1.2)), WHITE, outline=False)


def _fir(pen: Pen, x: float, foot: float, size: float) -> None:
    """Three tiers with snow on each; `foot` is where the trunk meets the ground."""
    pen.fill(box(x - 14 * size, foot - 50 * size, x + 14 * size, foot), BARK, outline=False)
    for k in range(3):
        low, half = foot - (30 + 70 * k) * size, (96 - 22 * k) * size
        top = low - 120 * size
        pen.fill(polygon((x, top), (x + half, low), (x - half, low)), (38, 98, 84))
        cap = (
            (x, top),
            (x + half * 0.45, low - 66 * size),
            (x, low - 52 * size),
            (x - half * 0.45, low - 66 * size),
        )
        pen.fill(polygon(*cap), WHITE, outline=False)


def _space(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(10, 10, 34), (24, 18, 62), (52, 32, 96)])
    pen.fill(_dots(rng, 34, (0, 1000), (0, 760), (4, 7)), (190, 200, 240), outline=False)
    pen.fill(_dots(rng, 12, (0, 1000), (0, 700), (8, 12)), (255, 246, 214), outline=False)
    _planet(pen, rng, rng.uniform(140, 200), rng.uniform(170, 270))
    pen.fill(oval(rng.uniform(860, 930), rng.uniform(360, 520), rng.uniform(30, 46)), (112, 190, 204))
    pen.fill(_ground((-60, 800), (250, 752), (700, 745), (1060, 806)), (150, 152, 164))
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
    pen.fill(_dots(rng, 18, (0, 1000), (0, 330), (4, 7)), (226, 228, 255), outline=False)
    moon = (rng.uniform(800, 890), rng.uniform(110, 170))
    pen.tint(oval(*moon, 118), (255, 244, 200), 0.16)
    pen.fill(oval(*moon, 76), (255, 244, 200))
    _skyline(pen, rng, (62, 60, 124), (-30.0, 1030.0), (380, 560), lit=0.2)
    _skyline(pen, rng, (28, 30, 74), (-40.0, 300.0), (270, 480), lit=0.6)
    _skyline(pen, rng, (28, 30, 74), (700.0, 1040.0), (360, 520), lit=0.6)
    pen.fill(box(-20, 800, 1020, 1020), (58, 56, 84), outline=False)
    pen.fill(box(-20, 800, 1020, 822), (128, 122, 152), outline=False)
    pen.fill(
        _together(box(x, 952, x + 110, 970) for x in range(-40, 1000, 220)), (240, 214, 130), outline=False
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


def _forest(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(176, 214, 138), (212, 234, 170), (150, 200, 120)])
    _trunks(pen, rng, (130, 176, 112), range(60, 1000, 110), 26)
    pen.fill(_rolling(rng, 690, 24), (112, 168, 92), outline=False)
    _trunks(pen, rng, (98, 112, 74), (180, 310, 705, 830), 46)
    pen.fill(_rolling(rng, 765, 20), (74, 136, 70), outline=False)
    for x in (36.0, 950.0):
        _oak(pen, rng, x + rng.uniform(-20, 20))
    canopy = _together(
        oval(x, rng.uniform(-30, 10) + abs(x - 500) * 0.1, 130, rng.uniform(80, 120))
        for x in range(0, 1001, 125)
    )
    pen.fill(canopy, (40, 104, 58), outline=False)
    pen.fill(_rolling(rng, 850, 16), (56, 116, 56), outline=False)
    for x in (rng.uniform(90, 200), rng.uniform(800, 910)):
        _mushroom(pen, x, rng.uniform(900, 940))


def _trunks(pen: Pen, rng: random.Random, colour: Colour, places: Iterable[float], width: float) -> None:
    """A layer of bare trunks from beyond the top edge to the ground."""
    trunks = (
        polygon((x - width / 2, -20), (x + width / 2, -20), (x + width * 0.7, 820), (x - width * 0.7, 820))
        for x in (place + rng.uniform(-25, 25) for place in places)
    )
    pen.fill(_together(trunks), colour, outline=False)


def _oak(pen: Pen, rng: random.Random, x: float) -> None:
    """A near trunk with spreading roots."""
    trunk = smooth(
        (x - 62, -60),
        (x + 62, -60),
        (x + 58, 600),
        (x + 130, 890),
        (x, 870),
        (x - 130, 890),
        (x - 58, 600),
        tension=0.6,
    )
    pen.fill(trunk, BARK)
    for knot in (330, 480, 620):
        y = knot + rng.uniform(-40, 40)
        pen.line(smooth((x - 24, y), (x - 14, y + 40), (x - 20, y + 90), closed=False), darker(BARK, 0.35), 8)


def _mushroom(pen: Pen, x: float, y: float) -> None:
    pen.fill(box(x - 16, y - 50, x + 16, y, 10), (246, 236, 214))
    cap = skia.Path()
    cap.moveTo(x - 52, y - 44)
    cap.cubicTo(x - 48, y - 118, x + 48, y - 118, x + 52, y - 44)
    cap.close()
    pen.fill(cap, (208, 52, 44))
    pen.fill(
        _together(oval(x + dx, y + dy, 9) for dx, dy in ((-24, -64), (4, -82), (26, -60))),
        WHITE,
        outline=False,
    )


def _desert(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(246, 132, 58), (252, 186, 98), (255, 226, 160)])
    pen.fill(oval(rng.uniform(170, 260), rng.uniform(200, 290), 104), (255, 240, 170), outline=False)
    with pen.moved(rng.uniform(-40, 40)):
        for left, right, top in ((620, 830, 520), (800, 1080, 460)):
            mesa = polygon((left, 720), (left + 40, top), (right - 40, top), (right, 720))
            pen.fill(mesa, (196, 92, 62), outline=False)
    pen.fill(_rolling(rng, 650, 46), (240, 172, 92), outline=False)
    pen.fill(_rolling(rng, 740, 46, 3), (228, 150, 72), outline=False)
    _cactus(pen, rng.uniform(850, 910), rng.uniform(840, 870), rng.uniform(0.95, 1.15))
    _cactus(pen, rng.uniform(60, 130), rng.uniform(770, 800), rng.uniform(0.55, 0.7))
    pen.fill(_rolling(rng, 850, 22, 3), (246, 190, 108), outline=False)


def _cactus(pen: Pen, x: float, foot: float, size: float) -> None:
    green = (48, 134, 80)
    for side, low, high in ((-1, 150, 270), (1, 200, 330)):
        bough = skia.Path()
        bough.moveTo(x, foot - low * size)
        bough.lineTo(x + side * 60 * size, foot - low * size)
        bough.quadTo(x + side * 92 * size, foot - low * size, x + side * 92 * size, foot - high * size)
        pen.limb(bough, green, 46 * size)
    trunk = polygon((x, foot + 20), (x, foot - 390 * size))
    pen.limb(trunk, green, 74 * size)
    pen.line(trunk, lighter(green, 0.25), 8 * size)
    pen.fill(oval(x, foot - 430 * size, 26 * size, 20 * size), (244, 96, 140), outline=False)


def _underwater(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(86, 214, 222), (22, 140, 184), (12, 78, 138)])
    for place in (140, 430, 720):
        x = place + rng.uniform(-60, 60)
        pen.tint(polygon((x, -10), (x + 110, -10), (x + 40, 900), (x - 190, 900)), WHITE, 0.13)
    pen.fill(_rolling(rng, 800, 30, 3), (30, 112, 150), outline=False)
    for x in (50.0, 120.0, 880.0, 955.0):
        _seaweed(
            pen, x + rng.uniform(-20, 20), rng.uniform(430, 620), rng.choice(((28, 150, 96), (60, 172, 84)))
        )
    pen.fill(_rolling(rng, 868, 18, 3), (216, 204, 154), outline=False)
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


def _meadow(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(84, 170, 240), (178, 222, 250), (224, 242, 252)])
    _clouds(pen, rng, WHITE)
    pen.fill(_rolling(rng, 610, 60), (146, 206, 108), outline=False)
    tree = rng.uniform(820, 920)
    pen.fill(box(tree - 14, 560, tree + 14, 680), BARK)
    pen.fill(oval(tree, 520, 78, 88), (62, 148, 70))
    pen.fill(_rolling(rng, 700, 40, 3), (112, 188, 82), outline=False)
    pen.fill(_rolling(rng, 800, 26, 3), (84, 166, 66), outline=False)
    for petals in ((255, 255, 255), (252, 209, 42), (240, 92, 120)):
        places = [(rng.uniform(20, 980), rng.uniform(835, 975)) for _ in range(6)]
        around = ((-13, 0), (13, 0), (0, -13), (0, 13))
        blooms = (oval(x + dx, y + dy, 13) for x, y in places for dx, dy in around)
        pen.fill(_together(blooms), petals, outline=False)
        heart = mix(petals, (240, 150, 20), 0.7)
        pen.fill(_together(oval(x, y, 10) for x, y in places), heart, outline=False)


BOOKS: tuple[Colour, ...] = (
    (178, 52, 50),
    (36, 96, 136),
    (60, 128, 84),
    (220, 164, 60),
    (120, 66, 120),
    (226, 210, 176),
)


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


SETTING_DRAWINGS: dict[str, Setting] = {
    "plain": _plain,
    "beach": _either_way(_beach),
    "snow": _either_way(_snow),
    "space": _either_way(_space),
    "city at night": _either_way(_city),
    "forest": _either_way(_forest),
    "desert": _either_way(_desert),
    "underwater": _either_way(_underwater),
    "meadow": _either_way(_meadow),
    "library": _either_way(_library),
}
