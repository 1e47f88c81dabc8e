"""Ten kinds of headwear in any colour, drawn around the hat's seat at (500, 262) of the common skeleton.

The head is 280 units wide at the seat and 350 at y = 300, where the face begins. Headwear covers what is
above.
"""

from __future__ import annotations

from unclip.menagerie.drawing.pen import (
    Colour,
    Pen,
    box,
    lighter,
    luminance,
    mirror,
    oval,
    points,
    polygon,
    smooth,
    star,
)
from unclip.menagerie.drawing.tailoring import (
    WHITE,
    WHITISH,
    Clothing,
    curve,
    folds,
    piece,
    pompom,
    shade,
    trim,
    tuft_tone,
)


def _beret(pen: Pen, colour: Colour) -> None:
    pen.limb(curve((478, 150), (470, 122), (484, 96)), shade(colour), 24)
    band = smooth(*points("352,262 500,232 646,258 662,296 500,268 346,300"))
    piece(pen, band, shade(colour, 0.4))
    disc = smooth(
        *points("322,272 308,220 370,160 470,128 590,132 700,178 752,252 738,304 672,298 560,266 420,262")
    )
    piece(pen, disc, colour, shadow=(-14, -30))
    folds(pen, [curve((400, 190), (450, 164), (510, 158)), curve((600, 240), (660, 250), (706, 276))], colour)


def _top_hat(pen: Pen, colour: Colour) -> None:
    brim = smooth(*points("288,236 330,262 500,276 670,262 712,236 690,290 500,312 310,290"))
    crown = smooth(*points("384,46 500,34 616,46 602,150 614,270 500,288 386,270 398,150"))
    piece(pen, oval(500, 266, 200, 34), shade(colour, 0.2))
    piece(pen, crown, colour, shadow=(-40, 0))
    with pen.within(crown):
        pen.fill(
            smooth(*points("370,196 500,212 630,196 630,262 500,278 370,262")),
            shade(colour, 0.5),
            outline=False,
        )
        pen.fill(oval(500, 50, 130, 22), shade(colour, 0.25), outline=False)
    piece(pen, brim, colour, shadow=(0, -14))


def _crown(pen: Pen, colour: Colour) -> None:
    body = polygon(*points("352,292 322,128 416,200 500,92 584,200 678,128 648,292"))
    body.addPath(smooth(*points("352,284 500,292 648,284 644,300 500,310 356,300")))
    piece(pen, body, colour, shadow=(-26, 0))
    with pen.within(body):
        pen.fill(box(330, 248, 670, 262), trim(colour), outline=False)
    for x, y, radius in ((322, 122, 27), (500, 84, 32), (678, 122, 27)):
        pen.fill(oval(x, y, radius), trim(colour))
    for x in (412, 588):
        pen.fill(oval(x, 276, 13), shade(colour, 0.6), outline=False)
    pen.fill(
        polygon((500, 166), (526, 204), (500, 242), (474, 204)),
        lighter(colour, 0.7) if luminance(colour) < WHITISH else shade(colour),
    )


def _crown_behind(pen: Pen, colour: Colour) -> None:
    back = polygon(*points("344,280 352,200 412,142 470,214 530,214 588,142 648,200 656,280"))
    pen.fill(back, shade(colour, 0.42))
    for x in (412, 588):
        pen.fill(oval(x, 138, 18), shade(trim(colour), 0.25))


def _party_hat(pen: Pen, colour: Colour) -> None:
    cone = smooth(
        *points("384,274 440,160 493,48 507,48 560,160 616,274 560,296 500,302 440,296"), tension=0.35
    )
    piece(pen, cone, colour, shadow=(-30, 0))
    dots = WHITE if luminance(colour) < 0.78 else shade(colour, 0.4)
    with pen.within(cone):
        for x, y in ((500, 128), (458, 186), (540, 196), (412, 256), (496, 256), (584, 260)):
            pen.fill(oval(x, y, 19), dots, outline=False)
    pompom(pen, 500, 50, 38, tuft_tone(colour))


def _cap(pen: Pen, colour: Colour) -> None:
    peak = smooth(*points("530,254 640,232 740,246 812,296 790,318 700,296 600,292 520,300"))
    dome = smooth(*points("338,300 330,236 372,148 480,104 590,128 652,206 668,292 500,276"))
    piece(pen, peak, shade(colour, 0.14), shadow=(-6, -20))
    piece(pen, dome, colour, shadow=(22, -4))
    folds(pen, [curve((486, 106), (428, 180), (420, 280)), curve((486, 106), (566, 170), (596, 280))], colour)
    folds(pen, [curve((338, 276), (500, 250), (664, 268))], colour, 11)
    pen.fill(oval(484, 102, 22, 15), shade(colour))


def _cowboy_hat(pen: Pen, colour: Colour) -> None:
    crown = smooth(*points("372,286 380,180 402,88 446,70 500,98 554,70 598,88 620,180 628,286"))
    brim = smooth(
        *points(
            "272,150 262,178 300,262 390,308 500,318 610,308 700,262 738,178 728,150 690,212 "
            "620,252 500,264 380,252 310,212"
        )
    )
    piece(pen, crown, colour, shadow=(-30, 0))
    with pen.within(crown):
        pen.fill(
            smooth(*points("360,198 500,214 640,198 650,258 500,272 350,258")),
            shade(colour, 0.5),
            outline=False,
        )
        pen.fill(
            smooth(*points("500,92 526,108 514,160 500,176 486,160 474,108")),
            shade(colour, 0.3),
            outline=False,
        )
    piece(pen, brim, colour, shadow=(0, -18))


def _wizard_hat(pen: Pen, colour: Colour) -> None:
    cone = smooth(
        *points("366,268 420,170 458,84 520,34 604,34 664,82 660,112 604,100 572,116 590,180 634,268 500,290")
    )
    piece(pen, oval(500, 266, 216, 42), colour, shadow=(0, -18))
    piece(pen, cone, colour, shadow=(-24, 4))
    with pen.within(cone):
        pen.fill(
            smooth(*points("340,226 500,252 660,226 664,266 500,294 336,266")),
            shade(colour, 0.45),
            outline=False,
        )
    folds(pen, [curve((474, 100), (520, 118), (566, 112))], colour)
    for x, y, radius, angle in ((506, 182, 36, 8), (436, 212, 19, -14), (560, 66, 19, 20)):
        pen.fill(star(x, y, radius, radius * 0.45, angle=angle), trim(colour), outline=False)


def _beanie(pen: Pen, colour: Colour) -> None:
    dome = smooth(*points("334,276 342,196 410,124 500,104 590,124 658,196 666,276 500,270"))
    pompom(pen, 500, 84, 54, tuft_tone(colour))
    piece(pen, dome, colour, shadow=(-24, 6))
    folds(
        pen,
        (
            curve((500 + top, 124 + abs(top) * 0.35), (500 + 1.9 * top, 180), (500 + 2.3 * top, 250))
            for top in (-56, -28, 0, 28, 56)
        ),
        colour,
    )
    rim = smooth(*points("322,244 400,228 500,224 600,228 678,244 684,296 600,304 500,300 400,304 316,296"))
    piece(pen, rim, lighter(colour, 0.14), shadow=(0, -12))
    folds(pen, (curve((500 + x, 238), (500 + 1.02 * x, 290)) for x in range(-150, 151, 50)), colour, 12)


def _chef_hat(pen: Pen, colour: Colour) -> None:
    puff = smooth(
        *points(
            "392,226 326,196 300,130 346,78 404,74 446,34 512,22 566,44 604,76 662,84 702,136 "
            "674,198 608,226 500,236"
        )
    )
    piece(pen, puff, colour, shadow=(-20, -18))
    folds(pen, [curve((404, 78), (420, 90), (430, 112)), curve((600, 78), (586, 90), (576, 114))], colour)
    band = smooth(*points("376,190 500,204 624,190 632,286 500,304 368,286"), tension=0.3)
    piece(pen, band, lighter(colour, 0.1), shadow=(-24, 0))
    folds(pen, (curve((500 + x, 136), (500 + 0.8 * x, 190)) for x in (-96, 0, 96)), colour, 11)
    folds(pen, [curve((376, 192), (500, 206), (624, 192))], colour, 11)


def _headphones(pen: Pen, colour: Colour) -> None:
    # A closed shape, because a pen that fills the outline of a stroke may close it across the face.
    arch = smooth(
        *points(
            "264,360 282,276 362,204 500,178 638,204 718,276 736,360 692,360 676,292 610,240 "
            "500,222 390,240 324,292 308,360"
        )
    )
    piece(pen, arch, colour, shadow=(0, -8))
    folds(pen, [curve((396, 216), (500, 199), (604, 216))], colour, 14)
    cup = smooth(*points("300,296 318,330 320,396 306,462 270,478 226,452 210,388 226,322 264,292"))
    cushion = smooth(*points("300,300 334,320 344,388 334,446 302,470 290,388"))
    for side in (cushion, mirror(cushion)):
        piece(pen, side, shade(colour, 0.5))
    for side in (cup, mirror(cup)):
        piece(pen, side, colour, shadow=(-10, -14))
    for x in (258, 742):
        pen.fill(oval(x, 384, 22, 46), shade(colour), outline=False)


HEADWEAR_DRAWINGS: dict[str, Clothing] = {
    "beret": Clothing(_beret),
    "top hat": Clothing(_top_hat),
    "crown": Clothing(_crown, _crown_behind),
    "party hat": Clothing(_party_hat),
    "cap": Clothing(_cap),
    "cowboy hat": Clothing(_cowboy_hat),
    "wizard hat": Clothing(_wizard_hat),
    "beanie": Clothing(_beanie),
    "chef hat": Clothing(_chef_hat),
    "headphones": Clothing(_headphones),
}
