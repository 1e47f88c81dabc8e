"""Subjects that are no animals: the astronaut, the robot and the teddy bear."""

from __future__ import annotations

from unclip.menagerie.drawing.anatomy import HEAD, blush, eyes, feet, lines, nose, ovals, round_ears, trunk
from unclip.menagerie.drawing.curves import shape, stroke, whole
from unclip.menagerie.drawing.figure import FEET, Subject
from unclip.menagerie.drawing.pen import INK, PALETTE, Colour, Pen, box, darker, lighter, oval, points

# Astronaut

SUIT: Colour = (236, 240, 246)
GREY: Colour = (172, 182, 198)
TRIM: Colour = (238, 104, 50)
SKIN: Colour = (244, 196, 156)
HAIR: Colour = (92, 54, 40)


def _astronaut_body(pen: Pen) -> None:
    pen.fill(box(330, 590, 670, 810, 50), GREY)
    feet(pen, GREY, toes=False)
    for x, y in FEET:
        pen.fill(box(x - 58, y - 26, x + 58, y - 6, 10), TRIM, outline=False)
    trunk(pen, SUIT)
    pen.fill(box(432, 668, 568, 772, 18), GREY, outline=False)
    for x, name in ((462, "red"), (500, "yellow"), (538, "green")):
        pen.fill(oval(x, 698, 13), PALETTE[name], outline=False)
    pen.fill(box(450, 726, 550, 752, 10), (60, 84, 128), outline=False)
    pen.line(stroke((-112, 812), (0, 832), (112, 812)), TRIM, 20)


def _astronaut_head(pen: Pen) -> None:
    ovals(pen, TRIM, 214, 404, 42, 62, outline=True)
    pen.fill(whole(*points("0,204 104,218 186,280 222,388 210,480 138,560 0,588")), SUIT)
    visor = whole(*points("0,274 100,284 160,330 174,412 152,492 92,530 0,540"))
    with pen.within(visor):
        pen.fill(visor, (58, 92, 150), outline=False)
        pen.fill(oval(500, 432, 134, 122), SKIN, outline=False)
        fringe = points(
            "-142,450 -120,396 -120,396 -40,380 40,346 40,346 72,384 122,400 122,400 142,450 "
            "180,330 0,240 -180,330"
        )
        pen.fill(shape(*fringe), HAIR, outline=False)
    eyes(pen, 62, 432, 22)
    lines(pen, (150, 70, 60), 9, (0, 500), (20, 498), (36, 486))
    blush(pen, 94, 474, 0.5)
    pen.tint(shape(*points("-150,430 -146,350 -92,298 -60,296 -118,360 -126,436")), (255, 255, 255), 0.55)
    pen.line(visor, GREY, 16)


# Robot

STEEL: Colour = (136, 190, 204)
SCREEN: Colour = (34, 44, 64)
GLOW: Colour = (112, 240, 232)
LAMP: Colour = (252, 190, 50)


def _robot_body(pen: Pen) -> None:
    for x, y in FEET:
        pen.fill(box(x - 60, y - 36, x + 60, y + 34, 20), darker(STEEL, 0.4))
    trunk(pen, STEEL)
    pen.fill(box(420, 650, 580, 790, 22), lighter(STEEL, 0.5), outline=False)
    pen.fill(oval(462, 700, 26), SCREEN, outline=False)
    pen.line(stroke((-38, 700), (-24, 686)), GLOW, 8)
    for y, colour in ((682, PALETTE["red"]), (718, LAMP)):
        pen.fill(oval(544, y, 14), colour, outline=False)
    for x in (448, 474, 500, 526, 552):
        pen.line(stroke((x - 500, 752), (x - 500, 768)), darker(STEEL, 0.4), 9)
    for x in (392, 608):
        pen.fill(oval(x, 820, 9), darker(STEEL, 0.35), outline=False)


def _robot_head(pen: Pen) -> None:
    for x in (-1, 1):
        pen.line(stroke((x * 224, 350), (x * 262, 236)), darker(STEEL, 0.5), 15)
        pen.fill(oval(500 + x * 266, 220, 30), LAMP)
    pen.fill(box(262, 336, 738, 468, 36), darker(STEEL, 0.4))
    pen.fill(box(294, 218, 706, 576, 92), STEEL)
    pen.fill(box(322, 236, 678, 270, 17), lighter(STEEL, 0.45), outline=False)
    pen.fill(box(336, 308, 664, 540, 66), SCREEN, outline=False)
    for x in (422, 578):
        pen.fill(box(x - 31, 356, x + 31, 438, 30), GLOW, outline=False)
        pen.fill(oval(x + 10, 378, 11), (255, 255, 255), outline=False)
    pen.line(stroke(*points("-46,470 -26,494 0,502 26,494 46,470")), GLOW, 13)
    ovals(pen, (236, 116, 150), 116, 470, 20, 12)


# Teddy bear

HONEY: Colour = (240, 196, 120)
PLUSH: Colour = (255, 234, 194)
THREAD: Colour = (160, 100, 52)
PATCH: Colour = (92, 158, 222)
WOOL: Colour = (252, 246, 236)


def _teddy_body(pen: Pen) -> None:
    feet(pen, HONEY, PLUSH)
    trunk(pen, HONEY)
    for y in (640, 800):
        pen.line(stroke((-12, y), (12, y)), THREAD, 7)
    pen.line(stroke((0, 586), (0, 852)), THREAD, 5)
    heart = whole(*points("0,696 0,696 34,668 66,690 56,736 0,786 0,786"))
    pen.fill(heart, PALETTE["red"], outline=False)
    for dx, y in ((-72, 690), (72, 690), (-40, 764), (40, 764)):
        pen.line(stroke((dx * 0.72, y), (dx, y + 4)), THREAD, 7)


def _teddy_head(pen: Pen) -> None:
    round_ears(pen, HONEY, PLUSH, 174, 260, 74)
    pen.fill(whole(*HEAD), HONEY)
    _stitches(pen)
    with pen.moved(angle=10, about=(628, 336)):
        pen.fill(box(592, 300, 664, 366, 10), PATCH, outline=False)
        for x, y in ((592, 318), (592, 348), (664, 318), (664, 348)):
            pen.line(stroke((x - 509, y), (x - 491, y)), WOOL, 7)
        for x in (612, 644):
            for y in (300, 366):
                pen.line(stroke((x - 500, y - 9), (x - 500, y + 9)), WOOL, 7)
    pen.fill(oval(500, 494, 100, 74), PLUSH, outline=False)
    for x in (408, 592):
        _button(pen, x, 404)
    nose(pen, 462, 36, (110, 62, 44))
    for side in (-1, 1):
        pen.line(stroke((0, 486), (0, 514), (side * 20, 526), (side * 38, 518)), THREAD, 9)
    blush(pen, 152, 468, 0.5)


def _stitches(pen: Pen) -> None:
    pen.line(stroke((0, 218), (0, 420)), THREAD, 6)
    for y in (250, 300, 346, 390):
        pen.line(stroke((-13, y), (13, y)), THREAD, 6)


def _button(pen: Pen, x: float, y: float) -> None:
    pen.fill(oval(x, y, 34), INK, outline=False)
    pen.fill(oval(x, y, 25), (74, 62, 70), outline=False)
    for dx in (-8, 8):
        for dy in (-8, 8):
            pen.fill(oval(x + dx, y + dy, 4.5), (226, 206, 180), outline=False)
    pen.fill(oval(x + 13, y - 16, 8), (255, 255, 255), outline=False)


PEOPLE: dict[str, Subject] = {
    "astronaut": Subject(SUIT, TRIM, _astronaut_body, _astronaut_head),
    "robot": Subject(darker(STEEL, 0.18), darker(STEEL, 0.4), _robot_body, _robot_head),
    "teddy bear": Subject(HONEY, PLUSH, _teddy_body, _teddy_head),
}
