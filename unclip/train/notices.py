"""Warnings about a run's data, before its first step."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from unclip.config import read_yaml
from unclip.data.sample import BadSample, image_suffix
from unclip.data.source import find_units
from unclip.data.tar import Sample, read_shard
from unclip.errors import RequestError
from unclip.pictures import opened
from unclip.stages.base import Stage
from unclip.train.config import RunConfig

log = logging.getLogger(__name__)

SHARDS, SAMPLES = 8, 32  # shards that are looked into, and samples of each


def warn_of_data(run: Path, config: RunConfig, stage: Stage, paths: Sequence[str]) -> None:
    """Warn if a run resumes with other shards, or if images would be enlarged to the stage's size."""
    saved = run / "run.yaml"
    before = read_yaml(saved).get("data", {}).get("shards") if saved.is_file() else None
    now = config.model_dump(mode="json")["data"]["shards"]
    if before is not None and before != now:
        log.warning(
            "%s: data.shards was %s, is %s: the run goes on with other data", config.name, before, now
        )
    size = getattr(stage.config, "size", None)
    if size is None or "image" not in stage.needs or config.data.crop == "native":
        return
    sides = shorter_sides(paths)
    small = sum(side < size for side in sides)
    if small:
        log.warning(
            "%s: of %d pictures looked at, %.0f%% are smaller than the stage's %d pixels; they are enlarged, "
            "and the stage learns their blur",
            config.name,
            len(sides),
            100 * small / len(sides),
            size,
        )


def shorter_sides(paths: Sequence[str]) -> list[int]:
    """Read the shorter sides of some images, in pixels, from their headers."""
    some = paths[:: -(-len(paths) // SHARDS)]
    found = []
    for sample in chain.from_iterable(map(_some, some)):
        try:
            with opened(io.BytesIO(sample[image_suffix(sample)])) as image:
                found.append(min(image.size))
        except (BadSample, RequestError):
            continue  # training counts them
    return found


def _some(path: str) -> Iterator[Sample]:
    """Some samples of a shard, or of a folder of images."""
    if Path(path).is_dir():
        return find_units(path, SAMPLES, shuffled=True)[0].samples()
    return islice(read_shard(path), SAMPLES)
