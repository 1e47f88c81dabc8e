"""The page's words: examples, what a model knows, settings and states as HTML. No Gradio in here."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from html import escape
from typing import Any, Final

from unclip.serve.progress import Progress
from unclip.vocabulary import prompt_words

EXAMPLES: Final = (
    "a shiba inu wearing a red beret",
    "a panda in space",
    "pixel art of a fox",
    "a robot reading a book",
)
# Parts of prompts to choose from; a model with a vocabulary is offered those that it knows.
IDEAS: Final = {
    "Who": "shiba inu, corgi, cat, panda, fox, frog, lion, penguin, rabbit, bear, pig, koala, monkey, owl, "
    "raccoon, robot, astronaut, teddy bear",
    "Wearing": "beret, crown, top hat, party hat, wizard hat, cowboy hat, chef hat, baseball cap, beanie, "
    "headphones, scarf, turtleneck, bow tie, cape, overalls",
    "Colours": "red, orange, yellow, green, blue, purple, pink, black, white, brown",
    "Doing": "playing a guitar, reading a book, eating an ice cream, holding a balloon, holding an umbrella, "
    "holding a flower, waving a magic wand, riding a skateboard",
    "Where": "on the beach, in the snow, in space, in the city at night, in the forest, in the desert, "
    "underwater, in a meadow, in the library",
    "Style": "flat illustration, pencil drawing, pixel art, pop art, watercolour",
}
VERBS: Final = {
    "generate": "Draw",
    "vary": "Vary",
    "edit": "Edit",
    "outpaint": "Extend",
    "interpolate": "Interpolate",
    "diff": "Text diff",
    "upsample": "Enlarge",
}
STAGES: Final = {"prior": "Prior", "decoder": "Decoder", "inversion": "Inversion of the picture"}


def known(phrase: str, vocabulary: Collection[str] | None) -> bool:
    """Whether a model with that vocabulary was trained on every word of the phrase."""
    return vocabulary is None or all(word in vocabulary for word in prompt_words(phrase))


def examples(vocabulary: Collection[str] | None) -> str:
    """Returns prompts to click on; empty if the model knows none of them."""
    chips = [_chip(text, "prompt") for text in EXAMPLES if known(text, vocabulary)]
    return f'<div class="chips"><span>Try</span>{"".join(chips)}</div>' if chips else ""


def ideas(vocabulary: Collection[str]) -> str:
    """Returns what a model with that vocabulary knows, by kind, to be added to the prompt by a click."""
    rows = []
    for kind, phrases in IDEAS.items():
        chips = [_chip(text, "add") for text in phrases.split(", ") if known(text, vocabulary)]
        if chips:
            rows.append(f'<div class="chips"><span>{kind}</span>{"".join(chips)}</div>')
    rows.append(
        f"<p>All {len(vocabulary)} words that this model was trained on: "
        f"{escape(', '.join(sorted(vocabulary)))}</p>"
    )
    return "".join(rows)


def _chip(text: str, action: str) -> str:
    return f'<button type="button" data-{action}="{escape(text)}">{escape(text)}</button>'


def vocabulary_script(vocabulary: Collection[str] | None) -> str:
    """Returns the script element that tells the page's script the vocabulary; null for an open one."""
    words = "null" if vocabulary is None else json.dumps(sorted(vocabulary)).replace("<", "\\u003c")
    return f"<script>window.unclipVocabulary = {words};</script>"


def describe(settings: Mapping[str, Any], place: str = "") -> str:
    """Returns a picture's settings as a line to read.

    Args:
        place: where the picture stands, as in "2 of 4".
    """
    verb = VERBS.get(str(settings.get("verb", "generate")), "Draw")
    words = [settings.get("prompt"), _way(settings, "from", "to"), _way(settings, "before", "after")]
    facts = [f"<b>{escape(str(text))}</b>" for text in words[:1] if text]
    facts += [text for text in words[1:] if text]
    if negative := settings.get("negative"):
        facts.append(f"without {escape(str(negative))}")
    facts.append(f'<span class="seed">seed {escape(str(settings.get("seed", "?")))}</span>')
    if size := settings.get("size"):
        facts.append(f"{escape(str(settings['to'] if verb == 'Extend' and 'to' in settings else size))} px")
    if "theta" in settings:
        facts.append(f"θ {_number(settings['theta'])}")
    stages = settings.get("stages")
    for role in ("prior", "decoder"):
        used = stages.get(role) if isinstance(stages, Mapping) and verb != "Enlarge" else None
        if isinstance(used, Mapping):
            facts.append(
                f"{role} {_number(used.get('steps'))} steps, guidance {_number(used.get('guidance'))}"
            )
    head = f'<span class="place">{escape(place)}</span>' if place else ""
    return f'<p class="line">{head}{verb}: {" · ".join(facts)}</p>'


def _way(settings: Mapping[str, Any], start: str, end: str) -> str:
    """Two ends of a way; an outpainting's `to` is a size."""
    if start not in settings or end not in settings:
        return ""
    return f"<b>{escape(str(settings[start] or '…'))}</b> → <b>{escape(str(settings[end]))}</b>"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else escape(str(value))


# --- states ---


def waiting(pictures: int) -> str:
    """Returns the status of a request that has just been sent."""
    others = f"Waiting for {pictures} pictures of other requests …"
    return f'<p class="busy">{others if pictures else "Drawing …"}</p>'


def bar(now: Progress | None) -> str:
    """Returns a progress bar with the time that is left; without `now` one that stands at the start."""
    if now is None:
        return '<p>Drawing …</p><div class="bar"><i style="width: 0"></i></div>'
    stage = STAGES.get(now.stage) or f"Upsampler to {now.stage.removeprefix('upsampler-')} pixels"
    if now.share is None or now.seconds_left is None:
        share, left = now.step / now.steps, ""
    else:
        share, left = now.share, f" · about {_duration(now.seconds_left)} left"
    value = f'aria-valuenow="{100 * share:.0f}" aria-valuemin="0" aria-valuemax="100"'
    return (
        f"<p>{escape(stage)}, step {now.step} of {now.steps}{left}</p>"
        f'<div class="bar" role="progressbar" aria-label="Progress" {value}>'
        f'<i style="width: {100 * share:.0f}%"></i></div>'
    )


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def done(pictures: int, seconds: float) -> str:
    """Returns the status after drawing."""
    return f"<p>Done: {pictures} picture{'s' * (pictures != 1)} in {_duration(seconds)}.</p>"


def error(message: str) -> str:
    """Returns the status of a request that was refused or failed."""
    return f'<div class="error" role="alert"><b>Error</b><p>{escape(_sentence(message))}</p></div>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def findings(verdict: str, marks: Mapping[str, str]) -> str:
    """Returns the marks of a verified picture as a list."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in marks.items())
    return f'<div class="findings"><b>{escape(_sentence(verdict))}</b><dl>{rows}</dl></div>'
