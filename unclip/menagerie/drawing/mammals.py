"""Dogs, foxes, cats and bears.

Colours, ears and cheeks identify a face, because neither headwear nor garments hide them.
"""

from __future__ import annotations

from unclip.menagerie.drawing.anatomy import (
    COAL,
    CREAM,
    HEAD,
    PINK,
    TONGUE,
    WHITE,
    bib,
    big_eyes,
    blush,
    body_shape,
    both,
    eyes,
    feet,
    lines,
    mouth,
    nose,
    open_mouth,
    ovals,
    pointed_ears,
    round_ears,
    trunk,
    whiskers,
)
from unclip.menagerie.drawing.curves import fluff, shape, stroke, whole
from unclip.menagerie.drawing.figure import Subject
from unclip.menagerie.drawing.pen import INK, Colour, Pen, Point, darker, lighter, oval, points

# Dogs and foxes

SHIBA: Colour = (222, 160, 96)
CORGI: Colour = (238, 142, 50)
FOX: Colour = (219, 78, 34)
SOCK: Colour = (66, 44, 46)
RUFF: Colour = (255, 242, 228)


def _shiba_body(pen: Pen) -> None:
    pen.fill(shape(*points("60,830 170,826 214,806 300,786 328,704 276,628 194,640 160,700 120,760")), SHIBA)
    pen.line(stroke(*points("196,792 262,774 288,712 258,668 216,680 208,720 238,736")), CREAM, 24)
    feet(pen, CREAM)
    trunk(pen, SHIBA)
    bib(pen, CREAM)


def _shiba_head(pen: Pen) -> None:
    pointed_ears(pen, SHIBA, (250, 214, 186), (76, 250), (236, 156), (202, 346), blunt=0.14)
    head = whole(*points("0,216 100,228 176,296 210,388 224,474 146,552 0,578"))
    pen.fill(head, SHIBA)
    with pen.within(head):
        ovals(pen, CREAM, 148, 500, 104, 86)
        pen.fill(whole(*points("0,408 48,428 92,490 80,590 0,600")), CREAM, outline=False)
        both(pen, CREAM, *points("54,346 74,324 106,328 108,348 80,358"), outline=False)
    eyes(pen, 96, 408, 28)
    open_mouth(pen, 496, 25, 40)
    nose(pen, 458, 33)
    mouth(pen, 494, 40)
    blush(pen, 158, 474)


def _corgi_body(pen: Pen) -> None:
    feet(pen, WHITE)
    trunk(pen, CORGI)
    bib(pen, WHITE)


def _corgi_head(pen: Pen) -> None:
    pointed_ears(pen, CORGI, (252, 190, 170), (44, 262), (272, 70), (212, 352), blunt=0.16)
    head = whole(*points("0,218 94,232 166,296 206,386 216,474 134,552 0,580"))
    pen.fill(head, CORGI)
    with pen.within(head):
        blaze = whole(*points("0,190 48,210 40,320 52,396 122,446 150,520 90,590 0,600"))
        pen.fill(blaze, WHITE, outline=False)
    eyes(pen, 104, 398, 28)
    pen.fill(whole((0, 500), (26, 502), (27, 546), (0, 566)), TONGUE, outline=False)
    pen.line(stroke((0, 506), (0, 540)), darker(TONGUE, 0.2), 6)
    nose(pen, 456, 37)
    mouth(pen, 496, 46)
    blush(pen, 164, 466, 0.5)


def _fox_body(pen: Pen) -> None:
    tail: tuple[Point, ...] = points("70,830 190,846 290,778 318,670 268,560 206,650 170,740")
    pen.fill(shape(*tail), FOX)
    with pen.within(shape(*tail)):
        pen.fill(
            shape(
                *points(
                    "150,620 150,620 208,668 208,668 248,640 248,640 290,680 290,680 360,620 300,520 200,540"
                )
            ),
            RUFF,
            outline=False,
        )
    feet(pen, SOCK, toes=False)
    trunk(pen, FOX)
    bib(pen, RUFF)


def _fox_head(pen: Pen) -> None:
    pointed_ears(pen, FOX, WHITE, (58, 256), (236, 92), (206, 350), tip_colour=SOCK)
    ruff: tuple[Point, ...] = points("288,484 288,484 240,500 240,500 244,536 244,536 180,536 104,566")
    head = whole((0, 218), (108, 236), (182, 304), (216, 400), *ruff, (0, 590))
    pen.fill(head, FOX)
    with pen.within(head):
        both(pen, RUFF, *points("0,600 0,530 40,468 112,424 196,428 320,470 260,590"), outline=False)
    eyes(pen, 94, 406, 26)
    nose(pen, 504, 29)
    mouth(pen, 540, 28, philtrum=18)
    blush(pen, 152, 484)


# Cats

TUXEDO: Colour = (74, 70, 88)
LION: Colour = (250, 200, 98)
MANE: Colour = (172, 84, 34)


def _cat_body(pen: Pen) -> None:
    pen.limb(stroke(*points("90,820 220,828 268,740 236,650 286,584")), TUXEDO, 46)
    feet(pen, WHITE)
    trunk(pen, TUXEDO)
    bib(pen, WHITE)


def _cat_head(pen: Pen) -> None:
    pointed_ears(pen, TUXEDO, PINK, (60, 250), (232, 116), (206, 350))
    head = whole(*points("0,218 98,230 176,292 210,386 212,472 136,550 0,577"))
    pen.fill(head, TUXEDO)
    with pen.within(head):
        pen.fill(whole(*points("0,370 20,420 92,462 116,520 76,590 0,596")), WHITE, outline=False)
    big_eyes(pen, 100, 398, 46, (164, 212, 84), (17, 36))
    whiskers(pen, (206, 200, 212), 152, 482)
    nose(pen, 464, 24, (240, 130, 142))
    mouth(pen, 496, 38, philtrum=16)
    blush(pen, 72, 496, 0.35)


def _lion_body(pen: Pen) -> None:
    pen.limb(stroke((90, 820), (220, 836), (270, 760), (262, 670)), LION, 34)
    pen.fill(shape(*points("262,580 308,640 286,700 244,702 222,640")), MANE)
    feet(pen, LION)
    trunk(pen, LION, CREAM)


def _lion_head(pen: Pen) -> None:
    pen.fill(fluff(0, 376, 262, 220, 14, 0.14, 0.22), MANE)
    pen.fill(fluff(0, 386, 222, 192, 13, 0.1), lighter(MANE, 0.16), outline=False)
    round_ears(pen, LION, (226, 142, 84), 184, 262, 50)
    pen.fill(whole(*points("0,240 96,250 160,304 186,388 178,474 118,546 0,572")), LION)
    ovals(pen, CREAM, 38, 500, 58, 46)
    pen.fill(oval(500, 532, 44, 34), CREAM, outline=False)
    eyes(pen, 88, 398, 28)
    pen.fill(whole((0, 442), (38, 442), (38, 460), (0, 488)), (146, 66, 44), outline=False)
    mouth(pen, 506, 42)
    ovals(pen, (196, 140, 84), 62, 498, 5)
    blush(pen, 132, 462, 0.5)


# Bears and their like

BEAR: Colour = (118, 74, 48)
KOALA: Colour = (158, 166, 182)
RACCOON: Colour = (146, 146, 156)
MASK: Colour = (56, 52, 64)


def _panda_body(pen: Pen) -> None:
    feet(pen, COAL, (120, 112, 122))
    trunk(pen, WHITE)
    with pen.within(body_shape()):
        pen.fill(whole(*points("0,540 160,540 170,660 70,682 0,676")), COAL, outline=False)


def _panda_head(pen: Pen) -> None:
    round_ears(pen, COAL, (92, 86, 98), 174, 258, 76)
    pen.fill(whole(*HEAD), WHITE)
    both(pen, COAL, *points("52,384 88,350 130,362 160,412 146,460 104,466 62,432"), outline=False)
    ovals(pen, WHITE, 98, 402, 32, 36)
    eyes(pen, 97, 403, 25)
    nose(pen, 462, 30)
    mouth(pen, 498, 34)
    blush(pen, 164, 492)


def _bear_body(pen: Pen) -> None:
    feet(pen, BEAR, (206, 160, 116))
    trunk(pen, BEAR, (186, 136, 92))


def _bear_head(pen: Pen) -> None:
    round_ears(pen, BEAR, (196, 142, 100))
    pen.fill(whole(*HEAD), BEAR)
    pen.fill(oval(500, 490, 102, 78), (220, 178, 130), outline=False)
    eyes(pen, 96, 394, 27, (34, 24, 26))
    nose(pen, 454, 42, (44, 30, 32))
    mouth(pen, 500, 40)
    blush(pen, 152, 454, 0.55)


def _koala_body(pen: Pen) -> None:
    feet(pen, KOALA, (104, 108, 124))
    trunk(pen, KOALA, (238, 238, 242))


def _koala_head(pen: Pen) -> None:
    for side in (-1, 1):
        pen.fill(fluff(side * 216, 318, 100, 98, 8, 0.22), KOALA)
        pen.fill(fluff(side * 224, 326, 58, 58, 7, 0.24), (246, 226, 230), outline=False)
    pen.fill(whole(*points("0,222 100,234 176,296 206,390 196,482 124,552 0,577")), KOALA)
    pen.fill(oval(500, 540, 74, 34), (226, 228, 236), outline=False)
    eyes(pen, 102, 394, 25)
    pen.fill(whole(*points("0,372 36,388 48,446 36,492 0,502")), (58, 56, 68), outline=False)
    pen.fill(oval(488, 404, 12, 20), (136, 136, 150), outline=False)
    lines(pen, INK, 9, (0, 534), (24, 532), (44, 518))
    blush(pen, 138, 468)


def _raccoon_body(pen: Pen) -> None:
    tail = points("60,830 190,846 290,780 312,670 262,580 206,650 176,740")
    pen.fill(shape(*tail), RACCOON)
    with pen.within(shape(*tail)):
        for band in (
            ((150, 740), (240, 900)),
            ((170, 690), (330, 790)),
            ((180, 640), (340, 690)),
            ((200, 572), (320, 580)),
        ):
            pen.line(stroke(*band), MASK, 42)
    feet(pen, MASK, toes=False)
    trunk(pen, RACCOON, (222, 220, 224))


def _raccoon_head(pen: Pen) -> None:
    pointed_ears(pen, MASK, (232, 228, 232), (80, 250), (240, 156), (210, 344), blunt=0.26)
    ruff = (280, 480), (280, 480), (226, 500), (150, 552)
    head = whole((0, 218), (100, 230), (178, 300), (208, 384), *ruff, (0, 578))
    pen.fill(head, RACCOON)
    with pen.within(head):
        both(pen, WHITE, *points("20,392 60,330 140,318 216,380 200,420 80,400"), outline=False)
        pen.fill(whole(*points("0,424 60,444 160,500 110,590 0,596")), WHITE, outline=False)
        both(pen, MASK, *points("20,400 80,354 150,366 236,448 200,482 120,472 56,446"), outline=False)
        pen.fill(whole((0, 230), (30, 262), (22, 380), (0, 440)), darker(RACCOON, 0.45), outline=False)
    big_eyes(pen, 100, 410, 35, (190, 142, 92), (20, 25))
    nose(pen, 468, 32)
    mouth(pen, 504, 36)


MAMMALS: dict[str, Subject] = {
    "shiba inu": Subject(SHIBA, CREAM, _shiba_body, _shiba_head),
    "corgi": Subject(CORGI, WHITE, _corgi_body, _corgi_head),
    "cat": Subject(TUXEDO, WHITE, _cat_body, _cat_head),
    "panda": Subject(COAL, COAL, _panda_body, _panda_head),
    "fox": Subject(FOX, SOCK, _fox_body, _fox_head),
    "bear": Subject(BEAR, darker(BEAR, 0.15), _bear_body, _bear_head),
    "koala": Subject(KOALA, darker(KOALA, 0.12), _koala_body, _koala_head),
    "lion": Subject(LION, lighter(LION, 0.25), _lion_body, _lion_head),
    "raccoon": Subject(RACCOON, MASK, _raccoon_body, _raccoon_head),
}
