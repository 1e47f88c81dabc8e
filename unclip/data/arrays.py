"""Readers of labelled benchmark data sets: IDX, CIFAR, npz, and scikit-learn's digits.

CIFAR is distributed as Python pickles, which can run any program. They are read by an unpickler that resolves
only the names an array consists of, to a recorder that runs nothing.
"""

from __future__ import annotations

import gzip
import math
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unclip.errors import DataError

DIGITS = "digits"  # scikit-learn's data set, which is not a file
LARGEST = 2**33  # bytes of an unpacked IDX file


class Arrays(NamedTuple):
    """Images uint8 [N, H, W] or [N, H, W, 3], their classes int64 [N], and the names of the classes."""

    images: NDArray[np.uint8]
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
    names: Sequence[str] = ()
    if source == DIGITS and not path.exists():
        images, labels = _digits(split)
    elif path.suffix == ".npz":
        images, labels = _npz(path, split)
    elif path.is_dir() and any(path.glob("*-images[-.]idx3-ubyte*")):
        images, labels = (_idx(_idx_path(path, split, what)) for what in ("images-idx3", "labels-idx1"))
    elif (path / "batches.meta").is_file():
        files = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        images, labels, names = _cifar(path, files, "batches.meta", "label_names", "labels")
    elif (path / "meta").is_file():
        images, labels, names = _cifar(path, [split], "meta", "fine_label_names", "fine_labels")
    else:
        return None
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in (1, 3):
        found = f"{images.dtype} {images.shape}"
        raise DataError(f"{source}: pictures must be uint8 [N, H, W] or [N, H, W, 3], not {found}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        found = f"{len(images)} pictures with labels {labels.dtype} {labels.shape}"
        raise DataError(f"{source}: {found}; each needs its own")
    if labels.min() < 0 or (names and labels.max() >= len(names)):
        raise DataError(f"{source}: labels from {labels.min()} to {labels.max()}; they count classes from 0")
    images = images[..., 0] if images.ndim == 4 and channels == 1 else images
    classes = tuple(names) or tuple(map(str, range(int(labels.max()) + 1)))
    return Arrays(images, labels.astype(np.int64), classes)


def _digits(split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """scikit-learn's digits; every fifth one is the test split, as they come without one."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits: this data set comes with scikit-learn: pip install scikit-learn") from None
    found = load_digits()
    chosen = (np.arange(len(found.target)) % 5 == 0) == (split == "test")
    images = np.rint(found.images[chosen] * (255 / 16)).astype(np.uint8)  # values are 0 to 16
    return images, found.target[chosen]


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
    names = f"{split}_images and {split}_labels (or x_{split} and y_{split})"
    raise DataError(f"{path}: no {names}; there are {there}")


def _idx_path(folder: Path, split: str, what: str) -> Path:
    prefixes = ("train",) if split == "train" else ("t10k", "test")
    names = {f"{prefix}-{name}-ubyte" for prefix in prefixes for name in (what, what.replace("-", "."))}
    for path in sorted(folder.iterdir()):
        if path.name.removesuffix(".gz") in names:
            return path
    raise DataError(f"{folder}: no {prefixes[0]}-{what}-ubyte, plain or .gz")


def _idx(path: Path) -> NDArray[np.uint8]:
    """IDX: 0, 0, the type, the number of dimensions, each dimension as big-endian uint32, the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if magic[:3] != b"\0\0\x08":
                raise DataError(f"{path}: not an IDX file of bytes")
            shape = tuple(np.frombuffer(file.read(4 * magic[3]), ">u4", magic[3]).tolist())
            if math.prod(shape) > LARGEST:
                raise DataError(f"{path}: the header claims {shape} values, too many for a data set")
            content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as IDX ({error})") from None
    if len(content) != math.prod(shape):
        raise DataError(f"{path}: the header claims {shape} values, but the file is cut off or has more")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _cifar(
    folder: Path, files: Sequence[str], meta: str, names_key: str, labels_key: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """The "python version" of CIFAR-10 or CIFAR-100: rows of 3072 bytes, red first."""
    names = _read_pickle(folder / meta).get(names_key)
    if not isinstance(names, list):
        raise DataError(f"{folder / meta}: has no {names_key}")
    rows: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for path in (folder / name for name in files):
        batch = _read_pickle(path)
        match getattr(batch.get("data"), "state", None):  # ndarray's pickled state
            case (_, (int(n), 3072), _Recorder(arguments=("u1" | b"u1", *_)), False, bytes(data)) if (
                len(data) == n * 3072
            ):
                rows.append(np.frombuffer(data, np.uint8).reshape(n, 3, 32, 32))
            case _:
                raise DataError(f"{path}: no rows of 3 × 32 × 32 bytes under 'data'")
        found = batch.get(labels_key)
        if not isinstance(found, list) or not all(isinstance(label, int) for label in found):
            raise DataError(f"{path}: no list of labels")
        labels += found
    images = np.ascontiguousarray(np.concatenate(rows).transpose(0, 2, 3, 1))
    return (
        images,
        np.array(labels),
        [name.decode("utf-8", "replace") for name in names if isinstance(name, bytes)],
    )


class _Recorder:
    """Stand-in for an array or dtype in a pickle: keeps the constructor's arguments and the state."""

    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


def _encode(text: str, *_: object) -> bytes:
    """`codecs.encode` to Latin-1: Python 3 writes bytes so in the pickle protocols 0 to 2."""
    return text.encode("latin-1")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain values and recorders; any other name is refused before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("_codecs", "encode"):
                return _encode
            case ("numpy", "ndarray" | "dtype"):
                return _Recorder
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _Recorder
        raise DataError(f"asks for {module}.{name}, which no CIFAR file needs; nothing of it was run")


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tree = _ArrayUnpickler(file, encoding="bytes").load()
        return {k.decode("latin-1") if isinstance(k, bytes) else k: value for k, value in tree.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: cannot be read as a CIFAR batch ({reason})") from None
