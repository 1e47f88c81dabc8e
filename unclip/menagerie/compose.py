"""Caption fidelity: the share of attributes of held-out captions that the judge reads in pictures.

The judge errs too, so the same judge also reads renderings of the same scenes: that is the ceiling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from PIL import Image

from unclip.errors import RequestError
from unclip.evaluate.report import ALL_NAMED, COMPOSITION, Example, Report, Score
from unclip.menagerie.captions import caption
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import SIZE, Attributes, Judge, load_judge
from unclip.menagerie.scene import VALUES, Scene, rng_for, sample
from unclip.stages.decoder import Decoder

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

# Captions and as many seeds → square pictures of 64 px or more.
Paint = Callable[[list[str], list[int]], list[Image.Image]]
Condition = Literal["both", "caption", "embedding"]

ALWAYS_NAMED = frozenset({"subject", "headwear", "headwear_colour", "setting", "setting_colour"})


@dataclass(frozen=True)
class HeldOutCaption:
    """A caption of a scene that training never shows, what it names, and the seed of its picture."""

    scene: Scene
    text: str
    named: frozenset[str]
    seed: int


def held_out_captions(count: int, seed: int) -> list[HeldOutCaption]:
    """The first `count` captions of the stream `seed`; number i does not depend on the count."""
    found = []
    for i in range(count):
        scene = sample(seed, i, held_out=True)
        rng = rng_for("compose", seed, i)
        said = caption(scene, rng, always=ALWAYS_NAMED)
        found.append(HeldOutCaption(scene, said.text, said.named, rng.getrandbits(31)))
    return found


def compose(paint: Paint, judge: Judge, *, count: int, seed: int, batch: int = 32, model: str = "") -> Report:
    """Paints `count` held-out captions and reports what the pictures show of them.

    Args:
        batch: how many captions `paint` gets at a time.
        model: its name, for the report.
    """
    if count < 1 or batch < 1:
        raise RequestError(
            f"compose needs at least one caption and a batch of at least one, not {count} and {batch}"
        )
    asked = held_out_captions(count, seed)
    pictures: list[Image.Image] = []
    painted: list[Attributes] = []
    rendered: list[Attributes] = []
    for start in range(0, count, batch):
        part = asked[start : start + batch]
        made = paint([one.text for one in part], [one.seed for one in part])
        if len(made) != len(part):
            raise RequestError(f"the painter made {len(made)} pictures of {len(part)} captions")
        painted += judge.read(made)
        rendered += judge.read([draw(one.scene, SIZE) for one in part])
        pictures += made
    return Report(
        model=model,
        count=count,
        seed=seed,
        scores=_scores(asked, painted),
        ceiling=_scores(asked, rendered),
        chance=_chance(asked, painted),
        pairs=_pairs(asked, painted),
        examples=tuple(_example(one, reading) for one, reading in zip(asked, painted, strict=True)),
        pictures=tuple(pictures),
    )


def pipeline_painter(pipeline: Pipeline, condition: Condition = "both") -> Paint:
    """Paints with a model, at the size its decoder makes: that is where a composition succeeds or fails.

    Args:
        condition: what the decoder is given: the prior's z_i and the caption, or one of the two.
    """
    size = pipeline.sizes[0]

    def paint(captions: list[str], seeds: list[int]) -> list[Image.Image]:
        if condition == "both":
            return pipeline.generate(captions, seeds=seeds, size=size, watermark=False).images
        if condition == "caption":
            nothing = cast(Decoder, pipeline.decoder).null_embed.detach().float().expand(len(captions), -1)
            return pipeline.decode(nothing, captions, seed=seeds, size=size, watermark=False).images
        z_i = pipeline.sample_prior(captions, seed=seeds)
        return pipeline.decode(z_i, seed=seeds, size=size, watermark=False).images

    return paint


def _scores(asked: Sequence[HeldOutCaption], readings: Sequence[Attributes]) -> dict[str, Score]:
    """One score per attribute over the captions that name it, then those of several attributes at once."""
    pairs = list(zip(asked, readings, strict=True))
    scores = {}
    for key in VALUES:
        naming = [(one, reading) for one, reading in pairs if key in one.named]
        scores[key] = Score(sum(key not in _missed(one, reading) for one, reading in naming), len(naming))
    scores[COMPOSITION] = Score(
        sum(not _missed(one, r) & {"subject", "headwear"} for one, r in pairs), len(pairs)
    )
    scores[ALL_NAMED] = Score(sum(not _missed(one, r) for one, r in pairs), len(pairs))
    return scores


def _chance(asked: Sequence[HeldOutCaption], readings: Sequence[Attributes]) -> dict[str, float]:
    """Expected shares of `_scores` if the pictures were assigned to the captions at random."""
    counts: dict[tuple[str, ...], Counter[tuple[str | None, ...]]] = {}

    def share(one: HeldOutCaption, *keys: str) -> float:
        if keys not in counts:
            counts[keys] = Counter(tuple(reading[key] for key in keys) for reading in readings)
        truth = one.scene.attributes()
        return counts[keys][tuple(truth[key] for key in keys)] / len(readings)

    shares = {key: [share(one, key) for one in asked if key in one.named] for key in VALUES}
    shares[COMPOSITION] = [share(one, "subject", "headwear") for one in asked]
    shares[ALL_NAMED] = [share(one, *sorted(one.named)) for one in asked]
    return {name: sum(found) / len(found) for name, found in shares.items() if found}


def _pairs(asked: Sequence[HeldOutCaption], readings: Sequence[Attributes]) -> dict[str, Score]:
    """Subject and headwear both right, by held-out pair; the worst pair first."""
    right: dict[str, list[bool]] = {}
    for one, reading in zip(asked, readings, strict=True):
        name = f"{one.scene.subject} + {one.scene.headwear}"
        right.setdefault(name, []).append(not _missed(one, reading) & {"subject", "headwear"})
    scores = {name: Score(sum(found), len(found)) for name, found in right.items()}
    return dict(sorted(scores.items(), key=lambda item: (item[1].rate or 0.0, item[0])))


def _missed(one: HeldOutCaption, reading: Attributes) -> set[str]:
    truth = one.scene.attributes()
    return {key for key in one.named if reading[key] != truth[key]}


def _example(one: HeldOutCaption, reading: Attributes) -> Example:
    truth, missed = one.scene.attributes(), _missed(one, reading)
    wrong = {key: (truth[key] or "none", reading[key] or "none") for key in VALUES if key in missed}
    return Example(one.text, one.seed, wrong)


def evaluate_compose(
    pipeline: Pipeline, count: int = 512, seed: int = 0, batch: int = 32, condition: Condition = "both"
) -> Report:
    """Measure how often a model's pictures show what captions of held-out compositions ask for.

    Args:
        count: held-out captions, one picture each.
        seed: seed of the captions and the pictures. The same call on the same model gives the same report.
        batch: pictures sampled together. Changes the time, not the pictures.
        condition: what the decoder is given: the prior's z_i and the caption, or one of the two.
    """
    return compose(
        pipeline_painter(pipeline, condition),
        load_judge(),
        count=count,
        seed=seed,
        batch=batch,
        model=pipeline.name,
    )
