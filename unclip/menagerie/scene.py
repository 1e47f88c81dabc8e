"""Scenes of the menagerie: their attributes, how they are sampled, and which ones are held out.

A scene is pure data. `captions` describes it and `drawing` renders it, by the same names.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

SUBJECTS: Final = (
    "shiba inu",
    "corgi",
    "cat",
    "panda",
    "fox",
    "frog",
    "bear",
    "rabbit",
    "pig",
    "owl",
    "penguin",
    "koala",
    "lion",
    "raccoon",
    "monkey",
    "astronaut",
    "robot",
    "teddy bear",
)
HEADWEAR: Final = (
    "beret",
    "top hat",
    "crown",
    "party hat",
    "cap",
    "cowboy hat",
    "wizard hat",
    "beanie",
    "chef hat",
    "headphones",
)
GARMENTS: Final = ("turtleneck", "scarf", "bow tie", "cape", "overalls")
ACTIVITIES: Final = (
    "holding a balloon",
    "riding a skateboard",
    "playing a guitar",
    "reading a book",
    "eating an ice cream",
    "holding an umbrella",
    "holding a flower",
    "waving a magic wand",
)
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
SETTINGS: Final = (
    "plain",
    "beach",
    "snow",
    "space",
    "city at night",
    "forest",
    "desert",
    "underwater",
    "meadow",
    "library",
)
STYLES: Final = ("flat illustration", "pencil drawing", "pixel art", "pop art", "watercolour")

# (subject, headwear) of the compositions that no training image shows and no training caption names.
# Every sampler of training data checks `is_held_out`.
HELD_OUT: Final = frozenset(
    {
        ("shiba inu", "beret"),
        ("panda", "top hat"),
        ("cat", "wizard hat"),
        ("fox", "crown"),
        ("frog", "party hat"),
        ("owl", "beanie"),
        ("penguin", "cowboy hat"),
        ("robot", "chef hat"),
        ("astronaut", "cap"),
        ("teddy bear", "headphones"),
        ("rabbit", "beret"),
        ("lion", "top hat"),
    }
)


@dataclass(frozen=True)
class Scene:
    """The content of one image. `pose` seeds what captions never name (jitter, tilt, textures)."""

    subject: str
    headwear: str | None
    headwear_colour: str | None
    garment: str | None
    garment_colour: str | None
    activity: str | None
    setting: str
    setting_colour: str | None  # the colour of a plain background; None for every other setting
    style: str
    pose: int

    def vector(self) -> list[float]:
        """The attributes as one-hot vectors, one after the other, each with a last place for "none"."""
        return [
            float(value == own) for key, own in self.attributes().items() for value in (*VALUES[key], None)
        ]

    def attributes(self) -> dict[str, str | None]:
        """The attributes that captions can name, in the order of VALUES."""
        return {
            "subject": self.subject,
            "headwear": self.headwear,
            "headwear_colour": self.headwear_colour,
            "garment": self.garment,
            "garment_colour": self.garment_colour,
            "activity": self.activity,
            "setting": self.setting,
            "setting_colour": self.setting_colour,
            "style": self.style,
        }


VALUES: Final[dict[str, tuple[str, ...]]] = {
    "subject": SUBJECTS,
    "headwear": HEADWEAR,
    "headwear_colour": COLOURS,
    "garment": GARMENTS,
    "garment_colour": COLOURS,
    "activity": ACTIVITIES,
    "setting": SETTINGS,
    "setting_colour": COLOURS,
    "style": STYLES,
}

VECTOR_WIDTH: Final = sum(len(values) + 1 for values in VALUES.values())  # numbers of `Scene.vector`


def is_held_out(scene: Scene) -> bool:
    """Whether the scene is a composition that training never shows."""
    return (scene.subject, scene.headwear) in HELD_OUT


def rng_for(*key: int | str) -> random.Random:
    """A generator seeded by its key alone, not by Python's per-process string hashing."""
    return random.Random("/".join(map(str, key)))


def sample(seed: int, index: int, *, held_out: bool = False, siblings: int = 1) -> Scene:
    """Sample scene number `index` of the stream `seed`, from the training or the held-out compositions.

    Args:
        siblings: number of consecutive scenes that share subject, setting, style and most of the rest. They
            are hard negatives for contrastive training.
    """
    rng = rng_for("scene", seed, index, held_out)
    start = index - index % siblings
    first_scene = sample(seed, start, held_out=held_out) if index > start else None
    while True:
        scene = _draw(rng, pair=rng.choice(sorted(HELD_OUT)) if held_out else None)
        if first_scene is not None:
            scene = _sibling(scene, first_scene, rng, rng_for("siblings", seed, start, held_out))
        if is_held_out(scene) == held_out:
            return scene


def _sibling(scene: Scene, first_scene: Scene, rng: random.Random, family: random.Random) -> Scene:
    """Give the scene what its family shares: all but two attributes of clothing and activity."""
    rest = ("headwear", "headwear_colour", "garment", "garment_colour", "activity")
    shared = ("subject", "setting", "setting_colour", "style", *family.sample(rest, len(rest) - 2))
    scene = replace(scene, **{key: getattr(first_scene, key) for key in shared})
    # The first scene of the family may lack a garment, and then has no colour to share.
    headwear_colour = scene.headwear_colour or rng.choice(COLOURS)
    garment_colour = scene.garment_colour or rng.choice(COLOURS)
    return replace(
        scene,
        headwear_colour=headwear_colour if scene.headwear else None,
        garment_colour=garment_colour if scene.garment else None,
    )


def _draw(rng: random.Random, pair: tuple[str, str] | None) -> Scene:
    subject, headwear = pair or (rng.choice(SUBJECTS), rng.choice(HEADWEAR) if rng.random() < 0.88 else None)
    garment = rng.choice(GARMENTS) if rng.random() < 0.65 else None
    setting = "plain" if rng.random() < 0.3 else rng.choice(SETTINGS[1:])
    return Scene(
        subject=subject,
        headwear=headwear,
        headwear_colour=rng.choice(COLOURS) if headwear else None,
        garment=garment,
        garment_colour=rng.choice(COLOURS) if garment else None,
        activity=rng.choice(ACTIVITIES) if rng.random() < 0.55 else None,
        setting=setting,
        setting_colour=rng.choice(COLOURS) if setting == "plain" else None,
        style=rng.choice(STYLES),
        pose=rng.getrandbits(32),
    )
