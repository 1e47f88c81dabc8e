"""Sources of images and captions to pack: folders, tables and tars."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from unclip.data.sample import IMAGE_SUFFIXES
from unclip.data.tables import METADATA, TABLES, Entry, read_rows, read_table
from unclip.data.tar import PIPE, Sample, find_shards, read_shard, stamp
from unclip.errors import DataError
from unclip.files import UNFINISHED, find_files
from unclip.text import legible

log = logging.getLogger(__name__)

BESIDE = ("txt", "TXT", "json", "JSON")  # suffixes of caption files
ARRAY = "npy"  # suffix of a file of vectors
MAGIC = {b"\x89PNG": "png", b"\xff\xd8": "jpg"}  # first bytes of images in Parquet files; webp otherwise


class Unit(NamedTuple):
    """The content of one shard: a tar, or a list of images."""

    tar: str | None
    entries: tuple[Entry, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """Yield the samples, always in the same order; unreadable ones are marked bad."""
        if self.tar is not None:
            yield from read_shard(self.tar)
        for table, group in groupby(self.entries, lambda entry: entry.path if entry.row is not None else ""):
            entries = list(group)
            yield from _rows(table, entries) if table else map(_sample, entries)

    def stamps(self) -> list[list[int] | None]:
        """Return `stamp` of every file that the unit reads."""
        files = [self.tar] if self.tar else list(dict.fromkeys(entry.path for entry in self.entries))
        for entry in self.entries:
            suffixes = (*(BESIDE if entry.captions is None else ()), ARRAY)
            files += map(str, _beside(Path(entry.path), suffixes))
        return [stamp(file) for file in files]


def find_units(
    source: str,
    size: int,
    *,
    images: Path | None = None,
    folder_caption: str | None = None,
    shuffled: bool = False,
) -> list[Unit]:
    """Split a source into units; each unit becomes one shard.

    Args:
        source: folder of images, table (see `read_table`), folder of tars or of Parquet files, or a pattern
            of tars. Tables called metadata in a folder hold the captions of its images.
        size: images per unit; a tar is one unit of any size.
        images: folder that a table's paths are relative to. Default: the table's folder.
        folder_caption: caption of an image in a folder without one; `{}` is the name of the image's folder.
        shuffled: order image files by a hash of their paths, so that each unit is a sample of all.

    Raises:
        DataError: there is no such source, it is empty, or the table cannot be read.
    """
    path = Path(source)
    base = path
    if path.is_dir():
        tars = find_files(path, "*.tar")
        entries = [] if tars else _folder_entries(path, folder_caption)
        if not entries:
            tars = tars or find_files(path, "**/*.tar")
            if not tars:
                raise DataError(f"{source}: neither pictures (such as .jpg and .png) nor tars in it")
            return [Unit(str(tar)) for tar in tars]
    elif path.is_file() and path.suffix.lower() in TABLES:
        entries, base = read_table(path, images), images or path.parent
        if not entries:
            raise DataError(f"{source}: no rows in it")
    elif path.exists() or PIPE in source or "://" in source or glob(source) or "{" in source:
        return [Unit(tar) for tar in find_shards(source)]
    else:
        raise DataError(f"{source}: no such folder, table or tar")
    if shuffled and all(entry.row is None for entry in entries):
        entries.sort(key=lambda entry: _hash(os.path.relpath(entry.path or ".", base)))
    return [Unit(None, tuple(entries[i : i + size])) for i in range(0, len(entries), size)]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).digest()


def find_pictures(folder: Path) -> list[Path]:
    """Find the image files below a folder by their suffixes, sorted; linked folders are followed.

    Files of formats that are not read are among them, so that they are counted.
    """
    return [path for path in _files(folder) if path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES]


def _files(folder: Path) -> list[Path]:
    """Find all files below a folder, sorted; linked folders are followed."""
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
            elif path.is_file():
                found.append(path)
    return sorted(path for path in found if not path.name.startswith(UNFINISHED))


def _folder_entries(folder: Path, caption: str | None) -> list[Entry]:
    files = _files(folder)
    tables = [path for path in files if path.name.lower() in METADATA]
    told = {(entry.path, entry.row): entry for table in tables for entry in _metadata(table)}
    for path in files:
        if path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES:
            told.setdefault((str(path), None), Entry(str(path), _folder_caption(folder, path, caption)))
    if not told:
        tables = [path for path in files if path.suffix.lower() == ".parquet"]
        return [entry for table in tables for entry in read_table(table)]
    return sorted(told.values(), key=lambda entry: (entry.path, entry.row or 0))


def _metadata(table: Path) -> list[Entry]:
    try:
        return read_table(table)
    except DataError as error:  # a table of that name about something else
        log.warning("%s; captions are read from the files beside the pictures", error)
        return []


def _folder_caption(source: Path, path: Path, caption: str | None) -> tuple[str, ...] | None:
    if caption is None or path.parent == source or _beside(path):
        return None
    return (caption.replace("{}", path.parent.name.replace("_", " ")),)


def _beside(path: Path, suffixes: tuple[str, ...] = BESIDE) -> list[Path]:
    """Find the caption files beside an image, or those of other suffixes."""
    if not path.name:  # a folder, or nothing, where a table should name a picture
        return []
    return [beside for suffix in suffixes if os.path.isfile(beside := path.with_suffix(f".{suffix}"))]


def _sample(entry: Entry) -> Sample:
    path = Path(entry.path)
    suffix = path.suffix.lower().removeprefix(".")
    sample: Sample = {"__key__": entry.path, "__url__": str(path.parent)}
    if suffix not in IMAGE_SUFFIXES:
        sample["__bad__"] = f"format not read: {suffix or 'none'}" if entry.path else "no file named"
        return sample
    try:
        sample[suffix] = path.read_bytes()
        for array in _beside(path, (ARRAY,)):
            sample[ARRAY] = array.read_bytes()
        if entry.captions is not None:
            return sample | entry.caption_files()
        for beside in _beside(path):
            sample.setdefault(beside.suffix.lower().removeprefix("."), beside.read_bytes())
    except FileNotFoundError:
        sample["__bad__"] = "no such file"
    except (OSError, ValueError):  # ValueError: a name that no file can have
        sample["__bad__"] = "unreadable file"
    return sample


def _rows(table: str, entries: list[Entry]) -> Iterator[Sample]:
    """Samples of a Parquet file that holds the images themselves."""
    rows = [entry.row or 0 for entry in entries]
    contents = read_rows(table, sorted(rows))
    if rows != sorted(rows):  # shuffled by the caller
        found = dict(zip(sorted(rows), contents))
        contents = iter([found[row] for row in rows])
    for entry, content in zip(entries, contents, strict=True):
        suffix = next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), "webp")
        sample = {"__key__": f"{table}/{entry.row}", "__url__": table, suffix: content}
        yield sample | entry.caption_files()
