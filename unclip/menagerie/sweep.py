"""Quality against guidance, steps and sampler of one stage, as in Figures 9 to 11 of the paper (Ramesh et al.
2022).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from unclip.errors import RequestError
from unclip.evaluate import metrics
from unclip.evaluate.features import clip_extractor, encode_texts, features_of
from unclip.evaluate.metrics import Estimate
from unclip.evaluate.report import ALL_NAMED, Score
from unclip.images import grid
from unclip.menagerie.compose import compose, held_out_captions
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import load_judge
from unclip.menagerie.scene import VALUES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from unclip.pipeline import Pipeline

SHOWN = 10  # pictures of each point on the contact sheet
PLOTTED = ("cmmd", "clip", "named", "seconds")  # a row of the plot each


@dataclass(frozen=True)
class Point:
    """One way to sample, and what came of it.

    Attributes:
        sampler, steps, guidance: of the stage.
        figures: "cmmd" to renderings of the same scenes, "clip", the score with the captions, and "fid" where
            there are more pictures than features.
        named: attributes that are as the caption names them. whole: captions of which all are.
        seconds: of that stage, per picture.
    """

    sampler: str
    steps: int
    guidance: float
    figures: dict[str, Estimate]
    named: Score
    whole: Score
    seconds: float
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def values(self) -> dict[str, tuple[float, float, float]]:
        """Each figure with its 95 % interval, the shares in percent."""
        found = {"named": self.named, "whole": self.whole}
        shares = {key: (one.rate, *one.interval) for key, one in found.items()}
        return {
            **{
                key: (one.value, _or(one.low, one.value), _or(one.high, one.value))
                for key, one in self.figures.items()
            },
            **{
                key: (100 * (rate or 0.0), 100 * low, 100 * high) for key, (rate, low, high) in shares.items()
            },
            "seconds": (self.seconds, self.seconds, self.seconds),
        }


def sweep(
    pipeline: Pipeline,
    stage: str,
    *,
    samplers: Sequence[str] = (),
    steps: Sequence[int] = (),
    guidances: Sequence[float] = (),
    count: int = 64,
    seed: int = 0,
    batch: int = 32,
    resamples: int = 100,
    on_point: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Paints the same held-out captions with the same seeds in every combination of the given values.

    Args:
        stage: "prior", "decoder" or an upsampler, whose sampling changes; the pictures are as large as it
            makes them.
        samplers, steps, guidances: what to try; of what is not given the stage's own value alone.
        count: captions of never-trained compositions, one picture each. seed: theirs.
        resamples: of the bootstrap.
        on_point: called as each is done.

    Raises:
        RequestError: no such stage, or a value that it cannot have.
    """
    stages = {
        "prior": pipeline.prior,
        "decoder": pipeline.decoder,
        **{f"upsampler-{u.size}": u for u in pipeline.upsamplers},
    }
    swept = stages.get(stage)
    if swept is None:
        raise RequestError(
            f"no stage {stage!r}; {pipeline.name} has {', '.join(k for k, v in stages.items() if v)}"
        )
    own = swept.config.sampling
    ways = list(product(samplers or [own.sampler], steps or [own.steps], guidances or [own.guidance]))
    size = int(stage.rpartition("-")[2]) if stage.startswith("upsampler") else pipeline.sizes[0]
    extractor, judge = clip_extractor(pipeline.clip), load_judge()
    asked = held_out_captions(count, seed)
    true = features_of([draw(one.scene, size) for one in asked], extractor, batch)
    texts = encode_texts(pipeline.clip, [one.text for one in asked], batch)
    bootstrap = {"resamples": resamples, "seed": seed}
    points = []
    for sampler, number, guidance in ways:
        options = {stage: {"sampler": sampler, "steps": number, "guidance": guidance}}
        seconds = []

        def paint(captions: list[str], seeds: list[int]) -> list[Image.Image]:
            made = pipeline.generate(captions, seeds=seeds, size=size, options=options, watermark=False)  # noqa: B023
            seconds.append(made.seconds[stage])  # noqa: B023
            return made.images

        report = compose(paint, judge, count=count, seed=seed, batch=batch)
        shown = features_of(report.pictures, extractor, batch)
        figures = {
            "cmmd": metrics.cmmd(shown, true, **bootstrap),
            "clip": metrics.clip_score(shown, texts, **bootstrap),
        }
        if count > shown.shape[1]:
            figures["fid"] = metrics.fid(shown, true, **bootstrap)
        named = [score for key, score in report.scores.items() if key in VALUES]
        point = Point(
            sampler,
            number,
            guidance,
            figures,
            named=Score(sum(one.right for one in named), sum(one.of for one in named)),
            whole=report.scores[ALL_NAMED],
            seconds=sum(seconds) / count,
            pictures=report.pictures[:SHOWN],
        )
        points.append(point)
        on_point(point)
    return points


def write_csv(points: Sequence[Point], path: Path) -> None:
    """A row for each point: how it was sampled, then every figure with its 95 % interval."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        ends = [f"{name}{end}" for name in points[0].values() for end in ("", "_low", "_high")]
        rows.writerow(["sampler", "steps", "guidance", *ends])
        for point in points:
            cells = [f"{value:.5g}" for triple in point.values().values() for value in triple]
            rows.writerow([point.sampler, point.steps, f"{point.guidance:g}", *cells])


def sheet(points: Sequence[Point]) -> Image.Image:
    """A row of pictures for each point, the same captions in each, as in Figure 9."""
    return grid([image for point in points for image in point.pictures], columns=len(points[0].pictures))


def plot(points: Sequence[Point], path: Path) -> None:
    """A row for each measure, a column for guidance and for steps where they vary, a line for each of the
    other values.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise RequestError("the plot needs matplotlib: pip install 'unclip[lecture]'") from None
    axes = [
        axis for axis in ("guidance", "steps") if len({getattr(point, axis) for point in points}) > 1
    ] or ["steps"]
    figure = Figure(figsize=(1 + 4 * len(axes), 8), layout="constrained")
    panels = figure.subplots(len(PLOTTED), len(axes), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        for row, measure in enumerate(PLOTTED):
            _panel(panels[row][column], points, axis, measure)
        panels[-1][column].set_xlabel(axis)
        panels[0][column].legend(fontsize=7)
    for row, label in enumerate(("CMMD (0 is best)", "CLIP score", "named attributes, %", "s per picture")):
        panels[row][0].set_ylabel(label)
    figure.savefig(path, dpi=90)


def _panel(panel: Axes, points: Sequence[Point], axis: str, measure: str) -> None:
    others = [other for other in ("sampler", "guidance", "steps") if other != axis]
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(", ".join(_said(other, getattr(point, other)) for other in others), []).append(point)
    for label, line in lines.items():
        ordered = sorted(line, key=lambda point: float(getattr(point, axis)))
        values = torch.tensor([point.values()[measure] for point in ordered])
        errors = (values - values[:, :1]).abs().T[1:]
        x = [getattr(point, axis) for point in ordered]
        panel.errorbar(
            x, values[:, 0].tolist(), yerr=errors.tolist(), label=label, marker="o", markersize=3, capsize=2
        )
    panel.grid(alpha=0.3)


def _said(name: str, value: Any) -> str:
    return str(value) if name == "sampler" else f"{name} {value:g}"


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
