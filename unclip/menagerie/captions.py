"""Captions of scenes: templates with synonyms and varying order, for any subset of attributes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from unclip.menagerie.scene import VALUES, Scene
from unclip.vocabulary import prompt_words

# Synonyms of each value, the plainest first. A value that is missing here has only its own name.
WORDS: Final[dict[str, tuple[str, ...]]] = {
    "shiba inu": ("shiba inu", "shiba", "shiba inu dog"),
    "corgi": ("corgi", "corgi dog", "welsh corgi"),
    "cat": ("cat", "kitty", "kitten"),
    "panda": ("panda", "panda bear", "giant panda"),
    "rabbit": ("rabbit", "bunny", "bunny rabbit"),
    "bear": ("bear", "brown bear"),
    "pig": ("pig", "piglet"),
    "koala": ("koala", "koala bear"),
    "astronaut": ("astronaut", "spaceman"),
    "teddy bear": ("teddy bear", "teddy"),
    "raccoon": ("raccoon", "racoon"),
    "cap": ("cap", "baseball cap"),
    "party hat": ("party hat", "birthday hat"),
    "wizard hat": ("wizard hat", "wizard's hat"),
    "beanie": ("beanie", "bobble hat", "woolly hat"),
    "chef hat": ("chef hat", "chef's hat"),
    "headphones": ("headphones",),
    "turtleneck": ("turtleneck", "turtleneck sweater"),
    "bow tie": ("bow tie", "bowtie"),
    "purple": ("purple", "violet"),
    "playing a guitar": ("playing a guitar", "playing the guitar", "with a guitar"),
    "reading a book": ("reading a book", "reading", "with a book"),
    "eating an ice cream": ("eating an ice cream", "holding an ice cream", "with an ice cream"),
    "holding a balloon": ("holding a balloon", "with a balloon", "holding a red balloon"),
    "holding an umbrella": ("holding an umbrella", "with an umbrella", "under an umbrella"),
    "holding a flower": ("holding a flower", "with a flower"),
    "waving a magic wand": ("waving a magic wand", "with a magic wand", "holding a magic wand"),
    "riding a skateboard": ("riding a skateboard", "on a skateboard", "skateboarding"),
    "beach": ("on the beach", "at the beach", "by the sea"),
    "snow": ("in the snow", "in a snowy landscape", "in winter"),
    "space": ("in space", "in outer space", "on the moon"),
    "city at night": ("in the city at night", "in a city at night", "in front of a city at night"),
    "forest": ("in the forest", "in a forest", "in the woods"),
    "desert": ("in the desert", "in a desert"),
    "underwater": ("underwater", "under water", "under the sea"),
    "meadow": ("in a meadow", "in the meadow", "in a green field"),
    "library": ("in a library", "in the library", "in front of bookshelves"),
    "flat illustration": ("a flat illustration of", "an illustration of", "flat art of"),
    "pencil drawing": ("a pencil drawing of", "a pencil sketch of", "a coloured pencil drawing of"),
    "pixel art": ("pixel art of", "a pixel art picture of", "an 8-bit picture of"),
    "pop art": ("pop art of", "a pop art picture of", "a comic book picture of"),
    "watercolour": ("a watercolour of", "a watercolour painting of", "a watercolor of"),
}
_PLAIN: Final = ("on a {} background", "in front of a {} background", "on plain {}", "before a {} wall")
_STYLE_LAST: Final = {
    "flat illustration": ("flat illustration", "in a flat style"),
    "pencil drawing": ("pencil drawing", "in pencil"),
    "pixel art": ("pixel art", "in pixel art style"),
    "pop art": ("pop art", "in pop art style"),
    "watercolour": ("watercolour", "in watercolour"),
}
_OPENINGS: Final = ("", "", "", "a picture of ", "a photo of ", "an image of ", "a drawing of ")


@dataclass(frozen=True)
class Caption:
    """A sentence and the attributes that it names (keys of `scene.VALUES`)."""

    text: str
    named: frozenset[str]


def caption(
    scene: Scene, rng: random.Random, *, always: frozenset[str] = frozenset(), brief: bool = False
) -> Caption:
    """Sample a caption of the scene.

    Args:
        always: attributes that are always named if the scene has them. Others are named at random.
        brief: name one or two attributes only, all equally often ("someone in a red beret"). A CLIP cannot
            tell such captions apart by the subject and setting alone.
    """
    # In the scene's order: the order of a set changes between processes, and with it the random draws.
    has = [key for key, value in scene.attributes().items() if value is not None]
    if brief:
        named = {*rng.sample(has, rng.choice((1, 2))), *(key for key in has if key in always)}
    else:
        named = {key for key in has if key in always or rng.random() < _CHANCE[key]}
    for colour, thing in (
        ("headwear_colour", "headwear"),
        ("garment_colour", "garment"),
        ("setting_colour", "setting"),
    ):
        if colour in named:
            named.add(thing)
    if scene.setting == "plain" and "setting" in named:
        named.add("setting_colour")  # people do not say "on a plain background"
    return Caption(_sentence(scene, named, rng), frozenset(named))


_CHANCE: Final = {
    "subject": 0.96,
    "headwear": 0.85,
    "headwear_colour": 0.75,
    "garment": 0.75,
    "garment_colour": 0.75,
    "activity": 0.75,
    "setting": 0.75,
    "setting_colour": 0.75,
    "style": 0.5,
}


def _sentence(scene: Scene, named: set[str], rng: random.Random) -> str:
    subject = (
        _article(_say(scene.subject, rng)) if "subject" in named else rng.choice(("someone", "a character"))
    )
    worn = [
        _worn(value, colour if key + "_colour" in named else None, rng)
        for key, value, colour in (
            ("headwear", scene.headwear, scene.headwear_colour),
            ("garment", scene.garment, scene.garment_colour),
        )
        if key in named and value
    ]
    if rng.random() < 0.3:
        worn.reverse()
    parts = []
    if worn:
        parts.append(f"{rng.choice(('wearing', 'wearing', 'with', 'in'))} {' and '.join(worn)}")
    if "activity" in named and scene.activity:
        parts.append(_say(scene.activity, rng))
    if len(parts) == 2 and rng.random() < 0.3:
        parts.reverse()
    body = _joined(parts, rng)
    where = ""
    if "setting" in named:
        where = (
            rng.choice(_PLAIN).format(scene.setting_colour)
            if scene.setting == "plain"
            else _say(scene.setting, rng)
        )
    ahead = bool(where) and rng.random() < 0.12
    sentence = (
        f"{where}, {subject} {body}".strip() if ahead else " ".join(filter(None, (subject, body, where)))
    )
    if "style" not in named:
        return rng.choice(_OPENINGS) + sentence
    if rng.random() < 0.3:
        return f"{sentence}, {rng.choice(_STYLE_LAST[scene.style])}"
    return f"{_say(scene.style, rng)} {sentence}"


def _say(value: str, rng: random.Random) -> str:
    ways = WORDS.get(value, (value,))
    return ways[0] if rng.random() < 0.6 else rng.choice(ways)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _worn(thing: str, colour: str | None, rng: random.Random) -> str:
    words = f"{_say(colour, rng)} {_say(thing, rng)}" if colour else _say(thing, rng)
    return words if thing in ("headphones", "overalls") else _article(words)


def _joined(parts: list[str], rng: random.Random) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return rng.choice(("{} {}", "{}, {}", "{} and {}")).format(*parts)


def vocabulary() -> frozenset[str]:
    """Every word that a caption can contain."""
    sentences = [value for values in VALUES.values() for value in values]
    sentences += [way for ways in WORDS.values() for way in ways]
    sentences += [*_PLAIN, *_OPENINGS, *(way for ways in _STYLE_LAST.values() for way in ways)]
    sentences += ["a an and in with wearing someone character"]
    return frozenset(prompt_words(" ".join(sentences)))
