"""Outdoor settings: beach, snow, forest, desert and meadow."""

from __future__ import annotations

import random
from collections.abc import Iterable

import skia

from unclip.menagerie.drawing.pen import (
    PALETTE,
    Colour,
    Pen,
    box,
    darker,
    lighter,
    mix,
    oval,
    polygon,
    smooth,
)
from unclip.menagerie.drawing.scenery import (
    BARK,
    WHITE,
    Setting,
    cloud,
    clouds,
    ground,
    rolling_ground,
    scattered_dots,
    together,
)


def _beach(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(92, 190, 240), (196, 236, 250), (196, 236, 250)])
    pen.fill(oval(rng.uniform(770, 880), rng.uniform(120, 190), 82), (255, 222, 74))
    pen.fill(cloud(rng.uniform(560, 700), rng.uniform(290, 360), 0.9), WHITE, outline=False)
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
        pen.fill(ground((-60, y - 20), (250, y + 18), (600, y - 24), (1060, y + 16)), shade, outline=False)
    pen.fill(scattered_dots(rng, 16, (20, 980), (830, 990), (4, 8)), (222, 182, 112), outline=False)
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
    pen.fill(rolling_ground(rng, 560, 60), (206, 222, 238), outline=False)
    for x in (60.0, 190.0, 800.0, 930.0):
        _fir(pen, x + rng.uniform(-40, 40), rng.uniform(690, 730), rng.uniform(0.8, 1.2))
    pen.fill(rolling_ground(rng, 690, 34), (232, 241, 249), outline=False)
    _fir(pen, rng.uniform(20, 90), 850, rng.uniform(1.4, 1.65))
    pen.fill(rolling_ground(rng, 815, 24, 3), (250, 252, 255), outline=False)
    for radius, count in ((8, 22), (14, 14)):
        pen.fill(
            scattered_dots(rng, count, (0, 1000), (0, 860), (radius * 0.8, radius * 1.2)),
            WHITE,
            outline=False,
        )


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


def _forest(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(176, 214, 138), (212, 234, 170), (150, 200, 120)])
    _trunks(pen, rng, (130, 176, 112), range(60, 1000, 110), 26)
    pen.fill(rolling_ground(rng, 690, 24), (112, 168, 92), outline=False)
    _trunks(pen, rng, (98, 112, 74), (180, 310, 705, 830), 46)
    pen.fill(rolling_ground(rng, 765, 20), (74, 136, 70), outline=False)
    for x in (36.0, 950.0):
        _oak(pen, rng, x + rng.uniform(-20, 20))
    canopy = together(
        oval(x, rng.uniform(-30, 10) + abs(x - 500) * 0.1, 130, rng.uniform(80, 120))
        for x in range(0, 1001, 125)
    )
    pen.fill(canopy, (40, 104, 58), outline=False)
    pen.fill(rolling_ground(rng, 850, 16), (56, 116, 56), outline=False)
    for x in (rng.uniform(90, 200), rng.uniform(800, 910)):
        _mushroom(pen, x, rng.uniform(900, 940))


def _trunks(pen: Pen, rng: random.Random, colour: Colour, places: Iterable[float], width: float) -> None:
    """A layer of bare trunks from beyond the top edge to the ground."""
    trunks = (
        polygon((x - width / 2, -20), (x + width / 2, -20), (x + width * 0.7, 820), (x - width * 0.7, 820))
        for x in (place + rng.uniform(-25, 25) for place in places)
    )
    pen.fill(together(trunks), colour, outline=False)


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
        together(oval(x + dx, y + dy, 9) for dx, dy in ((-24, -64), (4, -82), (26, -60))),
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
    pen.fill(rolling_ground(rng, 650, 46), (240, 172, 92), outline=False)
    pen.fill(rolling_ground(rng, 740, 46, 3), (228, 150, 72), outline=False)
    _cactus(pen, rng.uniform(850, 910), rng.uniform(840, 870), rng.uniform(0.95, 1.15))
    _cactus(pen, rng.uniform(60, 130), rng.uniform(770, 800), rng.uniform(0.55, 0.7))
    pen.fill(rolling_ground(rng, 850, 22, 3), (246, 190, 108), outline=False)


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


def _meadow(pen: Pen, rng: random.Random, colour: Colour | None) -> None:
    pen.backdrop([(84, 170, 240), (178, 222, 250), (224, 242, 252)])
    clouds(pen, rng, WHITE)
    pen.fill(rolling_ground(rng, 610, 60), (146, 206, 108), outline=False)
    tree = rng.uniform(820, 920)
    pen.fill(box(tree - 14, 560, tree + 14, 680), BARK)
    pen.fill(oval(tree, 520, 78, 88), (62, 148, 70))
    pen.fill(rolling_ground(rng, 700, 40, 3), (112, 188, 82), outline=False)
    pen.fill(rolling_ground(rng, 800, 26, 3), (84, 166, 66), outline=False)
    for petals in ((255, 255, 255), (252, 209, 42), (240, 92, 120)):
        places = [(rng.uniform(20, 980), rng.uniform(835, 975)) for _ in range(6)]
        around = ((-13, 0), (13, 0), (0, -13), (0, 13))
        blooms = (oval(x + dx, y + dy, 13) for x, y in places for dx, dy in around)
        pen.fill(together(blooms), petals, outline=False)
        heart = mix(petals, (240, 150, 20), 0.7)
        pen.fill(together(oval(x, y, 10) for x, y in places), heart, outline=False)


LANDSCAPES: dict[str, Setting] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "desert": _desert,
    "meadow": _meadow,
}
