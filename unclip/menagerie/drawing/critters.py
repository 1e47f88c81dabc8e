"""Animals of farm, field and pond, and birds."""

from __future__ import annotations

from unclip.menagerie.drawing.anatomy import (
    HEAD,
    PINK,
    SHINE,
    TONGUE,
    WHITE,
    big_eyes,
    blush,
    both,
    eyes,
    feet,
    lines,
    mouth,
    nose,
    ovals,
    trunk,
)
from unclip.menagerie.drawing.curves import fluff, shape, shrunk, stroke, whole
from unclip.menagerie.drawing.figure import FEET, Subject
from unclip.menagerie.drawing.pen import Colour, Pen, darker, lighter, oval, points

# Farm, field and forest

RABBIT: Colour = (240, 226, 220)
PIG: Colour = (248, 170, 184)
SNOUT: Colour = (236, 128, 150)
MONKEY: Colour = (132, 80, 54)
PEACH: Colour = (250, 206, 164)
FROG: Colour = (112, 184, 72)


def _rabbit_body(pen: Pen) -> None:
    pen.fill(fluff(184, 806, 58, 56, 7, 0.24), WHITE)
    feet(pen, RABBIT, PINK)
    trunk(pen, RABBIT, WHITE)


def _rabbit_head(pen: Pen) -> None:
    # One ear stands, one lops; both lean far out, so that no hat hides them.
    upright = points("-62,262 -112,156 -186,72 -252,62 -280,120 -254,214 -172,306")
    lopped = points("60,262 118,168 214,112 300,140 342,240 340,370 306,398 262,340 230,262 172,306")
    pen.fill(shape(*upright), RABBIT)
    pen.fill(shape(*shrunk(upright, 0.62, (-172, 180))), PINK, outline=False)
    pen.fill(shape(*lopped), RABBIT)
    pen.fill(shape(*points("120,226 160,176 216,150 268,170 232,196 178,250")), PINK, outline=False)
    pen.fill(whole(*HEAD), RABBIT)
    ovals(pen, WHITE, 44, 500, 62, 48)
    pen.fill(oval(500, 540, 46, 28), WHITE, outline=False)
    eyes(pen, 100, 400, 30, (86, 40, 52))
    pen.fill(whole((0, 506), (17, 508), (15, 538), (0, 542)), SHINE, outline=False)
    pen.line(stroke((0, 510), (0, 536)), (206, 190, 190), 5)
    nose(pen, 464, 23, (238, 120, 140))
    mouth(pen, 496, 36, (120, 72, 78), philtrum=16)
    blush(pen, 152, 466, 0.5)


def _pig_body(pen: Pen) -> None:
    pen.limb(stroke(*points("110,826 200,836 268,792 254,746 216,758 226,806 286,812 318,766")), PIG, 26)
    feet(pen, SNOUT, toes=False)
    trunk(pen, PIG, lighter(PIG, 0.35))


def _pig_head(pen: Pen) -> None:
    pen.fill(whole(*HEAD), PIG)
    # The ears flop over the forehead's corners: drawn after the head.
    both(pen, PIG, *points("76,240 150,190 246,192 274,232 262,320 240,344 206,318 160,286"))
    both(pen, SNOUT, *points("150,250 186,222 234,226 246,250 242,300 210,282"), outline=False)
    eyes(pen, 104, 394, 26)
    pen.fill(oval(500, 464, 82, 58), SNOUT, outline=False)
    pen.fill(oval(500, 456, 74, 48), lighter(SNOUT, 0.16), outline=False)
    ovals(pen, (170, 66, 92), 28, 458, 13, 20)
    lines(pen, (150, 58, 80), 9, (0, 546), (24, 542), (42, 530))
    blush(pen, 150, 474, 0.6)


def _monkey_body(pen: Pen) -> None:
    pen.limb(stroke(*points("90,815 210,850 300,790 290,690 222,690 226,748")), MONKEY, 34)
    feet(pen, PEACH)
    trunk(pen, MONKEY, PEACH)


def _monkey_head(pen: Pen) -> None:
    ovals(pen, MONKEY, 224, 396, 78, 80, outline=True)
    ovals(pen, PEACH, 230, 398, 48, 52)
    pen.fill(whole(*points("0,214 98,226 174,286 204,382 196,474 134,549 0,577")), MONKEY)
    heart = points("0,330 62,294 138,320 156,396 138,440 164,496 110,556 0,576")
    pen.fill(whole(*heart), PEACH, outline=False)
    eyes(pen, 78, 392, 28)
    ovals(pen, (130, 70, 52), 13, 450, 6, 8)
    pen.fill(whole((0, 494), (56, 482), (60, 508), (0, 544)), (140, 48, 52), outline=False)
    pen.fill(oval(500, 530, 28, 12), TONGUE, outline=False)
    blush(pen, 118, 462, 0.5)


def _frog_body(pen: Pen) -> None:
    for x, y in FEET:
        dx = x - 500
        toes = (
            (dx - 74, y + 28),
            (dx - 50, y - 14),
            (dx, y - 34),
            (dx + 50, y - 14),
            (dx + 74, y + 28),
            (dx + 36, y + 20),
        )
        pen.fill(shape(*toes, (dx, y + 36), (dx - 36, y + 20)), FROG)
    trunk(pen, FROG, (228, 240, 176))


def _frog_head(pen: Pen) -> None:
    # The eyes bulge beside the hat's brim instead of under it.
    ovals(pen, FROG, 170, 314, 82, 84, outline=True)
    head = whole(*points("0,244 108,258 190,320 228,412 214,492 140,556 0,577"))
    pen.fill(head, FROG)
    with pen.within(head):
        pen.fill(oval(500, 590, 180, 84), (228, 240, 176), outline=False)
    ovals(pen, FROG, 168, 318, 74)
    ovals(pen, WHITE, 174, 322, 60)
    eyes(pen, 172, 328, 38)
    ovals(pen, darker(FROG, 0.45), 22, 412, 7, 9)
    pen.line(stroke(*points("-128,456 -104,478 0,500 104,478 128,456")), (44, 84, 42), 11)
    blush(pen, 164, 448, 0.6)


# Birds

OWL: Colour = (150, 106, 84)
DISC: Colour = (248, 226, 192)
PENGUIN: Colour = (46, 60, 92)
BEAK: Colour = (250, 156, 40)


def _claws(pen: Pen) -> None:
    for x, y in FEET:
        for dx in (-32, 0, 32):
            pen.fill(oval(x + dx, y + 6, 22, 30), BEAK)


def _owl_body(pen: Pen) -> None:
    pen.fill(whole((0, 780), (60, 830), (56, 896), (0, 908)), darker(OWL, 0.3))
    _claws(pen)
    trunk(pen, OWL, DISC)
    for row, y in enumerate((690, 734, 778)):
        for dx in (-52, 0, 52) if row % 2 else (-26, 26):
            pen.line(stroke((dx - 18, y), (dx, y + 16), (dx + 18, y)), (196, 148, 108), 9)


def _owl_head(pen: Pen) -> None:
    both(pen, darker(OWL, 0.25), *points("60,244 160,210 258,146 258,146 262,240 204,350"))
    pen.fill(whole(*points("0,216 110,234 190,296 218,390 202,474 128,548 0,577")), OWL)
    for dx, y in ((0, 250), (-46, 262), (46, 262), (0, 296)):
        pen.line(stroke((dx - 14, y), (dx, y + 13), (dx + 14, y)), darker(OWL, 0.3), 9)
    ovals(pen, DISC, 92, 408, 110, 116)
    big_eyes(pen, 94, 404, 72, (252, 184, 44), (42, 46))
    pen.fill(whole((0, 424), (30, 446), (22, 478), (0, 510)), BEAK, outline=False)
    blush(pen, 140, 508, 0.4)


def _penguin_body(pen: Pen) -> None:
    for x, y in FEET:
        dx = x - 500
        toes = (
            (dx - 70, y + 26),
            (dx - 44, y - 20),
            (dx, y - 34),
            (dx + 44, y - 20),
            (dx + 70, y + 26),
            (dx + 34, y + 22),
        )
        pen.fill(shape(*toes, (dx, y + 36), (dx - 34, y + 22)), BEAK)
    trunk(pen, PENGUIN)
    pen.fill(whole(*points("0,600 86,630 112,740 84,828 0,850")), WHITE, outline=False)


def _penguin_head(pen: Pen) -> None:
    head = whole(*HEAD)
    pen.fill(head, PENGUIN)
    with pen.within(head):
        ovals(pen, (255, 206, 84), 178, 474, 40, 66)
        pen.fill(whole(*points("0,356 52,312 128,322 164,396 150,478 96,536 0,556")), WHITE, outline=False)
    eyes(pen, 86, 406, 28)
    pen.fill(whole((0, 436), (44, 450), (46, 470), (0, 506)), BEAK, outline=False)
    pen.line(stroke((-42, 466), (0, 474), (42, 466)), darker(BEAK, 0.35), 7)
    blush(pen, 126, 468, 0.5)


CRITTERS: dict[str, Subject] = {
    "frog": Subject(FROG, lighter(FROG, 0.2), _frog_body, _frog_head, hat=(0, -16, 0.9)),
    "rabbit": Subject(RABBIT, WHITE, _rabbit_body, _rabbit_head),
    "pig": Subject(PIG, SNOUT, _pig_body, _pig_head),
    "owl": Subject(darker(OWL, 0.25), darker(OWL, 0.25), _owl_body, _owl_head),
    "penguin": Subject(PENGUIN, PENGUIN, _penguin_body, _penguin_head),
    "monkey": Subject(MONKEY, PEACH, _monkey_body, _monkey_head),
}
