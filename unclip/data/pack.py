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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unclip.data.config import is_array
from unclip.data.examine import Finding, Limits, examine
from unclip.data.sample import image_suffix
from unclip.data.source import Unit, find_units
from unclip.data.tar import Progress, Sample, read_record, write_lines, write_record, write_shard
from unclip.errors import DataError
from unclip.files import UNFINISHED
from unclip.locks import hold
from unclip.text import decode

RECORD = "shards.json"
LOCK = ".lock"  # file in the folder while it is being packed
NOTES = ".pack"  # folder of the first pass's results; removed at the end
LEFT_OUT = "left-out.jsonl"  # names and reasons
SHARDS = "[0-9]" * 6 + ".tar"
TRAIN, VALIDATION = "train", "validation"  # folders of a split packing


@dataclass(frozen=True)
class Packed:
    """Result of a packing.

    Attributes:
        shards, samples: numbers of those written.
        validation: number of those samples in the folder `validation`.
        left_out: number of samples by reason.
        work: new, again (the source had changed since it was packed) or none (nothing had changed).
    """

    shards: int
    samples: int
    left_out: dict[str, int]
    validation: int = 0
    work: Literal["new", "again", "none"] = field(default="new", compare=False)


@dataclass(frozen=True)
class PackJob:
    """Options of a packing. Two equal jobs write the same bytes.

    Attributes:
        source, images, folder_caption: see `find_units`.
        limits: sizes of images that are kept.
        shard_size: samples per shard.
        keep_generated: keep images with metadata or a watermark of a generator.
        split: share of the images that goes to the folder `validation`, drawn by a hash of their content; the
            rest goes to `train`. 0 writes all into one folder.
    """

    source: str
    limits: Limits
    shard_size: int
    keep_generated: bool = False
    images: str | None = None
    folder_caption: str | None = None
    split: float = 0.0


def pack(job: PackJob, out: Path, *, jobs: int = 1, progress: Progress = lambda done, of: None) -> Packed:
    """Pack `job.source` into `out`/NNNNNN.tar, then write shards.json, and left-out.jsonl if needed.

    A source whose files changed since it was packed is packed again.

    Raises:
        DataError: the source has no usable samples, or `out` holds another packing.
        RequestError: another process packs into `out`.
    """
    with hold(out / LOCK, str(out)):
        return _pack(job, out, jobs, progress)


def _pack(job: PackJob, out: Path, jobs: int, progress: Progress) -> Packed:
    units = find_units(
        job.source,
        job.shard_size,
        images=Path(job.images) if job.images else None,
        folder_caption=job.folder_caption,
        shuffled=True,
    )
    listing = hashlib.sha256()
    for unit in units:
        listing.update(json.dumps([unit, unit.stamps()]).encode())
    this = {**asdict(job), "listing": listing.hexdigest()}
    done = read_record(str(out / RECORD))
    if done and _same_job(done.get("job"), this, out):
        return Packed(
            done["shards"], done["samples"], done["left_out"], done.get("validation", 0), work="none"
        )
    _begin(out, this, again=done is not None)

    with _mapping(jobs) as over:
        for n, _ in enumerate(over(partial(_examine, out, job), enumerate(units)), start=1):
            progress(n, 2 * len(units))
        left_out: Counter[str] = Counter()
        verdicts = _judge(out, job, len(units), left_out)
        if not any(part is not None for unit in verdicts for part in unit):
            shutil.rmtree(out / NOTES)
            apart = {"no picture", "no caption"} <= left_out.keys()
            hint = "; in a tar, the files of a sample must follow each other: unpack it" if apart else ""
            raise DataError(
                f"{job.source}: no usable samples: {counted(left_out)} ({out / LEFT_OUT} lists them){hint}"
            )
        if done:
            _remove_shards(out, job.split)
        work = enumerate(zip(units, verdicts))
        for n, _ in enumerate(over(partial(_write, out), work), start=len(units) + 1):
            progress(n, 2 * len(units))

    parts = Counter(part for unit in verdicts for part in unit if part is not None)
    packed = Packed(
        len(_shards(out, job.split)),
        parts.total(),
        dict(left_out.most_common()),
        parts[VALIDATION],
        work="again" if done else "new",
    )
    record = {**asdict(packed), "job": this}
    del record["work"]
    write_record(out / RECORD, record)
    shutil.rmtree(out / NOTES)
    return packed


def counted(reasons: Counter[str]) -> str:
    """Format counts as `3 no caption, 1 too small`."""
    return ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())


def _folders(out: Path, split: float) -> list[Path]:
    """Return the folders of the shards; others below `out` may hold other packings."""
    return [out / TRAIN, out / VALIDATION] if split else [out]


def _shards(out: Path, split: float) -> list[Path]:
    return [path for folder in _folders(out, split) for path in folder.glob(SHARDS)]


def _same_job(before: dict[str, Any] | None, this: dict[str, Any], out: Path) -> bool:
    """Return whether `out` holds the packing of this job and of the source as it is.

    Raises:
        DataError: it holds something else.
    """
    if before is None:
        raise DataError(f"{out}: holds other shards; give an empty folder")
    earlier = {"images": None, "folder_caption": None, "split": 0.0, **before}  # added later
    for key in this:
        if key != "listing" and earlier.get(key) != this[key]:
            raise DataError(
                f"{out}: holds a packing with another {key} ({earlier.get(key)}); give an empty folder"
            )
    shards = (read_record(str(out / RECORD)) or {}).get("shards")
    return before.get("listing") == this["listing"] and len(_shards(out, this["split"])) == shards


def _begin(out: Path, job: dict[str, Any], *, again: bool) -> None:
    """Prepare the folder: resume the same job, and remove what another one left when it was stopped.

    Args:
        again: whether `out` holds a finished packing; it stays until the new one is known to hold samples.
    """
    before = read_record(str(out / NOTES / "job.json"))
    folders = _folders(out, job["split"])
    if (
        before is None
        and not again
        and any(path for folder in (out, *folders) for path in folder.glob("*.tar"))
    ):
        raise DataError(f"{out}: holds other shards; give an empty folder")
    try:
        if before is not None and before != job:
            shutil.rmtree(out / NOTES)
            if not again:
                _remove_shards(out, before.get("split", 0.0))
        (out / NOTES).mkdir(parents=True, exist_ok=True)
        for folder in (out, out / NOTES, *folders):
            for left in folder.glob(f"{UNFINISHED}*"):
                left.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None
    write_record(out / NOTES / "job.json", job)


def _remove_shards(out: Path, split: float) -> None:
    for path in (*_shards(out, split), out / RECORD):
        path.unlink(missing_ok=True)


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
    if not path.exists():
        found = examine(unit, job.limits, keep_generated=job.keep_generated)
        write_record(path, {"found": found})


def _notes(out: Path, number: int) -> list[Finding]:
    tree = read_record(str(out / NOTES / f"{number:06d}.json"))
    if tree is None:
        raise DataError(f"{out / NOTES}: was changed while packing; run the same command again")
    return [Finding(*one) for one in tree["found"]]


def _judge(out: Path, job: PackJob, units: int, left_out: Counter[str]) -> list[list[str | None]]:
    """Return the folder of each sample, "" for `out` itself; None for one that is left out.

    Of equal images all but the first are left out. Lists what is left out in a file, and counts it.
    """
    seen: set[str] = set()
    verdicts: list[list[str | None]] = []

    def judged() -> Iterator[dict[str, str]]:
        for number in range(units):
            verdicts.append([])
            for name, reason, key in _notes(out, number):
                reason = reason or ("duplicate" if key in seen else None)
                verdicts[-1].append(None if reason else _part(key, job.split))
                if reason:
                    left_out[reason] += 1
                    yield {"file": name, "reason": reason}
                else:
                    seen.add(key)

    write_lines(out / LEFT_OUT, judged())
    if not left_out:
        (out / LEFT_OUT).unlink()
    return verdicts


def _part(key: str, split: float) -> str:
    """Return the folder of an image with this hash."""
    if not split:
        return ""
    return VALIDATION if int(key[:8], 16) < split * 2**32 else TRAIN


def _write(out: Path, numbered: tuple[int, tuple[Unit, list[str | None]]]) -> None:
    """Second pass: write the samples of a unit that have no reason against them."""
    number, (unit, verdicts) = numbered
    for part in sorted({one for one in verdicts if one is not None}):
        path = out / part / f"{number:06d}.tar"
        if not path.exists():
            write_shard(path, _kept(number, unit, [one == part for one in verdicts]))


def _kept(number: int, unit: Unit, kept: list[bool]) -> Iterator[Sample]:
    """Yield the samples of a unit that are kept; their text in UTF-8, whatever it was in."""
    for i, (sample, keep) in enumerate(zip(unit.samples(), kept)):
        if keep:
            suffix = image_suffix(sample)
            packed: Sample = {"__key__": f"{number:06d}{i:06d}", suffix: sample[suffix]}
            for beside in (one for one in ("txt", "json") if one in sample):
                packed[beside] = decode(sample[beside], legacy=True).encode()
            yield packed | {one: content for one, content in sample.items() if is_array(one)}
