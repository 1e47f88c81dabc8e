"""Benchmark data sets as they are handed out: IDX files, CIFAR's pickles, npz, scikit-learn's digits.

CIFAR comes as Python pickles, and a pickle can run any program. These are read by an unpickler that knows no name but
the four that such a file needs, and has harmless stand-ins for those: no class, no function and no module is looked up.
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

DIGITS = "digits"  # how scikit-learn's are called, which are no file
DIGITS_TEST = 5  # every so many-th of them is for testing; they come without a split of their own
LARGEST = 2**33  # bytes of an IDX file, unpacked
IDX_UINT8 = 0x08
SPLITS = {"train": ("train",), "test": ("t10k", "test")}  # how file names begin


class Arrays(NamedTuple):
    """Pictures uint8 [N, H, W] or [N, H, W, 3], their classes int64 [N], and the classes' names."""

    images: Bytes
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def find_arrays(source: str, split: str) -> Arrays | None:
    """The data set at that place: `digits`, an .npz file, a folder of IDX files or of CIFAR's; None if it is none of them.

    Args:
        split: train or test.

    Raises:
        DataError: it is one, and cannot be used.
    """
    path = Path(source)
    if source == DIGITS and not path.exists():
        return _digits(split)
    if path.suffix == ".npz":
        return _checked(source, *_npz(path, split))
    if not path.is_dir():
        return None
    if any(path.glob("*-images[-.]idx3-ubyte*")):
        images, labels = (_read_idx(_idx_file(path, split, what)) for what in ("images", "labels"))
        return _checked(source, images, labels)
    if (path / "batches.meta").is_file() or (path / "meta").is_file():
        return _cifar(path, split)
    return None


def _checked(source: str, images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str] = ()) -> Arrays:
    """As Arrays, if they are."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(
            f"{source}: pictures must be uint8 [N, H, W] or [N, H, W, 3], not {images.dtype} {images.shape}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise DataError(
            f"{source}: {len(images)} pictures with labels {labels.dtype} {labels.shape}; each needs its own"
        )
    if labels.min() < 0 or (classes and labels.max() >= len(classes)):
        raise DataError(f"{source}: labels from {labels.min()} to {labels.max()}; they count classes from 0")
    if images.shape[-1] == 1 and images.ndim == 4:
        images = images[..., 0]
    names = tuple(classes) or tuple(map(str, range(int(labels.max()) + 1)))
    return Arrays(images, labels.astype(np.int64), names)


def _digits(split: str) -> Arrays:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(f"{DIGITS}: they come with scikit-learn: pip install scikit-learn") from None
    found = load_digits()
    chosen = (np.arange(len(found.target)) % DIGITS_TEST == 0) == (split == "test")
    images = np.rint(found.images[chosen] * (255 / 16)).astype(np.uint8)  # 0 … 16
    return _checked(DIGITS, images, found.target[chosen])


def _npz(path: Path, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Under the names that such files have: train_images and train_labels, or x_train and y_train."""
    try:
        with np.load(path, allow_pickle=False) as file:
            for pair in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
                if set(pair) <= set(file.files):
                    return file[pair[0]], file[pair[1]].reshape(-1)
            there = ", ".join(file.files)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as npz ({error})") from None
    raise DataError(f"{path}: no {split}_images and {split}_labels (or x_{split} and y_{split}); there are {there}")


# --- IDX: MNIST and those that look like it ---


def _idx_file(folder: Path, split: str, what: str) -> Path:
    ending = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}[what]
    pattern = re.compile(rf"({'|'.join(SPLITS[split])})-{what}[-.]{ending}(\.gz)?")
    for path in sorted(folder.iterdir()):
        if pattern.fullmatch(path.name):
            return path
    raise DataError(f"{folder}: no {SPLITS[split][0]}-{what}-{ending}, plain or .gz")


def _read_idx(path: Path) -> Bytes:
    """Two zeros, the type, the number of dimensions; each as four bytes, big-endian; the values."""
    try:
        with cast("BinaryIO", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or kind != IDX_UINT8:
                raise DataError(f"{path}: not an IDX file of bytes")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            count = math.prod(shape)
            if count > LARGEST:
                raise DataError(f"{path}: claims to hold {shape}, more than can be meant")
            content = file.read(count)
            rest = file.read(1)
    except (OSError, EOFError, struct.error) as error:
        raise DataError(f"{path}: cannot be read as IDX ({error})") from None
    if len(content) != count or rest:
        raise DataError(f"{path}: says that it holds {shape}, and does not: it is cut off or has more")
    return np.frombuffer(content, np.uint8).reshape(shape)


# --- CIFAR-10 and CIFAR-100, the "python version" ---


def _cifar(folder: Path, split: str) -> Arrays:
    ten = (folder / "batches.meta").is_file()
    names = _entry(folder / ("batches.meta" if ten else "meta"), b"label_names" if ten else b"fine_label_names", list)
    files = ([f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]) if ten else [split]
    rows, labels = [], []
    for name in files:
        tree = _read_pickle(folder / name)
        found = tree.get(b"data")
        data = found.array() if isinstance(found, _Array) else None
        if data is None or data.ndim != 2 or data.shape[1] != 3072:
            raise DataError(f"{folder / name}: no rows of 3 × 32 × 32 bytes under 'data'")
        said = tree.get(b"labels" if ten else b"fine_labels")
        if not isinstance(said, list) or not all(isinstance(one, int) for one in said):
            raise DataError(f"{folder / name}: no list of labels")
        rows.append(data)
        labels += said
    images = np.concatenate(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = [name.decode("utf-8", "replace") for name in names if isinstance(name, bytes)]
    return _checked(str(folder), np.ascontiguousarray(images), np.array(labels), classes)


def _entry(path: Path, key: bytes, kind: type[list[Any]]) -> list[Any]:
    found = _read_pickle(path).get(key)
    if not isinstance(found, kind):
        raise DataError(f"{path}: has no {key.decode()}")
    return found


class _Array:
    """What stands in for NumPy's array: it takes down the state that the pickle has for it, and checks it when asked."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> Bytes | None:
        """The array, if it is one of bytes."""
        match self.state:
            case (_, tuple() as shape, _DType(code="u1" | "|u1"), False, bytes() as content):
                if all(isinstance(n, int) and n >= 0 for n in shape) and math.prod(shape) == len(content):
                    return np.frombuffer(content, np.uint8).reshape(shape)
        return None


class _DType:
    """What stands in for NumPy's element type: its name."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like; bytes have none."""


class _ArrayKind:
    """What stands in for the class of arrays, which is only ever passed on."""


def _empty_array(*_: object) -> _Array:
    return _Array()


def _latin_bytes(text: object, _: object = None) -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    return text.encode("latin-1") if isinstance(text, str) else b""


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _ArrayKind,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _latin_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values and arrays of bytes; any other name in the file is refused before anything is called."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _STAND_INS:
            raise DataError(f"asks for {module}.{name}, which no CIFAR file needs; nothing of it was run")
        return _STAND_INS[module, name]


def _read_pickle(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            tree = _PlainUnpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever its last opcode could not do
        raise DataError(f"{path}: cannot be read as a CIFAR batch ({type(error).__name__}: {error})") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds a {type(tree).__name__}, not a dictionary")
    # Written by Python 3, its keys are text.
    return {key.encode() if isinstance(key, str) else key: value for key, value in tree.items()}
