"""Readers of labelled benchmark data sets: IDX files, CIFAR's pickles, npz, scikit-learn's digits.

CIFAR is distributed as Python pickles, and a pickle can run any program. They are read by an unpickler that
resolves four names, all to harmless stand-ins defined here. Any other name is refused before anything is
called.
"""

from __future__ import annotations

import gzip
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from unclip.errors import DataError

Bytes = NDArray[np.uint8]

DIGITS = "digits"  # scikit-learn's data set, which is not a file
DIGITS_TEST = 5  # scikit-learn has no test split: every fifth digit is one
LARGEST = 2**33  # bytes of an unpacked IDX file
IDX_UINT8 = 0x08
SPLITS = {"train": "train", "test": "t10k|test"}  # first part of IDX file names


class Arrays(NamedTuple):
    """Pictures uint8 [N, H, W] or [N, H, W, 3], their classes int64 [N], and the names of the classes."""

    images: Bytes
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def find_arrays(source: str, split: str) -> Arrays | None:
    """Read `digits`, an .npz file, or a folder of IDX or CIFAR files. None if the source is none of these.

    Args:
        split: train or test.

    Raises:
        DataError: the data set is damaged or incomplete.
    """
    path = Path(source)
    if source == DIGITS and not path.exists():
        return _digits(split)
    if path.suffix == ".npz":
        return _checked(source, *_npz(path, split))
    if path.is_dir() and any(path.glob("*-images[-.]idx3-ubyte*")):
        images, labels = (_read_idx(_idx_file(path, split, what)) for what in ("images-idx3", "labels-idx1"))
        return _checked(source, images, labels)
    if (path / "batches.meta").is_file():
        files = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        return _cifar(path, files, "batches.meta", "label_names", "labels")
    if (path / "meta").is_file():
        return _cifar(path, [split], "meta", "fine_label_names", "fine_labels")
    return None


def _checked(source: str, images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str] = ()) -> Arrays:
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] not in (1, 3))
    ):
        shape = f"{images.dtype} {images.shape}"
        raise DataError(f"{source}: pictures must be uint8 [N, H, W] or [N, H, W, 3], not {shape}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        found = f"{len(images)} pictures with labels {labels.dtype} {labels.shape}"
        raise DataError(f"{source}: {found}; each needs its own")
    if labels.min() < 0 or (classes and labels.max() >= len(classes)):
        raise DataError(f"{source}: labels from {labels.min()} to {labels.max()}; they count classes from 0")
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    names = tuple(classes) or tuple(map(str, range(int(labels.max()) + 1)))
    return Arrays(images, labels.astype(np.int64), names)


def _digits(split: str) -> Arrays:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            f"{DIGITS}: this data set comes with scikit-learn: pip install scikit-learn"
        ) from None
    found = load_digits()
    chosen = (np.arange(len(found.target)) % DIGITS_TEST == 0) == (split == "test")
    images = np.rint(found.images[chosen] * (255 / 16)).astype(np.uint8)  # values are 0 to 16
    return _checked(DIGITS, images, found.target[chosen])


def _npz(path: Path, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images and labels, named train_images and train_labels or x_train and y_train."""
    try:
        with np.load(path, allow_pickle=False) as file:
            for images, labels in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
                if images in file.files and labels in file.files:
                    return file[images], file[labels].reshape(-1)
            there = ", ".join(file.files)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as npz ({error})") from None
    raise DataError(
        f"{path}: no {split}_images and {split}_labels (or x_{split} and y_{split}); there are {there}"
    )


def _idx_file(folder: Path, split: str, what: str) -> Path:
    pattern = re.compile(rf"({SPLITS[split]})-{what.replace('-', '[-.]')}-ubyte(\.gz)?")
    for path in sorted(folder.iterdir()):
        if pattern.fullmatch(path.name):
            return path
    raise DataError(f"{folder}: no {SPLITS[split].partition('|')[0]}-{what}-ubyte, plain or .gz")


def _read_idx(path: Path) -> Bytes:
    """IDX: two zero bytes, the type, the number of dimensions, each dimension as uint32 big-endian, the
    values.
    """
    try:
        with cast("BinaryIO", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != IDX_UINT8:
                raise DataError(f"{path}: not an IDX file of bytes")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            if math.prod(shape) > LARGEST:
                raise DataError(f"{path}: the header claims {shape} values, more than can be meant")
            content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, struct.error) as error:
        raise DataError(f"{path}: cannot be read as IDX ({error})") from None
    if len(content) != math.prod(shape):
        raise DataError(f"{path}: the header claims {shape} values, but the file is cut off or has more")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _cifar(folder: Path, files: Sequence[str], meta: str, names_key: str, labels_key: str) -> Arrays:
    """The "python version" of CIFAR-10 or CIFAR-100: rows of 3072 bytes, red first."""
    names = _read_pickle(folder / meta).get(names_key)
    if not isinstance(names, list):
        raise DataError(f"{folder / meta}: has no {names_key}")
    rows: list[Bytes] = []
    labels: list[int] = []
    for path in (folder / name for name in files):
        batch = _read_pickle(path)
        data, found = _bytes(batch.get("data")), batch.get(labels_key)
        if data is None or data.ndim != 2 or data.shape[1] != 3072:
            raise DataError(f"{path}: no rows of 3 × 32 × 32 bytes under 'data'")
        if not isinstance(found, list) or not all(isinstance(one, int) for one in found):
            raise DataError(f"{path}: no list of labels")
        rows.append(data)
        labels += found
    images = np.concatenate(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = [name.decode("utf-8", "replace") for name in names if isinstance(name, bytes)]
    return _checked(str(folder), np.ascontiguousarray(images), np.array(labels), classes)


class _StandIn:
    """Stand-in for a NumPy array or dtype: records the constructor's arguments and the pickled state."""

    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


def _bytes(found: object) -> Bytes | None:
    """The array that a stand-in describes, if it is a C-ordered array of bytes."""
    match getattr(found, "state", None):
        case (
            _,
            tuple() as shape,
            _StandIn(arguments=("u1" | b"u1" | "|u1" | b"|u1", *_)),
            False,
            bytes() as content,
        ):
            if all(isinstance(n, int) and n >= 0 for n in shape) and math.prod(shape) == len(content):
                return np.frombuffer(content, np.uint8).reshape(shape)
    return None


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _StandIn,
    ("numpy", "dtype"): _StandIn,
    # Python 3 writes bytes as text in the pickle protocols 0 to 2.
    ("_codecs", "encode"): lambda text, *_: text.encode("latin-1") if isinstance(text, str) else b"",
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _StandIn for core in ("core", "_core")},
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values and stand-ins; any other name in the file is refused before anything is called."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _STAND_INS:
            raise DataError(f"asks for {module}.{name}, which no CIFAR file needs; nothing of it was run")
        return _STAND_INS[module, name]


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tree = _PlainUnpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever its last opcode could not do
        raise DataError(
            f"{path}: cannot be read as a CIFAR batch ({type(error).__name__}: {error})"
        ) from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds a {type(tree).__name__}, not a dictionary")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in tree.items()}
