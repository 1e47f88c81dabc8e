"""Sources of images and captions to pack: folders, tables and tars."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unclip.data.sample import IMAGE_SUFFIXES
from unclip.data.tar import Sample, find_shards, read_shard
from unclip.errors import DataError
from unclip.files import UNFINISHED, find_files
from unclip.text import decode, legible, lines, parse_json

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
COLUMNS = ("path", "caption")


class Entry(NamedTuple):
    """An image file and its caption; None reads the `.txt` or `.json` of the same name."""

    path: str
    caption: str | None


class Unit(NamedTuple):
    """The content of one shard: a tar, or a list of files."""

    tar: str | None
    entries: tuple[Entry, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """Yield the samples, always in the same order; unreadable ones are marked bad."""
        if self.tar is not None:
            yield from read_shard(self.tar)
        for entry in self.entries:
            yield _sample(entry)


def find_units(source: str, size: int) -> list[Unit]:
    """Split a source into units; each unit becomes one shard.

    Args:
        source: folder of images, table with columns `path` and `caption`, folder of tars, or a pattern.
        size: files per unit; a tar is one unit of any size.

    Raises:
        DataError: there is no such source, it is empty, or the table cannot be read.
    """
    folder = Path(source)
    if folder.is_dir():
        tars = [str(path) for path in find_files(folder, "*.tar")]
        if tars:
            return [Unit(tar) for tar in tars]
        entries = [Entry(str(path), None) for path in find_pictures(folder)]
        if not entries:
            raise DataError(f"{source}: neither pictures (such as .jpg and .png) nor tars in it")
    elif folder.suffix.lower() in TABLES:
        entries = [_entry(folder, number, row) for number, row in enumerate(_rows(folder), start=1)]
        if not entries:
            raise DataError(f"{source}: no rows in it")
    else:
        return [Unit(tar) for tar in find_shards(source)]
    return [Unit(None, tuple(entries[i : i + size])) for i in range(0, len(entries), size)]


def find_pictures(folder: Path) -> list[Path]:
    """Find the image files below a folder by their suffixes, sorted; linked folders are followed.

    Files of formats that are not read are among them, so that they are counted.
    """
    found, seen = list[Path](), set[tuple[int, int]]()
    folders, links = [folder], list[Path]()
    while folders or links:
        here = (folders or links).pop()  # links come last: a folder that is also linked keeps its own name
        try:
            status, entries = here.stat(), list(here.iterdir())
        except OSError as error:
            log.warning("%s: left out: cannot be read (%s)", legible(str(here)), error.strerror)
            continue
        if (place := (status.st_dev, status.st_ino)) in seen:
            continue
        seen.add(place)
        for path in entries:
            if path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            elif path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES and path.is_file():
                found.append(path)
    return sorted(path for path in found if not path.name.startswith(UNFINISHED))


def _sample(entry: Entry) -> Sample:
    path = Path(entry.path)
    suffix = path.suffix.lower().removeprefix(".")
    sample: Sample = {"__key__": entry.path, "__url__": str(path.parent)}
    try:
        sample[suffix] = path.read_bytes()
        if entry.caption is not None:
            sample["txt"] = entry.caption.encode()
        else:
            for beside in ("txt", "json"):
                if path.with_suffix(f".{beside}").is_file():
                    sample[beside] = path.with_suffix(f".{beside}").read_bytes()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        sample["__bad__"] = "unreadable file"
    return sample


def _entry(table: Path, number: int, row: dict[str, Any]) -> Entry:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        there = ", ".join(map(str, row)) or "none"
        raise DataError(f"{table}: row {number} has no {missing[0]!r}; there are {there}")
    return Entry(str(table.parent / str(row["path"])), str(row["caption"] or ""))


def _rows(table: Path) -> Sequence[dict[str, Any]]:
    try:
        if table.suffix.lower() == ".parquet":
            return _parquet_rows(table)
        text = decode(table.read_bytes(), legacy=True)
        if table.suffix.lower() == ".jsonl":
            rows = [parse_json(line) for line in lines(text) if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line is not an object")
            return rows
        dialect = "excel-tab" if table.suffix.lower() == ".tsv" else "excel"
        return list(csv.DictReader(io.StringIO(text, newline=""), dialect=dialect))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{table}: cannot be read as a table ({reason})") from None


def _parquet_rows(table: Path) -> Sequence[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{table}: reading Parquet needs pyarrow: pip install pyarrow") from None
    rows: list[dict[str, Any]] = parquet.read_table(table).to_pylist()
    return rows
