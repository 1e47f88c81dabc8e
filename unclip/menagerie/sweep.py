"""Sweeps of guidance, steps and sampler of one stage (Ramesh et al. 2022, figures 9 to 11)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from unclip.errors import RequestError
from unclip.evaluate import metrics
from unclip.evaluate.features import clip_extractor, encode_texts, features_of
from unclip.evaluate.metrics import Estimate
from unclip.evaluate.report import ALL_NAMED, Score
from unclip.images import grid
from unclip.menagerie.compose import Paint, compose, held_out_captions
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import load_judge
from unclip.menagerie.scene import VALUES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from unclip.pipeline import Pipeline

SHOWN = 10  # pictures per point on the contact sheet
PLOTTED = ("cmmd", "clip", "named", "seconds")  # the rows of the plot


@dataclass(frozen=True)
class Point:
    """One way to sample, and its results.

    Attributes:
        sampler, steps, guidance: of the stage. figures: "cmmd" against renderings of the same scenes, "clip"
        (CLIP score with the captions), and "fid"
            if there are more pictures than features.
        named: share of named attributes that the pictures show. whole: share of captions that are shown in
        full. seconds: time of the stage per picture.
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
        """Each figure with its 95 % interval as (value, low, high), shares in percent."""
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
    """Sample the same held-out captions with the same seeds at every combination of the given values.

    Args:
        stage: "prior", "decoder" or "upsampler-SIZE", whose sampling changes. It sets the size of the
        pictures. samplers, steps, guidances: values to try. Default: the stage's own value. count: number of
        held-out captions, one picture each. seed: seed of captions and pictures. resamples: bootstrap
        resamples. on_point: called after each point.

    Raises:
        RequestError: unknown stage, or a value that it does not accept.
    """
    swept = _stages(pipeline).get(stage)
    if swept is None:
        known = ", ".join(name for name, one in _stages(pipeline).items() if one)
        raise RequestError(f"no stage {stage!r}; {pipeline.name} has {known}")
    own = swept.config.sampling
    ways = product(samplers or [own.sampler], steps or [own.steps], guidances or [own.guidance])
    size = int(stage.rpartition("-")[2]) if stage.startswith("upsampler") else pipeline.sizes[0]
    extractor, judge = clip_extractor(pipeline.clip), load_judge()
    asked = held_out_captions(count, seed)
    true = features_of([draw(one.scene, size) for one in asked], extractor, batch)
    texts = encode_texts(pipeline.clip, [one.text for one in asked], batch)
    points = []
    for way in ways:
        seconds: list[float] = []
        paint = _painter(pipeline, stage, way, size, seconds)
        report = compose(paint, judge, count=count, seed=seed, batch=batch)
        shown = features_of(report.pictures, extractor, batch)
        named = [score for key, score in report.scores.items() if key in VALUES]
        point = Point(
            *way,
            figures=_figures(shown, true, texts, resamples=resamples, seed=seed),
            named=Score(sum(one.right for one in named), sum(one.of for one in named)),
            whole=report.scores[ALL_NAMED],
            seconds=sum(seconds) / count,
            pictures=report.pictures[:SHOWN],
        )
        points.append(point)
        on_point(point)
    return points


def _stages(pipeline: Pipeline) -> dict[str, Any]:
    upsamplers = {f"upsampler-{one.size}": one for one in pipeline.upsamplers}
    return {"prior": pipeline.prior, "decoder": pipeline.decoder, **upsamplers}


def _painter(
    pipeline: Pipeline, stage: str, way: tuple[str, int, float], size: int, seconds: list[float]
) -> Paint:
    """Sample with the given values of one stage, and append the time of that stage to `seconds`."""
    options = {stage: dict(zip(("sampler", "steps", "guidance"), way))}

    def paint(captions: list[str], seeds: list[int]) -> list[Image.Image]:
        made = pipeline.generate(captions, seeds=seeds, size=size, options=options, watermark=False)
        seconds.append(made.seconds[stage])
        return made.images

    return paint


def _figures(shown: Tensor, true: Tensor, texts: Tensor, **bootstrap: int) -> dict[str, Estimate]:
    figures = {
        "cmmd": metrics.cmmd(shown, true, **bootstrap),
        "clip": metrics.clip_score(shown, texts, **bootstrap),
    }
    if len(shown) > shown.shape[1]:
        figures["fid"] = metrics.fid(shown, true, **bootstrap)
    return figures


def write_csv(points: Sequence[Point], path: Path) -> None:
    """Write a row per point: sampler, steps, guidance, then each figure with its 95 % interval."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        ends = [f"{name}{end}" for name in points[0].values() for end in ("", "_low", "_high")]
        rows.writerow(["sampler", "steps", "guidance", *ends])
        for point in points:
            cells = [f"{value:.5g}" for triple in point.values().values() for value in triple]
            rows.writerow([point.sampler, point.steps, f"{point.guidance:g}", *cells])


def sheet(points: Sequence[Point]) -> Image.Image:
    """A contact sheet: a row of pictures per point, with the same captions, as in figure 9 of the paper."""
    return grid([image for point in points for image in point.pictures], columns=len(points[0].pictures))


def plot(points: Sequence[Point], path: Path) -> None:
    """Plot a row per measure and a column for each of guidance and steps that varies.

    Each line is one combination of the other values.

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
