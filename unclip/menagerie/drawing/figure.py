"""The skeleton that all subjects share, so that every hat fits every head and every garment every body.

Chibi proportions, seen from the front: the head is half the figure, so that hats and faces are legible at 64
px.

    head     about the oval at (500, 395), radii 205 × 180; chin at y = 575
    hat      brim's centre at (500, 262), where the head is about 300 wide; tall hats may reach y = 20
    torso    pear: neck (500, 560), shoulders x 392…608 at y = 620, hips x 365…635 at y = 800, bottom y = 850
    arms     from the shoulders (405, 640) and (595, 640) to the hands, 74 thick
    feet     ovals at (435, 872) and (565, 872), 62 × 38; the ground is y = 905

`Subject.hat` moves the hat's seat for a subject with another head (a longer muzzle, a helmet).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import skia

from unclip.menagerie.drawing.pen import Colour, Pen, Point, points, smooth

NECK: Point = (500.0, 565.0)
SHOULDERS: tuple[Point, Point] = ((405.0, 640.0), (595.0, 640.0))
HANGING: tuple[Point, Point] = ((338.0, 765.0), (662.0, 765.0))
FEET: tuple[Point, Point] = ((435.0, 872.0), (565.0, 872.0))
ARM = 74.0


def torso() -> skia.Path:
    """The common torso, from neck to hips."""
    return smooth(*points("500,552 602,600 634,720 628,815 500,858 372,815 366,720 398,600"), tension=1.0)


def arm_path(shoulder: Point, hand: Point) -> skia.Path:
    """A gently bent arm, to be stroked ARM wide."""
    bend = 26 if shoulder[0] > 500 else -26
    elbow = ((shoulder[0] + hand[0]) / 2 + bend, (shoulder[1] + hand[1]) / 2 + 14)
    path = skia.Path()
    path.moveTo(*shoulder)
    path.quadTo(*elbow, *hand)
    return path


@dataclass(frozen=True)
class Subject:
    """How to draw one kind of creature, in canvas units.

    Attributes:
        limb: colour of arms and legs.
        paw: colour of hands and feet.
        body: draws the tail, feet and torso with belly.
        head: draws ears, head and face.
        hat: (dx, dy, scale) of the hat's seat relative to the skeleton's.
    """

    limb: Colour
    paw: Colour
    body: Callable[[Pen], None]
    head: Callable[[Pen], None]
    hat: tuple[float, float, float] = (0.0, 0.0, 1.0)
