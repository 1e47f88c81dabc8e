"""Sweeps of guidance, steps and sampler of one stage (Ramesh et al. 2022, figures 9 to 11)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from unclip.data.sample import scaled
from unclip.errors import RequestError
from unclip.evaluate import metrics
from unclip.evaluate.features import clip_extractor, encode_texts, features_of
from unclip.evaluate.metrics import Estimate
from unclip.evaluate.pictures import PictureFiles
from unclip.evaluate.report import Score
from unclip.images import centre_square, grid, write

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

SHOWN = 10  # pictures per point on the contact sheet


@dataclass(frozen=True)
class Point:
    """One way to sample, and its results.

    Attributes:
        sampler, steps, guidance: of the stage.
        figures: "clip" (CLIP score with the captions); with a reference "cmmd", and "fid" if there are more
            pictures than features.
        shares: shares of right pictures, by name.
        seconds: time of the stage per picture.
    """

    sampler: str
    steps: int
    guidance: float
    figures: dict[str, Estimate]
    shares: dict[str, Score]
    seconds: float
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def values(self) -> dict[str, tuple[float, float, float]]:
        """Each figure with its 95 % interval as (value, low, high), shares in percent."""
        return {
            **{
                key: (one.value, _or(one.low, one.value), _or(one.high, one.value))
                for key, one in self.figures.items()
            },
            **{
                key: (100 * (one.rate or 0.0), 100 * one.interval[0], 100 * one.interval[1])
                for key, one in self.shares.items()
            },
            "seconds": (self.seconds, self.seconds, self.seconds),
        }


@dataclass(frozen=True)
class Task:
    """What a sweep generates, and what it compares the pictures with.

    Attributes:
        captions: one per picture.
        seeds: one per picture.
        reference: square pictures to compare with, given their side in pixels; None compares with none.
        score: shares of right pictures by name, given all pictures.
    """

    captions: list[str]
    seeds: list[int]
    reference: Callable[[int], Iterable[Image.Image]] | None
    score: Callable[[list[Image.Image]], dict[str, Score]] = lambda pictures: {}


def prompts_task(prompts: Sequence[str], reference: PictureFiles | None, seed: int) -> Task:
    """A sweep of one's own prompts against one's own pictures; prompt i has the seed `seed` + i."""

    def read(size: int) -> Iterator[Image.Image]:
        assert reference is not None
        return (scaled(centre_square(one), size) for one in reference.read(0, 1))

    seeds = [seed + i for i in range(len(prompts))]
    return Task(list(prompts), seeds, None if reference is None else read)


def sweep(
    pipeline: Pipeline,
    stage: str,
    task: Task,
    *,
    samplers: Sequence[str] = (),
    steps: Sequence[int] = (),
    guidances: Sequence[float] = (),
    seed: int = 0,
    batch: int = 32,
    resamples: int = 100,
    on_point: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Sample the same captions with the same seeds at every combination of the given values.

    Args:
        stage: "prior", "decoder" or "upsampler-SIZE": its sampling changes, and pictures have its size.
        samplers, steps, guidances: values to try. Default: the stage's own value.
        seed: seed of the bootstrap.
        batch: pictures per batch.
        resamples: bootstrap resamples.
        on_point: called after each point.

    Raises:
        RequestError: unknown stage, or a value that it does not accept.
        DataError: the reference cannot be read.
    """
    if stage == "decoder":
        pipeline = pipeline.undistilled()  # for all points, not only for those that need it
    swept = _stages(pipeline).get(stage)
    if swept is None:
        known = ", ".join(name for name, one in _stages(pipeline).items() if one)
        raise RequestError(f"no stage {stage!r}; {pipeline.name} has {known}")
    own = swept.config.sampling
    ways = product(samplers or [own.sampler], steps or [own.steps], guidances or [own.guidance])
    size = int(stage.rpartition("-")[2]) if stage.startswith("upsampler") else pipeline.sizes[0]
    extractor = clip_extractor(pipeline.clip)
    true = features_of(task.reference(size), extractor, batch) if task.reference else None
    texts = encode_texts(pipeline.clip, task.captions, batch)
    points = []
    for way in ways:
        images: list[Image.Image] = []
        seconds = 0.0
        for start in range(0, len(task.captions), batch):
            part = slice(start, start + batch)
            made = pipeline.generate(
                task.captions[part],
                seeds=task.seeds[part],
                size=size,
                options={stage: dict(zip(("sampler", "steps", "guidance"), way))},
                watermark=False,
            )
            images += made.images
            seconds += made.seconds[stage]
        shown = features_of(images, extractor, batch)
        figures = _figures(shown, true, texts, resamples=resamples, seed=seed)
        point = Point(
            *way, figures, task.score(images), seconds / len(images), pictures=tuple(images[:SHOWN])
        )
        points.append(point)
        on_point(point)
    return points


def _stages(pipeline: Pipeline) -> dict[str, Any]:
    upsamplers = {f"upsampler-{one.size}": one for one in pipeline.upsamplers}
    return {"prior": pipeline.prior, "decoder": pipeline.decoder, **upsamplers}


def _figures(shown: Tensor, true: Tensor | None, texts: Tensor, **bootstrap: int) -> dict[str, Estimate]:
    figures = {"cmmd": metrics.cmmd(shown, true, **bootstrap)} if true is not None else {}
    figures["clip"] = metrics.clip_score(shown, texts, None, **bootstrap)
    if true is not None and min(len(shown), len(true)) > shown.shape[1]:
        figures["fid"] = metrics.fid(shown, true, **bootstrap)
    return figures


def write_csv(points: Sequence[Point], path: Path) -> None:
    """Write a row per point: sampler, steps, guidance, then each figure with its 95 % interval."""
    file = io.StringIO(newline="")
    rows = csv.writer(file, lineterminator="\n")
    ends = [f"{name}{end}" for name in points[0].values() for end in ("", "_low", "_high")]
    rows.writerow(["sampler", "steps", "guidance", *ends])
    for point in points:
        cells = [f"{value:.5g}" for triple in point.values().values() for value in triple]
        rows.writerow([point.sampler, point.steps, f"{point.guidance:g}", *cells])
    write(path, file.getvalue().encode())


def sheet(points: Sequence[Point]) -> Image.Image:
    """A contact sheet: a row of pictures per point, with the same captions, as in figure 9 of the paper."""
    return grid([image for point in points for image in point.pictures], columns=len(points[0].pictures))


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
