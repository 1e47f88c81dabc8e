"""Paints a scene: setting, then the figure from back to front, in the scene's style."""

from __future__ import annotations

import random

import numpy as np
import skia
from PIL import Image

from unclip.menagerie.drawing.activities import ACTIVITY_DRAWINGS
from unclip.menagerie.drawing.figure import ARM, HANGING, NECK, SHOULDERS, arm_path
from unclip.menagerie.drawing.garments import GARMENT_DRAWINGS
from unclip.menagerie.drawing.headwear import HEADWEAR_DRAWINGS
from unclip.menagerie.drawing.pen import PALETTE, UNITS, Pen, oval
from unclip.menagerie.drawing.settings import SETTING_DRAWINGS
from unclip.menagerie.drawing.styles import PENS
from unclip.menagerie.drawing.subjects import SUBJECT_DRAWINGS
from unclip.menagerie.scene import Scene, rng_for


def draw(scene: Scene, size: int) -> Image.Image:
    """Render the scene as an RGB image of size × size pixels. Deterministic and anti-aliased."""
    style = PENS[scene.style]
    pixels = style.grid or size  # pixel art is drawn on its own small grid and enlarged
    surface = skia.Surface(pixels, pixels)
    canvas = surface.getCanvas()
    canvas.scale(pixels / UNITS, pixels / UNITS)
    pen = style.pen(canvas, rng_for("texture", scene.pose), pixels / UNITS)
    paint(scene, pen)
    array = surface.toarray(colorType=skia.kRGBA_8888_ColorType)
    array = np.ascontiguousarray(array[..., :3])
    image = Image.fromarray(style.develop(array) if style.develop else array)
    if image.width == size:
        return image
    return image.resize(
        (size, size), Image.Resampling.NEAREST if image.width < size else Image.Resampling.BOX
    )


def paint(scene: Scene, pen: Pen) -> None:
    """Puts the scene on the pen's canvas."""
    rng = rng_for("pose", scene.pose)
    SETTING_DRAWINGS[scene.setting](pen, rng, PALETTE[scene.setting_colour] if scene.setting_colour else None)
    pen.foreground()
    with pen.moved(
        rng.uniform(-28, 28),
        rng.uniform(-10, 24),
        scale=rng.uniform(0.92, 1.04),
        about=(500, 905),
        flip=rng.random() < 0.5,
    ):
        _figure(scene, pen, rng)
    pen.finish()


def _figure(scene: Scene, pen: Pen, rng: random.Random) -> None:
    subject = SUBJECT_DRAWINGS[scene.subject]
    garment = GARMENT_DRAWINGS[scene.garment] if scene.garment else None
    colour = PALETTE[scene.garment_colour] if scene.garment_colour else (0, 0, 0)
    activity = ACTIVITY_DRAWINGS[scene.activity] if scene.activity else None
    tilt = rng.uniform(-6, 6)

    pen.tint(oval(500, 905, 190, 26), (20, 14, 30), 0.22)
    if activity:
        activity.behind(pen)
    if garment:
        garment.behind(pen, colour)
    subject.body(pen)
    if garment:
        garment.front(pen, colour)
    if activity and not activity.over_hands:
        activity.front(pen)
    hands = activity.hands if activity else HANGING
    for shoulder, hand in zip(SHOULDERS, hands, strict=True):
        sleeve = colour if garment and garment.sleeves else subject.limb
        pen.limb(arm_path(shoulder, hand), sleeve, ARM)
        pen.fill(oval(*hand, 44), subject.paw)
    if activity and activity.over_hands:
        activity.front(pen)
    with pen.moved(angle=tilt, about=NECK):
        dx, dy, scale = subject.hat
        if scene.headwear:
            hat, hat_colour = HEADWEAR_DRAWINGS[scene.headwear], PALETTE[scene.headwear_colour or "red"]
            with pen.moved(dx, dy, scale=scale, about=(500, 262)):
                hat.behind(pen, hat_colour)
            subject.head(pen)
            with pen.moved(dx, dy, scale=scale, about=(500, 262)):
                hat.front(pen, hat_colour)
        else:
            subject.head(pen)
