"""Pack images and captions into WebDataset shards.

Two passes over the same units of work, in any number of processes. The first pass notes for every sample why
it is unusable, or else the hash of its image. The second pass writes the good samples without duplicates.
The result of a unit is written atomically and depends on neither order nor time, so a killed packing resumes
to the same bytes. This module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unclip.data.sample import BadSample, captions, image_suffix, picture
from unclip.data.source import Unit, find_units
from unclip.data.tar import Progress, Sample, read_record, write_record, write_shard
from unclip.errors import DataError
from unclip.files import UNFINISHED
from unclip.locks import hold
from unclip.provenance.verify import WATERMARK, generated
from unclip.provenance.watermark import detect

RECORD = "shards.json"
LOCK = ".lock"  # file in the folder while it is being packed
NOTES = ".pack"  # folder of the first pass's results; removed at the end


@dataclass(frozen=True)
class Limits:
    """Limits on the size of images.

    Attributes:
        min_side: smallest shorter side in pixels.
        max_side: largest longer side in pixels.
        max_aspect: largest ratio of the longer to the shorter side.
    """

    min_side: int = 64
    max_side: int = 16384
    max_aspect: float = 3.0

    def reason_against(self, size: tuple[int, int]) -> str | None:
        """Return why an image of this size is left out; None if it is kept."""
        short, long = sorted(size)
        if short < self.min_side:
            return "too small"
        if long > self.max_side:
            return "too large"
        return "extreme aspect ratio" if long > self.max_aspect * short else None


@dataclass(frozen=True)
class Packed:
    """Result of a packing."""

    shards: int
    samples: int
    left_out: dict[str, int]  # reason → samples


@dataclass(frozen=True)
class PackJob:
    """Options of a packing. Two equal jobs write the same bytes.

    Attributes:
        source: folder, table or shards; see `find_units`.
        limits: sizes of images that are kept.
        shard_size: samples per shard.
        keep_generated: keep images with metadata or a watermark of a generator.
    """

    source: str
    limits: Limits
    shard_size: int
    keep_generated: bool = False


def pack(job: PackJob, out: Path, *, jobs: int = 1, progress: Progress = lambda done, of: None) -> Packed:
    """Pack `job.source` into `out`/NNNNNN.tar, then write shards.json.

    Raises:
        DataError: the source has no usable samples, or `out` holds another packing.
        RequestError: another process packs into `out`.
    """
    with hold(out / LOCK, str(out)):
        return _pack(job, out, jobs, progress)


def _pack(job: PackJob, out: Path, jobs: int, progress: Progress) -> Packed:
    units = find_units(job.source, job.shard_size)
    this = {**asdict(job), "listing": hashlib.sha256(json.dumps(units).encode()).hexdigest()}
    finished = read_record(str(out / RECORD))
    _same_job(
        finished["job"] if finished and "job" in finished else read_record(str(out / NOTES / "job.json")),
        this,
        out,
    )
    if finished:
        return Packed(finished["shards"], finished["samples"], finished["left_out"])
    _begin(out, this)

    with _mapping(jobs) as over:
        for done, _ in enumerate(over(partial(_examine, out, job), enumerate(units)), start=1):
            progress(done, 2 * len(units))
        verdicts = _without_duplicates([_notes(out, i) for i in range(len(units))])
        for done, _ in enumerate(
            over(partial(_write, out), enumerate(zip(units, verdicts))), start=len(units) + 1
        ):
            progress(done, 2 * len(units))

    left_out = Counter(reason for unit in verdicts for reason in unit if reason)
    shards, samples = sum(None in unit for unit in verdicts), sum(unit.count(None) for unit in verdicts)
    if not samples:
        raise DataError(f"{job.source}: no usable samples: {counted(left_out)}")
    packed = Packed(shards, samples, dict(left_out.most_common()))
    write_record(out / RECORD, {**asdict(packed), "job": this})
    shutil.rmtree(out / NOTES)
    return packed


def counted(reasons: Counter[str]) -> str:
    """Format counts as `3 no caption, 1 too small`."""
    return ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())


def content_hash(content: bytes) -> str:
    """Hash the bytes of an image file, to find duplicates."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _same_job(before: dict[str, Any] | None, this: dict[str, Any], out: Path) -> None:
    if before is None:
        if any(out.glob("*.tar")) or (out / RECORD).exists():
            raise DataError(f"{out}: holds other shards; give an empty folder")
        return
    different = [key for key in this if before.get(key) != this[key]]
    if different:
        raise DataError(
            f"{out}: holds a packing with another {different[0]} ({before.get(different[0])}); give an "
            "empty folder"
        )


def _begin(out: Path, job: dict[str, Any]) -> None:
    try:
        (out / NOTES).mkdir(parents=True, exist_ok=True)
        for folder in (out, out / NOTES):
            for left in folder.glob(f"{UNFINISHED}*"):
                left.unlink()
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None
    write_record(out / NOTES / "job.json", job)


@contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that runs in this process or in a pool of `jobs` processes."""
    if jobs <= 1:
        yield map
        return
    pool = ProcessPoolExecutor(jobs)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _examine(out: Path, job: PackJob, numbered: tuple[int, Unit]) -> None:
    """First pass: write why each sample of a unit is left out, or its image's hash."""
    number, unit = numbered
    path = out / NOTES / f"{number:06d}.json"
    if path.exists():
        return
    found: list[tuple[str | None, str]] = []
    for sample in unit.samples():
        try:
            captions(sample)
            found.append((_reason_against(sample, job), content_hash(sample[image_suffix(sample)])))
        except BadSample as error:
            found.append(("too large" if error.reason == "decompression bomb" else error.reason, ""))
    write_record(path, {"found": found})


def _reason_against(sample: Sample, job: PackJob) -> str | None:
    """Return why a sample is left out, or None. Metadata come first, as they need no decoding."""
    mark = None if job.keep_generated else generated(sample[image_suffix(sample)], watermark=False)
    if mark is None:
        image = picture(sample)
        if reason := job.limits.reason_against(image.size):
            return reason
        if not job.keep_generated and detect(image, search=False).found:
            mark = WATERMARK
    return mark and f"generated ({mark})"


def _notes(out: Path, number: int) -> list[tuple[str | None, str]]:
    tree = read_record(str(out / NOTES / f"{number:06d}.json"))
    if tree is None:
        raise DataError(f"{out / NOTES}: was changed while packing; run the same command again")
    return [(reason, key) for reason, key in tree["found"]]


def _without_duplicates(units: Sequence[list[tuple[str | None, str]]]) -> list[list[str | None]]:
    """Return the reasons per sample, with "duplicate" for all but the first of equal images."""
    seen: set[str] = set()
    verdicts: list[list[str | None]] = []
    for unit in units:
        verdicts.append([])
        for reason, key in unit:
            verdicts[-1].append(reason or ("duplicate" if key in seen else None))
            if reason is None:
                seen.add(key)
    return verdicts


def _write(out: Path, numbered: tuple[int, tuple[Unit, list[str | None]]]) -> None:
    """Second pass: write the samples of a unit that have no reason against them."""
    number, (unit, verdicts) = numbered
    path = out / f"{number:06d}.tar"
    if path.exists() or None not in verdicts:
        return
    write_shard(
        path,
        (
            {
                "__key__": f"{number:06d}{i:06d}",
                **{
                    suffix: sample[suffix]
                    for suffix in (image_suffix(sample), "txt", "json")
                    if suffix in sample
                },
            }
            for i, (sample, reason) in enumerate(zip(unit.samples(), verdicts))
            if reason is None
        ),
    )
