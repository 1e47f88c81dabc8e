"""Write labelled data sets and class folders as shards, complete and in order."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from unclip.data.arrays import Arrays, find_arrays
from unclip.data.source import find_pictures
from unclip.data.tar import Progress, read_record, stamp, write_record, write_shard
from unclip.errors import DataError
from unclip.text import legible, to_json

RECORD = "shards.json"
SHARD_SIZE = 5000
SHARDS = "[0-9]" * 6 + ".tar"


@dataclass(frozen=True)
class Labelled:
    """One split of a labelled data set.

    Attributes:
        classes: names of the classes.
        labels: index into `classes` for each image.
        picture: function that returns the suffix and the bytes of image i.
        content: hash of the images, or of their files' paths, sizes and times of change.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    picture: Callable[[int], tuple[str, bytes]]
    content: str


def find_labelled(source: str, split: str) -> Labelled:
    """Find a data set of `find_arrays`, or a folder with one folder of images per class.

    Args:
        split: train or test. A folder of classes with a subfolder of that name is read from there.

    Raises:
        DataError: there is no such data set, or it cannot be used.
    """
    arrays = find_arrays(source, split)
    if arrays is not None:
        labels = tuple(arrays.labels.tolist())
        pixels = np.ascontiguousarray(arrays.images).data
        content = hashlib.sha256(hashlib.sha256(pixels).digest() + repr(labels).encode()).hexdigest()
        return Labelled(arrays.classes, labels, partial(_png, arrays), content)
    root = Path(source)
    folder = root / split if (root / split).is_dir() else root
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [(i, path) for i, name in enumerate(names) for path in find_pictures(folder / name)]
    if not files:
        raise DataError(
            f"{source}: not a known data set: `digits`, an .npz with {split}_images and {split}_labels, "
            "IDX files, CIFAR's folder, or a folder with a folder of pictures for each class"
        )
    stamps = repr([(os.fsencode(path), stamp(str(path))) for _, path in files]).encode()
    content = hashlib.sha256(stamps).hexdigest()
    return Labelled(tuple(names), tuple(i for i, _ in files), lambda i: _file(files[i][1]), content)


def write_labelled(
    source: str, out: Path, split: str = "train", progress: Progress = lambda done, of: None
) -> int:
    """Write a split into `out`/NNNNNN.tar and return its number of images.

    The caption is the name of the class; the JSON also holds the `label`, an integer. Existing shards are
    kept, so the same call resumes. If the data set has changed since, all shards are written anew.

    Raises:
        DataError: the data set cannot be used (see `find_labelled`), or `out` holds other data.
    """
    found = find_labelled(source, split)
    this = {"source": source, "split": split, "classes": list(found.classes), "samples": len(found.labels)}
    this["content"] = found.content
    before = read_record(str(out / RECORD))
    if before is None and any(out.glob("*.tar")):
        raise DataError(f"{out}: holds other shards; give an empty folder")
    if before is not None and any(before.get(key) != this[key] for key in ("source", "split")):
        raise DataError(f"{out}: holds {before.get('split')} of {before.get('source')}; give an empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if before is not None and before != {
            key: this.get(key) for key in before
        }:  # earlier: without content
            for path in out.glob(SHARDS):
                path.unlink()
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None
    write_record(out / RECORD, this)
    parts = range(0, len(found.labels), SHARD_SIZE)
    for done, start in enumerate(parts, start=1):
        path = out / f"{done - 1:06d}.tar"
        if not path.exists():
            numbers = range(start, min(start + SHARD_SIZE, len(found.labels)))
            write_shard(path, (_sample(found, i) for i in numbers))
        progress(done, len(parts))
    return len(found.labels)


def _sample(found: Labelled, i: int) -> dict[str, bytes | str]:
    suffix, content = found.picture(i)
    label = found.labels[i]
    about = {"captions": [legible(found.classes[label])], "label": label}
    return {"__key__": f"{i:08d}", suffix: content, "json": to_json(about).encode()}


def _png(arrays: Arrays, i: int) -> tuple[str, bytes]:
    file = io.BytesIO()
    Image.fromarray(arrays.images[i]).save(file, "PNG", compress_level=2)
    return "png", file.getvalue()


def _file(path: Path) -> tuple[str, bytes]:
    try:
        return path.suffix.lower().removeprefix("."), path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
