"""Find, read and write tar shards in WebDataset's layout.

A sample is a dict: `__key__` (file name up to the first dot), `__url__` of its shard, and its files by
suffix. A sample that cannot be used has the reason in `__bad__`, so that readers can skip and count it. This
module does not import torch: packing starts quickly in every process.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import IO, Any

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

from unclip.errors import DataError
from unclip.files import new_file
from unclip.text import parse_json, to_json

log = logging.getLogger(__name__)

Sample = dict[str, Any]
Progress = Callable[[int, int], None]  # (done, total)

PIPE = "pipe:"
LARGEST_FILE = 256 * 2**20  # bytes; a damaged header can claim any size, and it would be read into memory
NOT_SHARDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".zip", ".png", ".jpg", ".jpeg", ".webp")
NAMED = 3  # missing shards that a message lists
BLOCK = 2**16  # bytes per read; tarfile copies the rest of the block at every header


def find_shards(pattern: str) -> list[str]:
    """Find the shards of a path, glob, brace pattern, `pipe:` command or URL of fsspec; sorted.

    Raises:
        DataError: nothing is there, or the URL's file system is not installed.
    """
    try:
        names = list(braceexpand(pattern))
    except UnbalancedBracesError:
        names = [pattern]
    found = {name: _matches(name) for name in names}
    if not any(found.values()):
        hint = (
            f"; it is a folder, give {pattern}/*.tar or see `unclip data pack`"
            if Path(pattern).is_dir()
            else ""
        )
        raise DataError(f"{pattern}: no such shards{hint}")
    missing = [name for name, matches in found.items() if not matches]
    if missing:
        raise DataError(
            f"{pattern}: {len(missing)} of its {len(found)} names are missing: "
            f"{', '.join(missing[:NAMED])}{' …' * (len(missing) > NAMED)}; a glob (*) takes what is there"
        )
    return sorted({match for matches in found.values() for match in matches})


def _matches(name: str) -> list[str]:
    if name.startswith(PIPE):
        return [name]
    if "://" in name:
        return _remote_matches(name)
    found = [match for match in (glob(name) or [name]) if Path(match).is_file()]
    tars = [match for match in found if Path(match).suffix.lower() not in NOT_SHARDS]
    if found and not tars:
        raise DataError(f"{found[0]}: not a tar; `unclip data pack` makes shards of a folder or a table")
    return tars


def stamp(path: str) -> list[int] | None:
    """Size in bytes and time of change in ns of a local file, to notice changes; None for any other."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # no such file, a URL, a command
        return None
    return [found.st_size, found.st_mtime_ns]


def _remote_matches(url: str) -> list[str]:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
        if not {"*", "["} & set(url):
            return [url]
        return [files.unstrip_protocol(match) for match in files.glob(path)]
    except (ImportError, ValueError) as error:  # driver not installed, unknown protocol
        raise DataError(f"{url}: {' '.join(str(error).split())}") from None
    except Exception as error:  # file systems raise errors of their own
        raise DataError(f"{url}: cannot be listed ({' '.join(str(error).split())[:200]})") from None


@contextmanager
def open_shard(url: str) -> Iterator[IO[bytes]]:
    """Open a local, remote or `pipe:` shard for reading. A command that fails raises OSError at the end."""
    if url.startswith(PIPE):
        with subprocess.Popen(url.removeprefix(PIPE), shell=True, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
                while process.stdout.read(BLOCK):  # unread padding would break the pipe
                    pass
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise OSError(f"its command ended with {process.returncode}")
    elif "://" in url:
        import fsspec

        with fsspec.open(url, "rb") as file:
            yield file
    else:
        with open(url, "rb") as file:
            yield file


class _Member(tarfile.TarInfo):
    """Tar header that raises if damaged; tarfile takes a damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.SubsequentHeaderError(str(error)) from None  # type: ignore[attr-defined]


def read_shard(url: str) -> Iterator[Sample]:
    """Yield every sample of a shard in order, bad ones marked. A truncated shard ends with a bad sample."""
    sample: Sample | None = None
    trouble = "shard cannot be opened"
    try:
        with (
            open_shard(url) as file,
            tarfile.open(fileobj=file, mode="r|*", bufsize=BLOCK, tarinfo=_Member) as tar,
        ):
            trouble = "shard is damaged"
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or tarfile would keep every header
                key, suffix = _split(member.name)
                if member.isdir() or not suffix:
                    continue
                if sample is None or sample["__key__"] != key:
                    if sample is not None:
                        yield sample
                    sample = {"__key__": key, "__url__": url}
                wrong = _wrong(member, suffix, sample)
                if wrong:
                    sample["__bad__"] = wrong
                    continue
                content = tar.extractfile(member)
                assert content is not None
                sample[suffix] = content.read()
    except Exception as error:  # tarfile, decompressors, file systems
        log.info("%s: %s (%s)", url, trouble, error)
        sample = {"__key__": sample["__key__"] if sample else "", "__url__": url, "__bad__": trouble}
    else:
        sample = sample or {"__key__": "", "__url__": url, "__bad__": "shard is empty"}
    yield sample


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    hidden = not stem or stem.startswith("__")
    return folder + slash + stem, "" if hidden else suffix.lower()


def _wrong(member: tarfile.TarInfo, suffix: str, sample: Sample) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "unsafe name"
    if not member.isreg():
        return "not a file"
    if member.size > LARGEST_FILE:
        return "file too large"
    return "name used twice" if suffix in sample else None


def read_samples(paths: Iterable[str]) -> Iterator[Sample]:
    """Yield every good sample of the shards in order; warn of the bad ones."""
    for path in paths:
        for sample in read_shard(path):
            if "__bad__" in sample:
                log.warning("skipped sample %s of %s: %s", sample["__key__"], path, sample["__bad__"])
            else:
                yield sample


def write_shard(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a tar, atomically. Equal samples give equal bytes."""
    with _new_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            for suffix, content in sample.items():
                if not suffix.startswith("__"):
                    member = tarfile.TarInfo(f"{sample['__key__']}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_record(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a JSON record of a shard or folder, atomically."""
    with _new_file(path) as temporary:
        temporary.write_text(to_json(tree, sort_keys=True) + "\n", encoding="utf-8")


def write_lines(path: Path, trees: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, atomically."""
    with _new_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(to_json(tree) + "\n" for tree in trees)


def read_record(url: str) -> dict[str, Any] | None:
    """Read a JSON record; None if there is none.

    Raises:
        DataError: the record is damaged or cannot be read.
    """
    try:
        with open_shard(url) as file:
            tree = parse_json(file.read())
    except (FileNotFoundError, PermissionError):  # object stores answer 403 for missing keys
        return None
    except Exception as error:  # file systems raise errors of their own
        raise DataError(f"{url}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(tree, dict):
        raise DataError(f"{url}: expected a JSON object")
    return tree


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """`new_file` that raises DataError instead of OSError."""
    try:
        with new_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
