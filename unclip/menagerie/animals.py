"""The fifteen animals. A face is told by its colours, ears and cheeks, which neither hats nor garments hide."""

from __future__ import annotations

from unclip.menagerie.anatomy import (
    HEAD,
    SHINE,
    TONGUE,
    bib,
    big_eyes,
    blush,
    body_shape,
    both,
    eyes,
    feet,
    fluff,
    lines,
    mouth,
    nose,
    open_mouth,
    ovals,
    pointed_ears,
    round_ears,
    shape,
    shrunk,
    stroke,
    trunk,
    whiskers,
    whole,
)  # fmt: skip
from unclip.menagerie.figure import FEET, Subject
from unclip.menagerie.pen import INK, Colour, Pen, Point, darker, lighter, oval

CREAM: Colour = (255, 243, 222)
WHITE: Colour = (252, 250, 246)
COAL: Colour = (52, 48, 58)
PINK: Colour = (246, 172, 176)


# --- dogs and foxes ----------------------------------------------------------------------------------------------

SHIBA: Colour = (222, 160, 96)
CORGI: Colour = (238, 142, 50)
FOX: Colour = (219, 78, 34)
SOCK: Colour = (66, 44, 46)
RUFF: Colour = (255, 242, 228)


def _shiba_body(pen: Pen) -> None:
    pen.fill(
        shape(
            (60, 830), (170, 826), (214, 806), (300, 786), (328, 704), (276, 628), (194, 640), (160, 700), (120, 760)
        ),
        SHIBA,
    )
    pen.line(stroke((196, 792), (262, 774), (288, 712), (258, 668), (216, 680), (208, 720), (238, 736)), CREAM, 24)
    feet(pen, CREAM)
    trunk(pen, SHIBA)
    bib(pen, CREAM)


def _shiba_head(pen: Pen) -> None:
    pointed_ears(pen, SHIBA, (250, 214, 186), (76, 250), (236, 156), (202, 346), blunt=0.14)
    head = whole((0, 216), (100, 228), (176, 296), (210, 388), (224, 474), (146, 552), (0, 578))
    pen.fill(head, SHIBA)
    with pen.within(head):
        ovals(pen, CREAM, 148, 500, 104, 86)
        pen.fill(whole((0, 408), (48, 428), (92, 490), (80, 590), (0, 600)), CREAM, outline=False)
        both(pen, CREAM, (54, 346), (74, 324), (106, 328), (108, 348), (80, 358), outline=False)
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
    head = whole((0, 218), (94, 232), (166, 296), (206, 386), (216, 474), (134, 552), (0, 580))
    pen.fill(head, CORGI)
    with pen.within(head):
        blaze = whole((0, 190), (48, 210), (40, 320), (52, 396), (122, 446), (150, 520), (90, 590), (0, 600))
        pen.fill(blaze, WHITE, outline=False)
    eyes(pen, 104, 398, 28)
    pen.fill(whole((0, 500), (26, 502), (27, 546), (0, 566)), TONGUE, outline=False)
    pen.line(stroke((0, 506), (0, 540)), darker(TONGUE, 0.2), 6)
    nose(pen, 456, 37)
    mouth(pen, 496, 46)
    blush(pen, 164, 466, 0.5)


def _fox_body(pen: Pen) -> None:
    tail: tuple[Point, ...] = ((70, 830), (190, 846), (290, 778), (318, 670), (268, 560), (206, 650), (170, 740))
    pen.fill(shape(*tail), FOX)
    with pen.within(shape(*tail)):
        pen.fill(
            shape(
                (150, 620),
                (150, 620),
                (208, 668),
                (208, 668),
                (248, 640),
                (248, 640),
                (290, 680),
                (290, 680),
                (360, 620),
                (300, 520),
                (200, 540),
            ),
            RUFF,
            outline=False,
        )
    feet(pen, SOCK, toes=False)
    trunk(pen, FOX)
    bib(pen, RUFF)


def _fox_head(pen: Pen) -> None:
    pointed_ears(pen, FOX, WHITE, (58, 256), (236, 92), (206, 350), tip_colour=SOCK)
    ruff: tuple[Point, ...] = (
        (288, 484),
        (288, 484),
        (240, 500),
        (240, 500),
        (244, 536),
        (244, 536),
        (180, 536),
        (104, 566),
    )
    head = whole((0, 218), (108, 236), (182, 304), (216, 400), *ruff, (0, 590))
    pen.fill(head, FOX)
    with pen.within(head):
        both(pen, RUFF, (0, 600), (0, 530), (40, 468), (112, 424), (196, 428), (320, 470), (260, 590), outline=False)
    eyes(pen, 94, 406, 26)
    nose(pen, 504, 29)
    mouth(pen, 540, 28, philtrum=18)
    blush(pen, 152, 484)


# --- cats --------------------------------------------------------------------------------------------------------

TUXEDO: Colour = (74, 70, 88)
LION: Colour = (250, 200, 98)
MANE: Colour = (172, 84, 34)


def _cat_body(pen: Pen) -> None:
    pen.limb(stroke((90, 820), (220, 828), (268, 740), (236, 650), (286, 584)), TUXEDO, 46)
    feet(pen, WHITE)
    trunk(pen, TUXEDO)
    bib(pen, WHITE)


def _cat_head(pen: Pen) -> None:
    pointed_ears(pen, TUXEDO, PINK, (60, 250), (232, 116), (206, 350))
    head = whole((0, 218), (98, 230), (176, 292), (210, 386), (212, 472), (136, 550), (0, 577))
    pen.fill(head, TUXEDO)
    with pen.within(head):
        pen.fill(whole((0, 370), (20, 420), (92, 462), (116, 520), (76, 590), (0, 596)), WHITE, outline=False)
    big_eyes(pen, 100, 398, 46, (164, 212, 84), (17, 36))
    whiskers(pen, (206, 200, 212), 152, 482)
    nose(pen, 464, 24, (240, 130, 142))
    mouth(pen, 496, 38, philtrum=16)
    blush(pen, 72, 496, 0.35)


def _lion_body(pen: Pen) -> None:
    pen.limb(stroke((90, 820), (220, 836), (270, 760), (262, 670)), LION, 34)
    pen.fill(shape((262, 580), (308, 640), (286, 700), (244, 702), (222, 640)), MANE)
    feet(pen, LION)
    trunk(pen, LION, CREAM)


def _lion_head(pen: Pen) -> None:
    pen.fill(fluff(0, 376, 262, 220, 14, 0.14, 0.22), MANE)
    pen.fill(fluff(0, 386, 222, 192, 13, 0.1), lighter(MANE, 0.16), outline=False)
    round_ears(pen, LION, (226, 142, 84), 184, 262, 50)
    pen.fill(whole((0, 240), (96, 250), (160, 304), (186, 388), (178, 474), (118, 546), (0, 572)), LION)
    ovals(pen, CREAM, 38, 500, 58, 46)
    pen.fill(oval(500, 532, 44, 34), CREAM, outline=False)
    eyes(pen, 88, 398, 28)
    pen.fill(whole((0, 442), (38, 442), (38, 460), (0, 488)), (146, 66, 44), outline=False)
    mouth(pen, 506, 42)
    ovals(pen, (196, 140, 84), 62, 498, 5)
    blush(pen, 132, 462, 0.5)


# --- bears and their like ----------------------------------------------------------------------------------------

BEAR: Colour = (118, 74, 48)
KOALA: Colour = (158, 166, 182)
RACCOON: Colour = (146, 146, 156)
MASK: Colour = (56, 52, 64)


def _panda_body(pen: Pen) -> None:
    feet(pen, COAL, (120, 112, 122))
    trunk(pen, WHITE)
    with pen.within(body_shape()):
        pen.fill(whole((0, 540), (160, 540), (170, 660), (70, 682), (0, 676)), COAL, outline=False)


def _panda_head(pen: Pen) -> None:
    round_ears(pen, COAL, (92, 86, 98), 174, 258, 76)
    pen.fill(whole(*HEAD), WHITE)
    both(pen, COAL, (52, 384), (88, 350), (130, 362), (160, 412), (146, 460), (104, 466), (62, 432), outline=False)
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
    pen.fill(whole((0, 222), (100, 234), (176, 296), (206, 390), (196, 482), (124, 552), (0, 577)), KOALA)
    pen.fill(oval(500, 540, 74, 34), (226, 228, 236), outline=False)
    eyes(pen, 102, 394, 25)
    pen.fill(whole((0, 372), (36, 388), (48, 446), (36, 492), (0, 502)), (58, 56, 68), outline=False)
    pen.fill(oval(488, 404, 12, 20), (136, 136, 150), outline=False)
    lines(pen, INK, 9, (0, 534), (24, 532), (44, 518))
    blush(pen, 138, 468)


def _raccoon_body(pen: Pen) -> None:
    tail = (60, 830), (190, 846), (290, 780), (312, 670), (262, 580), (206, 650), (176, 740)
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
        both(pen, WHITE, (20, 392), (60, 330), (140, 318), (216, 380), (200, 420), (80, 400), outline=False)
        pen.fill(whole((0, 424), (60, 444), (160, 500), (110, 590), (0, 596)), WHITE, outline=False)
        both(pen, MASK, (20, 400), (80, 354), (150, 366), (236, 448), (200, 482), (120, 472), (56, 446), outline=False)
        pen.fill(whole((0, 230), (30, 262), (22, 380), (0, 440)), darker(RACCOON, 0.45), outline=False)
    big_eyes(pen, 100, 410, 35, (190, 142, 92), (20, 25))
    nose(pen, 468, 32)
    mouth(pen, 504, 36)


# --- farm, field and forest --------------------------------------------------------------------------------------

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
    upright = (-62, 262), (-112, 156), (-186, 72), (-252, 62), (-280, 120), (-254, 214), (-172, 306)
    lopped = (
        (60, 262),
        (118, 168),
        (214, 112),
        (300, 140),
        (342, 240),
        (340, 370),
        (306, 398),
        (262, 340),
        (230, 262),
        (172, 306),
    )
    pen.fill(shape(*upright), RABBIT)
    pen.fill(shape(*shrunk(upright, 0.62, (-172, 180))), PINK, outline=False)
    pen.fill(shape(*lopped), RABBIT)
    pen.fill(shape((120, 226), (160, 176), (216, 150), (268, 170), (232, 196), (178, 250)), PINK, outline=False)
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
    pen.limb(
        stroke((110, 826), (200, 836), (268, 792), (254, 746), (216, 758), (226, 806), (286, 812), (318, 766)), PIG, 26
    )
    feet(pen, SNOUT, toes=False)
    trunk(pen, PIG, lighter(PIG, 0.35))


def _pig_head(pen: Pen) -> None:
    pen.fill(whole(*HEAD), PIG)
    # The ears flop over the forehead's corners: drawn after the head.
    both(pen, PIG, (76, 240), (150, 190), (246, 192), (274, 232), (262, 320), (240, 344), (206, 318), (160, 286))
    both(pen, SNOUT, (150, 250), (186, 222), (234, 226), (246, 250), (242, 300), (210, 282), outline=False)
    eyes(pen, 104, 394, 26)
    pen.fill(oval(500, 464, 82, 58), SNOUT, outline=False)
    pen.fill(oval(500, 456, 74, 48), lighter(SNOUT, 0.16), outline=False)
    ovals(pen, (170, 66, 92), 28, 458, 13, 20)
    lines(pen, (150, 58, 80), 9, (0, 546), (24, 542), (42, 530))
    blush(pen, 150, 474, 0.6)


def _monkey_body(pen: Pen) -> None:
    pen.limb(stroke((90, 815), (210, 850), (300, 790), (290, 690), (222, 690), (226, 748)), MONKEY, 34)
    feet(pen, PEACH)
    trunk(pen, MONKEY, PEACH)


def _monkey_head(pen: Pen) -> None:
    ovals(pen, MONKEY, 224, 396, 78, 80, outline=True)
    ovals(pen, PEACH, 230, 398, 48, 52)
    pen.fill(whole((0, 214), (98, 226), (174, 286), (204, 382), (196, 474), (134, 549), (0, 577)), MONKEY)
    heart = (0, 330), (62, 294), (138, 320), (156, 396), (138, 440), (164, 496), (110, 556), (0, 576)
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
    head = whole((0, 244), (108, 258), (190, 320), (228, 412), (214, 492), (140, 556), (0, 577))
    pen.fill(head, FROG)
    with pen.within(head):
        pen.fill(oval(500, 590, 180, 84), (228, 240, 176), outline=False)
    ovals(pen, FROG, 168, 318, 74)
    ovals(pen, WHITE, 174, 322, 60)
    eyes(pen, 172, 328, 38)
    ovals(pen, darker(FROG, 0.45), 22, 412, 7, 9)
    pen.line(stroke((-128, 456), (-104, 478), (0, 500), (104, 478), (128, 456)), (44, 84, 42), 11)
    blush(pen, 164, 448, 0.6)


# --- birds -------------------------------------------------------------------------------------------------------

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
    both(pen, darker(OWL, 0.25), (60, 244), (160, 210), (258, 146), (258, 146), (262, 240), (204, 350))
    pen.fill(whole((0, 216), (110, 234), (190, 296), (218, 390), (202, 474), (128, 548), (0, 577)), OWL)
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
    pen.fill(whole((0, 600), (86, 630), (112, 740), (84, 828), (0, 850)), WHITE, outline=False)


def _penguin_head(pen: Pen) -> None:
    head = whole(*HEAD)
    pen.fill(head, PENGUIN)
    with pen.within(head):
        ovals(pen, (255, 206, 84), 178, 474, 40, 66)
        pen.fill(
            whole((0, 356), (52, 312), (128, 322), (164, 396), (150, 478), (96, 536), (0, 556)), WHITE, outline=False
        )
    eyes(pen, 86, 406, 28)
    pen.fill(whole((0, 436), (44, 450), (46, 470), (0, 506)), BEAK, outline=False)
    pen.line(stroke((-42, 466), (0, 474), (42, 466)), darker(BEAK, 0.35), 7)
    blush(pen, 126, 468, 0.5)


ANIMALS: dict[str, Subject] = {
    "shiba inu": Subject(SHIBA, CREAM, _shiba_body, _shiba_head),
    "corgi": Subject(CORGI, WHITE, _corgi_body, _corgi_head),
    "cat": Subject(TUXEDO, WHITE, _cat_body, _cat_head),
    "panda": Subject(COAL, COAL, _panda_body, _panda_head),
    "fox": Subject(FOX, SOCK, _fox_body, _fox_head),
    "frog": Subject(FROG, lighter(FROG, 0.2), _frog_body, _frog_head, hat=(0, -16, 0.9)),
    "bear": Subject(BEAR, darker(BEAR, 0.15), _bear_body, _bear_head),
    "rabbit": Subject(RABBIT, WHITE, _rabbit_body, _rabbit_head),
    "pig": Subject(PIG, SNOUT, _pig_body, _pig_head),
    "owl": Subject(darker(OWL, 0.25), darker(OWL, 0.25), _owl_body, _owl_head),
    "penguin": Subject(PENGUIN, PENGUIN, _penguin_body, _penguin_head),
    "koala": Subject(KOALA, darker(KOALA, 0.12), _koala_body, _koala_head),
    "lion": Subject(LION, lighter(LION, 0.25), _lion_body, _lion_head),
    "raccoon": Subject(RACCOON, MASK, _raccoon_body, _raccoon_head),
    "monkey": Subject(MONKEY, PEACH, _monkey_body, _monkey_head),
}
