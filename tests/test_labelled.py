"""Labelled data sets: every format round-trips, damage is one clear error, and no pickle is executed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.data.arrays import find_arrays
from unclip.data.labelled import find_labelled, write_labelled
from unclip.data.sample import label, picture
from unclip.data.shards import DataConfig, Stream
from unclip.data.tar import find_shards, read_samples, write_shard
from unclip.errors import DataError

GREY = np.random.default_rng(0).integers(0, 256, (7, 12, 12), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 0, 2, 4], dtype=np.uint8)


def idx(array: np.ndarray[Any, Any], kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder: Path, split: str = "train", **change: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(change.get("images", idx(GREY)))
    (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(change.get("labels", idx(LABELS))))
    return folder


def rows(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As CIFAR has them: all red bytes first."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar10(folder: Path, protocol: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    names = [b"plane", b"car", b"bird"]
    parts = {f"data_batch_{i + 1}": (COLOUR[i : i + 1], [i % 3]) for i in range(5)} | {
        "test_batch": (COLOUR[5:], [2])
    }
    for name, (images, labels) in parts.items():
        (folder / name).write_bytes(pickle.dumps({b"data": rows(images), b"labels": labels}, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names, b"num_vis": 3072}, protocol))
    return folder


def python_2_batch(images: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """The very opcodes of the published files: byte strings for text, and numpy.core's names."""

    def text(x: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(x)) + x

    data = rows(images)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
        b"(K\x01M" + struct.pack("<H", len(data)) + b"M" + struct.pack("<H", data.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + text(data.tobytes()) + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([one]) for one in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def test_idx_plain_and_packed(tmp_path: Path) -> None:
    idx_folder(tmp_path / "set")
    idx_folder(tmp_path / "set", "t10k", images=idx(GREY[:2]), labels=idx(LABELS[:2]))
    train, test = (find_arrays(str(tmp_path / "set"), split) for split in ("train", "test"))
    assert train is not None and test is not None
    np.testing.assert_array_equal(train.images, GREY)
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(test.images, GREY[:2])
    assert train.classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": idx(GREY)[:-1]}, "cut off"),
        ({"images": idx(GREY) + b"x"}, "has more"),
        ({"images": idx(GREY, kind=13)}, "not an IDX file of bytes"),
        ({"images": b"\0\0\x08"}, "cannot be read as IDX"),
        ({"images": struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)}, "too many for a data set"),
        ({"labels": idx(LABELS[:3])}, "each needs its own"),
    ],
)
def test_damaged_idx_is_one_line(tmp_path: Path, change: dict[str, bytes], said: str) -> None:
    folder = idx_folder(tmp_path / "set", **change)
    with pytest.raises(DataError, match=said):
        find_arrays(str(folder), "train")


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_10(tmp_path: Path, protocol: int) -> None:
    folder = str(cifar10(tmp_path / "cifar", protocol))
    train, test = find_arrays(folder, "train"), find_arrays(folder, "test")
    assert train is not None and test is not None
    np.testing.assert_array_equal(train.images, COLOUR[:5])
    np.testing.assert_array_equal(test.images, COLOUR[5:])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 0, 1], [2])
    assert train.classes == ("plane", "car", "bird")


def test_cifar_as_python_2_wrote_it(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "cifar")
    batch = python_2_batch(COLOUR[5:], [1])
    np.testing.assert_array_equal(
        pickle.loads(batch, encoding="bytes")[b"data"], rows(COLOUR[5:])
    )  # it is a true one
    (folder / "test_batch").write_bytes(batch)
    found = find_arrays(str(folder), "test")
    assert found is not None
    np.testing.assert_array_equal(found.images, COLOUR[5:])
    assert found.labels.tolist() == [1]


def test_cifar_100(tmp_path: Path) -> None:
    folder = tmp_path / "cifar"
    folder.mkdir()
    (folder / "meta").write_bytes(
        pickle.dumps({"fine_label_names": ["apple", "bear"], "coarse_label_names": ["a"]}, 2)
    )
    tree = {"data": rows(COLOUR), "fine_labels": [0, 1, 0, 1, 0, 1], "coarse_labels": [0] * 6}
    (folder / "train").write_bytes(pickle.dumps(tree, 2))
    found = find_arrays(str(folder), "train")
    assert found is not None
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(found.images, COLOUR)


class Runs:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["labels", "data", "beside"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int, place: str) -> None:
    mark = tmp_path / "was-here"
    for evil in (
        Runs(os.system, f"touch {mark}"),
        Runs(eval, f"open({str(mark)!r}, 'w')"),
        Runs(os.mkdir, str(mark)),
    ):
        tree: dict[Any, Any] = {b"data": rows(COLOUR[5:]), b"labels": [1]}
        tree |= (
            {b"labels": [1, evil]}
            if place == "labels"
            else {b"data": evil}
            if place == "data"
            else {b"x": evil}
        )
        folder = cifar10(tmp_path / "cifar")
        (folder / "test_batch").write_bytes(pickle.dumps(tree, protocol))
        with pytest.raises(DataError, match=r"test_batch: asks for \w+\.\w+, .* nothing of it was run"):
            find_arrays(str(folder), "test")
        assert not mark.exists()
        pickle.loads(pickle.dumps(evil, protocol))  # it would have
        assert mark.exists()
        mark.rmdir() if mark.is_dir() else mark.unlink()


def test_names_inside_allowed_modules_are_refused_as_well(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "cifar")
    for name in ("numpy\nload", "numpy.core.multiarray\nfromfile", "_codecs\nopen", "numpy\nndarray.tofile"):
        (folder / "test_batch").write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
        with pytest.raises(DataError, match="nothing of it was run"):
            find_arrays(str(folder), "test")


def test_a_damaged_pickle_is_one_line(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "cifar")
    good = (folder / "test_batch").read_bytes()
    for content in (
        good[:50],
        b"",
        b"no pickle",
        pickle.dumps([1]),
        pickle.dumps({b"data": np.zeros((1, 3072))}),
    ):
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(DataError, match="test_batch"):
            find_arrays(str(folder), "test")


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=GREY, train_labels=LABELS)
    np.savez(tmp_path / "b.npz", x_test=COLOUR, y_test=LABELS[:6, None])
    a, b = find_arrays(str(tmp_path / "a.npz"), "train"), find_arrays(str(tmp_path / "b.npz"), "test")
    assert a is not None and b is not None
    np.testing.assert_array_equal(a.images, GREY)
    np.testing.assert_array_equal(b.images, COLOUR)
    with pytest.raises(DataError, match=r"no test_images .* there are train_images, train_labels"):
        find_arrays(str(tmp_path / "a.npz"), "test")
    np.savez(tmp_path / "c.npz", train_images=np.array([{}], dtype=object), train_labels=LABELS)
    with pytest.raises(DataError, match="cannot be read as npz"):
        find_arrays(str(tmp_path / "c.npz"), "train")
    np.savez(tmp_path / "d.npz", train_images=GREY.astype(float), train_labels=LABELS)
    with pytest.raises(DataError, match="must be uint8"):
        find_arrays(str(tmp_path / "d.npz"), "train")


def test_the_digits_are_all_there_once() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    train, test = find_arrays("digits", "train"), find_arrays("digits", "test")
    assert train is not None and test is not None
    assert (len(train.images), len(test.images)) == (1437, 360)
    assert (
        np.bincount(train.labels).tolist()
        == (np.bincount(load_digits().target) - np.bincount(test.labels)).tolist()
    )
    np.testing.assert_array_equal(np.rint(test.images * (16 / 255)), load_digits().images[::5])


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for name in ("test/cat", "test/dog", "train/dog", "train/eel"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(tmp_path / name / "a.png")
    found = find_labelled(str(tmp_path), "test")
    assert (found.classes, found.labels) == (("cat", "dog"), (0, 1))
    assert found.picture(0) == ("png", (tmp_path / "test/cat/a.png").read_bytes())
    assert find_labelled(str(tmp_path / "train"), "train").classes == ("dog", "eel")
    with pytest.raises(DataError, match="not a known data set"):
        find_labelled(str(tmp_path / "nothing"), "train")


def test_shards_hold_pictures_and_labels_in_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=GREY, train_labels=LABELS)
    arguments = ["data", "labelled", str(tmp_path / "a.npz"), str(tmp_path / "out")]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.output == f"7 pictures: {tmp_path / 'out'}\n"
    samples = list(read_samples(find_shards(str(tmp_path / "out/*.tar"))))
    assert [label(one) for one in samples] == LABELS.tolist()
    np.testing.assert_array_equal(np.stack([np.array(picture(one).convert("L")) for one in samples]), GREY)
    before = (tmp_path / "out/000000.tar").read_bytes()
    assert write_labelled(str(tmp_path / "a.npz"), tmp_path / "out") == 7  # again
    assert (tmp_path / "out/000000.tar").read_bytes() == before
    np.savez(tmp_path / "b.npz", train_images=GREY, train_labels=LABELS)
    with pytest.raises(DataError, match="give an empty folder"):
        write_labelled(str(tmp_path / "b.npz"), tmp_path / "out")


def test_a_data_set_that_changed_is_written_again(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(tmp_path / "in" / name / "a.png")
    arguments = ["data", "labelled", str(tmp_path / "in"), str(tmp_path / "out")]
    written = f"2 pictures: {tmp_path / 'out'}\n"
    assert CliRunner().invoke(cli, arguments).output == written
    assert CliRunner().invoke(cli, arguments).output == f"already written, nothing changed\n{written}"
    record = tmp_path / "out/shards.json"
    tree = json.loads(record.read_text())
    del tree["content"]  # earlier versions noted none
    record.write_text(json.dumps(tree))
    assert "nothing changed" in CliRunner().invoke(cli, arguments).output
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "in/dog/a.png")  # as many as before
    assert CliRunner().invoke(cli, arguments).output == written
    pixels = [picture(one).getpixel((0, 0)) for one in read_samples([str(tmp_path / "out/000000.tar")])]
    assert pixels == [(255, 0, 0), (0, 0, 255)]
    np.savez(tmp_path / "a.npz", train_images=GREY, train_labels=LABELS)
    write_labelled(str(tmp_path / "a.npz"), tmp_path / "arrays")
    np.savez(tmp_path / "a.npz", train_images=GREY[:3], train_labels=LABELS[:3])
    assert write_labelled(str(tmp_path / "a.npz"), tmp_path / "arrays") == 3
    assert len(list(read_samples([str(tmp_path / "arrays/000000.tar")]))) == 3


def test_a_stream_gives_the_labels_that_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=GREY, train_labels=LABELS)
    write_labelled(str(tmp_path / "a.npz"), tmp_path / "out")
    config = DataConfig(shards=str(tmp_path / "out/*.tar"), batch=1, workers=0, shuffle=7)
    items = list(islice(Stream(config, size=12, needs=frozenset({"image", "label"})), 7))
    assert [item.label for item in items] == [LABELS[int(item.key)] for item in items]
    plain = next(iter(Stream(config, size=12)))
    assert plain.label is None


def test_a_label_that_is_no_number_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "p.png"
    Image.new("L", (12, 12)).save(file)
    good = {"png": file.read_bytes()}
    abouts = [{"caption": "a", "label": bad} for bad in ("3", -1, 1.5, True)] + [{"caption": "a", "label": 2}]
    write_shard(
        tmp_path / "a.tar",
        ({"__key__": str(i), **good, "json": json.dumps(a).encode()} for i, a in enumerate(abouts)),
    )
    config = DataConfig(shards=str(tmp_path / "a.tar"), batch=1, workers=0, shuffle=1)
    item = next(iter(Stream(config, size=12, needs=frozenset({"image", "label"}))))
    assert (item.label, item.skipped.total()) == (2, 4)
    assert {reason for _, reason in item.skipped} == {"unreadable label"}
