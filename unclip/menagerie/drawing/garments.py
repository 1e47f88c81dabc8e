"""Five garments for the common torso, in any colour.

The head (chin at y = 575) and the arms are drawn over them, so the features of a garment lie between the
arms, below the chin.
"""

from __future__ import annotations

from unclip.menagerie.drawing.figure import torso
from unclip.menagerie.drawing.pen import Colour, Pen, box, lighter, mirror, oval, points, polygon, smooth
from unclip.menagerie.drawing.tailoring import Clothing, curve, folds, piece, shade, trim


def _turtleneck(pen: Pen, colour: Colour) -> None:
    piece(pen, torso(), colour, shadow=(-22, 0))
    with pen.within(torso()):
        pen.fill(
            smooth(*points("350,800 500,822 650,800 650,880 350,880")), shade(colour, 0.2), outline=False
        )
        folds(pen, (curve((500 + x, 818), (500 + x, 862)) for x in range(-105, 106, 35)), colour)
        folds(pen, [curve((360, 798), (500, 822), (640, 798))], colour)
    collar = smooth(*points("440,548 560,548 572,600 566,650 500,664 434,650 428,600"), tension=0.6)
    piece(pen, collar, lighter(colour, 0.12), shadow=(0, -24))
    folds(pen, (curve((500 + x, 572), (500 + 1.04 * x, 632)) for x in (-48, -16, 16, 48)), colour, 10)


def _scarf(pen: Pen, colour: Colour) -> None:
    end = polygon((468, 630), (556, 622), (590, 792), (484, 806))
    folds(
        pen, (curve((492 + 23 * i, 796 - 3 * i), (498 + 24 * i, 832 - 3 * i)) for i in range(5)), colour, 13
    )
    piece(pen, end, colour, shadow=(-18, 0))
    with pen.within(end):
        for y in (716, 758):
            pen.fill(
                polygon((460, y + 6), (620, y - 14), (620, y + 6), (460, y + 26)),
                shade(colour, 0.36),
                outline=False,
            )
    wrap = smooth(*points("372,586 420,556 500,548 580,556 628,586 622,634 560,662 500,668 440,662 378,634"))
    piece(pen, wrap, colour, shadow=(0, -20))
    folds(
        pen,
        [curve((386, 606), (470, 634), (560, 630)), curve((430, 590), (520, 612), (612, 596))],
        colour,
        11,
    )


def _bow_tie(pen: Pen, colour: Colour) -> None:
    pen.limb(curve((410, 566), (500, 604), (590, 566)), shade(colour), 24)
    wing = smooth(*points("508,612 470,584 432,562 420,570 426,618 420,666 432,674 470,652"), tension=0.6)
    for side, shadow in ((wing, 10), (mirror(wing), -10)):
        piece(pen, side, colour, shadow=(shadow, -10))
    creases = (curve((472, 610), (450, 600)), curve((472, 626), (450, 636)))
    folds(pen, (*creases, *map(mirror, creases)), colour)
    piece(pen, box(478, 588, 522, 648, 18), lighter(colour, 0.16), shadow=(0, -14))


def _cape_behind(pen: Pen, colour: Colour) -> None:
    stand = smooth(
        *points("500,590 400,500 300,478 296,500 322,580 390,640"), tension=0.6
    )  # beside the cheeks
    for side in (stand, mirror(stand)):
        piece(pen, side, shade(colour, 0.16), shadow=(0, -12))
    cloth = smooth(
        *points(
            "400,574 600,574 672,650 720,780 748,878 690,892 630,874 565,894 500,876 435,894 "
            "370,874 310,892 252,878 280,780 328,650"
        )
    )
    piece(pen, cloth, colour, shadow=(0, -16))
    hanging = (curve((346, 700), (322, 790), (312, 880)), curve((392, 720), (376, 800), (370, 866)))
    folds(pen, (*hanging, *map(mirror, hanging)), colour, 12)


def _cape(pen: Pen, colour: Colour) -> None:
    lapel = smooth(*points("500,636 450,650 396,690 360,640 392,588 430,560 500,580"), tension=0.5)
    for side, shadow in ((lapel, 10), (mirror(lapel), -10)):
        piece(pen, side, colour, shadow=(shadow, -16))
    pen.fill(oval(500, 622, 28), trim(colour))
    pen.fill(oval(500, 622, 13), shade(colour), outline=False)


def _overalls(pen: Pen, colour: Colour) -> None:
    with pen.within(torso()):
        for x in (438, 562):
            piece(
                pen,
                polygon((x - 34, 550), (x + 14, 550), (x + 24, 700), (x - 24, 700)),
                colour,
                shadow=(-6, 0),
            )
        piece(
            pen,
            smooth(*points("340,768 420,744 500,744 580,744 660,768 660,880 340,880"), tension=0.3),
            colour,
            shadow=(-22, 0),
        )
        piece(pen, box(410, 660, 590, 790, 18), colour, shadow=(0, 0))
        pen.fill(box(404, 752, 596, 800), colour, outline=False)
        folds(pen, [curve((500, 812), (500, 870))], colour, 11)
    pocket = polygon(*points("448,712 552,712 552,768 500,796 448,768"))
    piece(pen, pocket, shade(colour, 0.2), shadow=(0, 0))
    for x in (438, 562):
        pen.fill(oval(x, 684, 17), trim(colour))


GARMENT_DRAWINGS: dict[str, Clothing] = {
    "turtleneck": Clothing(_turtleneck, sleeves=True),
    "scarf": Clothing(_scarf),
    "bow tie": Clothing(_bow_tie),
    "cape": Clothing(_cape, _cape_behind),
    "overalls": Clothing(_overalls),
}
