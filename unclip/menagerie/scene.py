"""What a picture of the menagerie shows: its attributes, how they are drawn at random, and what is held out.

A scene is pure data. `captions.py` says it in words, `drawing.py` paints it; both read the same names.
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

# The compositions no training picture shows and no training caption names, as (subject, headwear).
# This is the only place that says so; every sampler of training data goes through `is_held_out`.
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
    """One picture's truth. `pose` seeds everything that is drawn but never named (jitter, tilt, textures)."""

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

    def attributes(self) -> dict[str, str | None]:
        """The named attributes, in the order in which a classifier reports them."""
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


def is_held_out(scene: Scene) -> bool:
    """Whether the scene is a composition that training never sees."""
    return (scene.subject, scene.headwear) in HELD_OUT


def rng_for(*key: int | str) -> random.Random:
    """A generator that depends on its key alone (not on Python's per-process string hashing)."""
    return random.Random("/".join(map(str, key)))


def sample(seed: int, index: int, *, held_out: bool = False, siblings: int = 1) -> Scene:
    """The scene number `index` of the stream `seed`: of the training world, or of the held-out one.

    Args:
        siblings: so many scenes in a row share subject, setting, style and most of the rest. Contrastive
            training needs such: what all have in common, nobody needs to look at to tell them apart.
    """
    rng = rng_for("scene", seed, index, held_out)
    first = index - index % siblings
    eldest = sample(seed, first, held_out=held_out) if index > first else None
    while True:
        scene = _draw(rng, pair=rng.choice(sorted(HELD_OUT)) if held_out else None)
        if eldest is not None:
            scene = _sibling(scene, eldest, rng, rng_for("siblings", seed, first, held_out))
        if is_held_out(scene) == held_out:
            return scene


def _sibling(scene: Scene, eldest: Scene, rng: random.Random, family: random.Random) -> Scene:
    """The scene with what its family shares: all but two of what a figure wears and does, the same two for
    all.
    """
    rest = ("headwear", "headwear_colour", "garment", "garment_colour", "activity")
    shared = ("subject", "setting", "setting_colour", "style", *family.sample(rest, len(rest) - 2))
    scene = replace(scene, **{key: getattr(eldest, key) for key in shared})
    headwear_colour = scene.headwear_colour or rng.choice(
        COLOURS
    )  # where the eldest wears none to have a colour
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
