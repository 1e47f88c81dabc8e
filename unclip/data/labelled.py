"""Pictures with a class each, from data sets and folders, into shards: whole and in order, as a benchmark
wants them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from unclip.data.arrays import Arrays, find_arrays
from unclip.data.sample import IMAGE_SUFFIXES
from unclip.data.tar import Progress, read_record, write_record, write_shard
from unclip.errors import DataError

RECORD = "shards.json"
SHARD_SIZE = 5000


@dataclass(frozen=True)
class Labelled:
    """A split of a data set.

    Attributes:
        classes: their names; a label is a place among them.
        labels: of each picture.
        picture: the suffix and the bytes of picture number i.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    picture: Callable[[int], tuple[str, bytes]]


def find_labelled(source: str, split: str) -> Labelled:
    """A data set that `find_arrays` knows, or a folder that has a folder of pictures for each class.

    Args:
        split: train or test. A folder of classes has them as its own `train` and `test`, or else is all one
            split.

    Raises:
        DataError: none of these is there, or it cannot be used.
    """
    arrays = find_arrays(source, split)
    if arrays is not None:
        return Labelled(arrays.classes, tuple(arrays.labels.tolist()), partial(_png, arrays))
    root = Path(source)
    folder = root / split if (root / split).is_dir() else root
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [
        (i, path)
        for i, name in enumerate(names)
        for path in sorted((folder / name).rglob("*"))
        if _is_picture(path)
    ]
    if not files:
        raise DataError(
            f"{source}: no data set that is known: `digits`, an .npz with {split}_images and "
            f"{split}_labels, IDX files, "
            "CIFAR's folder, or a folder with a folder of pictures for each class"
        )
    return Labelled(tuple(names), tuple(i for i, _ in files), lambda i: _file(files[i][1]))


def write_labelled(
    source: str, out: Path, split: str = "train", progress: Progress = lambda done, of: None
) -> int:
    """Writes the split into `out`/NNNNNN.tar with the classes' names as captions, and says how many pictures
    it has.

    Each sample's JSON holds its `label`, a number. Shards that are there are kept: the same call again goes
    on.

    Raises:
        DataError: see `find_labelled`; or `out` holds something else.
    """
    found = find_labelled(source, split)
    this = {"source": source, "split": split, "classes": list(found.classes), "samples": len(found.labels)}
    before = read_record(str(out / RECORD))
    if before is None and any(out.glob("*.tar")):
        raise DataError(f"{out}: holds shards of another making; give an empty folder")
    if before is not None and before != this:
        raise DataError(f"{out}: holds {before.get('split')} of {before.get('source')}; give an empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
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
    about = {"captions": [found.classes[label]], "label": label}
    return {"__key__": f"{i:08d}", suffix: content, "json": json.dumps(about, ensure_ascii=False).encode()}


def _png(arrays: Arrays, i: int) -> tuple[str, bytes]:
    file = io.BytesIO()
    Image.fromarray(arrays.images[i]).save(file, "PNG", compress_level=2)
    return "png", file.getvalue()


def _file(path: Path) -> tuple[str, bytes]:
    try:
        return path.suffix.lower().removeprefix("."), path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES and path.is_file()
