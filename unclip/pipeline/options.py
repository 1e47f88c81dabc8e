"""Sampling options shared by all verbs of a pipeline, and checks of prompts and seeds."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.diffusion.samplers import Step

MAX_SEED = 2**63 - 1

OnStep = Callable[[str, int, int, "Step"], None]
StageChanges = Mapping[str, Mapping[str, Any]]
Seed = int | Sequence[int] | None


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling options of a pipeline's verbs.

    Every verb takes these as keywords, or as one object: `pipe.vary(image, seed=3, size=256)` is
    `pipe.vary(image, options=SamplingOptions(seed=3, size=256))`. Keywords override the object's fields. A
    verb ignores fields of the object that it does not use, and refuses them as keywords.

    Attributes:
        seed: seed of the first image of each prompt or picture; the following images use seed + 1, seed + 2,
            …. Or a list with one seed per image, which can also be given as `seeds`. Default: random.
        size: size of the images in pixels: the side of a square, (width, height), or "1024x768". Default: the
            model's largest square; for an edit, the smallest size of the picture's shape that holds it.
        preset: steps and samplers of all stages: "fast", "balanced" (the model's own), "paper" (DALL·E 2's) or
            "undistilled" (those of the decoder from which the model's own was distilled).
        stages: changes to the preset, fields of `SamplingConfig` by stage: {"prior": {"steps": 10},
            "decoder": {…}}. As a keyword this is `options`.
        negative: negative prompt, which guidance leads away from. Default: none.
        keep_stages: whether to return the images of the earlier stages, too.
        watermark: whether to add the invisible watermark (docs/how-to/provenance.md). Kept pixels of an edit
            are never changed.
        on_step: called after every step with the stage, the step's number from 1, the number of steps and the
            step; may raise `Cancelled`.
    """

    seed: Seed = None
    size: int | str | tuple[int, int] | None = None
    preset: str = "balanced"
    stages: StageChanges = field(default_factory=dict)
    negative: str = ""
    keep_stages: bool = False
    watermark: bool = True
    on_step: OnStep | None = None

    def with_stage(self, stage: str, **changes: Any) -> SamplingOptions:
        """A copy with some sampling fields of one stage changed."""
        return replace(self, stages={**self.stages, stage: {**self.stages.get(stage, {}), **changes}})


class OptionKeywords(TypedDict, total=False):
    """The fields of `SamplingOptions` as keywords of a verb.

    `options` is a whole object or only its `stages`; `seeds` is another name for a list in `seed`.
    """

    options: SamplingOptions | StageChanges | None
    seed: Seed
    seeds: Sequence[int] | None
    size: int | str | tuple[int, int] | None
    preset: str
    negative: str
    keep_stages: bool
    watermark: bool
    on_step: OnStep | None


def collect(keywords: OptionKeywords, *, verb: str = "", unused: Sequence[str] = ()) -> SamplingOptions:
    """Build a verb's `SamplingOptions` from its keywords.

    Args:
        verb: name of the verb, for messages.
        unused: fields that the verb does not use and refuses as keywords.

    Raises:
        RequestError: an unused keyword, or both `seed` and `seeds`.
    """
    given: dict[str, Any] = dict(keywords)
    options, seeds = given.pop("options", None), given.pop("seeds", None)
    if seeds is not None:
        if given.get("seed") is not None:
            raise RequestError("seed and seeds: give one of them")
        given["seed"] = seeds
    for name in unused:
        if name in given:
            raise RequestError(f"{verb} has no use for {name}")
    if not isinstance(options, SamplingOptions):
        options = SamplingOptions(stages=options or {})
    return replace(options, **given)


def check_prompt(prompt: str) -> str:
    """The prompt, stripped; RequestError if it is empty or holds control characters."""
    stripped = prompt.strip()
    if not stripped:
        raise RequestError("the prompt is empty; say what the picture should show")
    for code in map(ord, stripped):
        if (code < 32 and chr(code) not in "\t\n\v\f\r") or code == 127 or 0xD800 <= code <= 0xDFFF:
            raise RequestError(f"the prompt holds the control character U+{code:04X}; leave it out")
    return stripped


def check_negative(negative: str) -> str:
    """The negative prompt, stripped; it may be empty."""
    return check_prompt(negative) if negative.strip() else ""


def check_thetas(theta: float | Sequence[float]) -> list[float]:
    """Strengths of a text diff as a list; RequestError if there is none, or one is not in [0, 1]."""
    thetas = [float(theta)] if isinstance(theta, int | float) else [float(one) for one in theta]
    if not thetas:
        raise RequestError("no theta: give at least one, between 0.25 and 0.5 for instance")
    for one in thetas:
        if not 0 <= one <= 1:
            raise RequestError(f"theta {one}: must be between 0 and 1")
    return thetas


def choose_seeds(num_images: int, seed: Seed = None, *, prompts: int = 1) -> list[int]:
    """One seed per image: the given list, or seed, seed + 1, … for each prompt from one (default: random)."""
    if num_images < 1 or prompts < 1:
        raise RequestError("nothing to generate: give a prompt, and a number of images of at least 1")
    if seed is None or isinstance(seed, int):
        first = secrets.randbelow(2**31) if seed is None else seed
        drawn = [first + i for _ in range(prompts) for i in range(num_images)]
    else:
        drawn = list(seed)
        if len(drawn) != prompts * num_images:
            raise RequestError(f"{len(drawn)} seeds for {prompts * num_images} images")
    if any(not 0 <= s <= MAX_SEED for s in drawn):
        raise RequestError(f"a seed must be between 0 and {MAX_SEED}")
    return drawn
