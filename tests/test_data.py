"""Data loading: sampling, reading order and skipped samples."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import webdataset as wds
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.clip import Clip
from unclip.data import shards as streams
from unclip.data import tar
from unclip.data.loader import batches, embed
from unclip.data.sample import BadSample, captions, described, picture, scaled
from unclip.data.shards import DataConfig, Item, Stream
from unclip.data.shuffle import shuffled
from unclip.data.tar import find_shards, read_samples, read_shard
from unclip.errors import DataError
from unclip.images import from_bytes
from unclip.menagerie import shards as menagerie_shards
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import HELD_OUT, sample
from unclip.menagerie.shards import write_shards
from unclip.stages.batch import Batch


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    list(write_shards(folder, count=40, size=64))
    return folder


def png(size: tuple[int, int] = (64, 64), colour: tuple[int, int, int] = (10, 20, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def stream(
    pattern: Path | str, *, size: int = 64, crop: int | None = None, shuffle: int = 10, **more: Any
) -> Stream:
    return Stream(
        DataConfig(shards=str(pattern), batch=4, workers=0, shuffle=shuffle), size=size, crop=crop, **more
    )


# --- writing the menagerie ---


def test_shards_hold_the_scenes_their_pictures_and_their_captions(shards: Path) -> None:
    samples = list(read_samples(find_shards(str(shards / "*.tar"))))
    assert [s["__key__"] for s in samples] == [f"{i:08d}" for i in range(40)]
    for i, one in enumerate(samples[:5]):
        scene = sample(0, i)
        assert picture(one).tobytes() == draw(scene, 64).tobytes()
        assert json.loads(one["json"])["scene"] == scene.attributes()
        assert len(captions(one)) == menagerie_shards.CAPTIONS and captions(one)[0] == one["txt"].decode()


def test_the_same_call_writes_the_same_samples(shards: Path, tmp_path: Path) -> None:
    assert list(write_shards(tmp_path, count=40, size=64)) == [40]

    def content(folder: Path) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in s.items() if not k.startswith("__")}
            for s in read_samples(find_shards(str(folder / "*.tar")))
        ]

    assert content(tmp_path) == content(shards)
    list(write_shards(tmp_path / "other", count=40, size=64, seed=1))
    assert content(tmp_path / "other") != content(shards)


def test_writing_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(menagerie_shards, "SHARD_SIZE", 10)
    steps = write_shards(tmp_path, count=25, size=32)
    assert next(steps) == 10
    steps.close()
    first = (tmp_path / "000000.tar").stat()
    assert list(write_shards(tmp_path, count=25, size=32)) == [20, 25]
    assert (tmp_path / "000000.tar").stat().st_mtime_ns == first.st_mtime_ns
    assert len(list(read_samples(find_shards(str(tmp_path / "*.tar"))))) == 25
    assert list(write_shards(tmp_path, count=25, size=32)) == []


@pytest.mark.parametrize(
    "other", [("--count", "4"), ("--seed", "1"), ("--held-out",), ("--size", "32"), ("--siblings", "2")]
)
def test_another_menagerie_in_the_same_folder_is_refused(tmp_path: Path, other: tuple[str, ...]) -> None:
    command = ["data", "menagerie", "--out", str(tmp_path), "--count", "3", "--size", "16"]
    assert CliRunner().invoke(cli, command).output == f"{tmp_path}\n"
    content = (tmp_path / "000000.tar").read_bytes()
    assert CliRunner().invoke(cli, command).output == f"already drawn, nothing changed: {tmp_path}\n"
    refused = CliRunner().invoke(cli, [*command, *other])
    name = other[0].removeprefix("--").replace("-", "_")
    assert isinstance(refused.exception, DataError)
    assert f"holds the menagerie with another {name}" in str(refused.exception)
    assert (tmp_path / "000000.tar").read_bytes() == content
    (tmp_path / "shards.json").unlink()
    assert "holds other shards" in str(CliRunner().invoke(cli, command).exception)


def test_a_shard_that_fails_half_way_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_5(scene: object, size: int) -> Image.Image:
        if scene == sample(0, 5):
            raise KeyboardInterrupt
        return Image.new("RGB", (size, size))

    monkeypatch.setattr(menagerie_shards, "draw", stop_at_5)
    with pytest.raises(KeyboardInterrupt):
        list(write_shards(tmp_path, count=10, size=32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_write_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(menagerie_shards, "SHARD_SIZE", 10)
    done = list(write_shards(tmp_path / "two", count=11, size=16, jobs=2))
    assert done == [10, 11]
    last = list(read_samples([str(tmp_path / "two/000001.tar")]))
    assert [s["__key__"] for s in last] == ["00000010"]
    assert picture(last[0]).tobytes() == draw(sample(0, 10), 16).tobytes()


def test_held_out_shards_hold_held_out_compositions_only(tmp_path: Path) -> None:
    list(write_shards(tmp_path, count=12, size=32, held_out=True))
    for one in read_samples(find_shards(str(tmp_path / "*.tar"))):
        scene = json.loads(one["json"])["scene"]
        assert (scene["subject"], scene["headwear"]) in HELD_OUT


# --- finding ---


def test_shards_are_found_by_path_glob_and_braces(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"00{i}.tar", {"a.png": png(), "a.txt": b"x"})
    names = [str(tmp_path / f"00{i}.tar") for i in range(3)]
    assert find_shards(names[1]) == names[1:2]
    assert find_shards(str(tmp_path / "*.tar")) == names
    assert find_shards(str(tmp_path / "00{0..1}.tar")) == names[:2]
    assert find_shards(str(tmp_path / "00{2,0}.tar")) == [names[0], names[2]]


def test_what_a_brace_pattern_names_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    for i in (0, 2):
        write_tar(tmp_path / f"{i}.tar", {"a.png": png(), "a.txt": b"x"})
    with pytest.raises(DataError, match=r"2 of its 4 names are missing: \S+/1.tar, \S+/3.tar; a glob"):
        find_shards(str(tmp_path / "{0..3}.tar"))
    assert len(find_shards(str(tmp_path / "{0..2..2}.tar"))) == 2
    with pytest.raises(DataError, match=r"1 of its 2 names are missing: \S+/b/\*.tar"):
        find_shards(f"{tmp_path}/{{.,b}}/*.tar")


def test_a_glob_takes_the_tars_among_other_files(shards: Path) -> None:
    assert {path.suffix for path in shards.iterdir()} == {".json", ".tar"}
    assert find_shards(f"{shards}/*") == [str(shards / "000000.tar")]


@pytest.mark.parametrize("name", ["captions.json", "a.csv", "a.PARQUET"])
def test_a_table_is_not_a_shard_and_the_message_names_the_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]")
    with pytest.raises(DataError, match=f"{name}: not a tar; `unclip data pack"):
        find_shards(str(tmp_path / name))


@pytest.mark.parametrize("pattern", ["nothing.tar", "*.tar", "{0..9}.tar", "{0..", ""])
def test_shards_that_are_not_there_are_a_data_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match="no such shards"):
        find_shards(str(tmp_path / pattern))


# --- reading samples ---


def test_captions_come_from_json_or_text() -> None:
    assert captions({"__key__": "a", "txt": b" a cat \n"}) == ["a cat"]
    assert captions({"__key__": "a", "json": b'{"captions": ["one", "two"]}', "txt": b"three"}) == [
        "one",
        "two",
    ]
    assert captions({"__key__": "a", "json": b'{"captions": "a cat"}'}) == ["a cat"]
    assert captions({"__key__": "a", "json": b'{"other": 1}', "txt": b"three"}) == ["three"]
    with pytest.raises(DataError, match="sample a: no caption"):
        captions({"__key__": "a", "png": b""})
    with pytest.raises(DataError, match="sample a: no picture"):
        picture({"__key__": "a", "txt": b""})


# --- the stream ---


def first(stream: Stream, n: int) -> list[tuple[bytes, str]]:
    return [
        (item.image.numpy().tobytes() if item.image is not None else b"", item.caption)
        for item in islice(iter(stream), n)
    ]


def test_the_stream_depends_on_its_seed_and_rank_alone(shards: Path) -> None:
    pattern = shards / "*.tar"
    one = first(stream(pattern, seed=1), 20)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert first(stream(pattern, seed=1), 20) == one
    assert first(stream(pattern, seed=2), 20) != one
    assert first(stream(pattern, seed=1, number=1), 20) != one


def test_the_stream_is_endless_and_shuffled(shards: Path) -> None:
    several = first(stream(shards / "*.tar", shuffle=40), 120)
    pictures = [image for image, _ in several]
    assert len(set(pictures)) == 40
    in_order = [draw(sample(0, i), 64) for i in range(40)]
    assert [np.frombuffer(p, np.float32).tobytes() for p in pictures[:40]] != [i.tobytes() for i in in_order]
    assert len({text for _, text in several}) > 60  # one of several captions is drawn each time


def test_the_shuffle_buffer_is_bounded_in_samples_and_in_bytes() -> None:
    def content(sizes: list[int]) -> Iterator[dict[str, Any]]:
        for i, size in enumerate(sizes):
            read.append(i)
            yield {"__key__": str(i), "png": bytes(size)}

    read: list[int] = []
    expected = wds.shuffle(7, initial=7, rng=random.Random(3))(content([1] * 50))
    order = [one["__key__"] for one in expected]  # runs of earlier versions resume in their order
    assert [one["__key__"] for one in shuffled(content([1] * 50), 7, random.Random(3))] == order
    sizes, read = [1] * 20 + [100] * 20 + [5000] + [1] * 20, []
    out: list[int] = []
    for one in shuffled(content(sizes), 10, random.Random(3), limit=350):
        waiting = [i for i in read if i not in {*out, int(one["__key__"])}]
        assert len(waiting) < 10 and sum(sizes[i] for i in waiting) <= 450 + 5000 * (40 in waiting)
        out.append(int(one["__key__"]))
    assert sorted(out) == list(range(61)) and out != sorted(out)


def test_reading_draws_nothing_from_the_global_generators(shards: Path) -> None:
    before = torch.get_rng_state(), random.getstate()
    next(batches(stream(shards / "*.tar")))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_batches_are_the_stream_in_pieces(shards: Path) -> None:
    pattern = shards / "*.tar"
    made = list(islice(batches(stream(pattern, seed=3)), 3))
    single = list(islice(iter(stream(pattern, seed=3)), 12))
    assert [c for b in made for c in b.captions] == [item.caption for item in single]
    images = torch.cat([b.image for b in made if b.image is not None])
    assert torch.equal(images, torch.stack([item.image for item in single if item.image is not None]))
    assert images.shape == (12, 64, 64, 3) and images.dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_different_things_and_the_same_each_time(shards: Path) -> None:
    def read() -> list[tuple[str, ...]]:
        config = DataConfig(shards=str(shards / "*.tar"), batch=2, workers=2, shuffle=10)
        return [b.captions for b in islice(batches(Stream(config, size=64)), 4)]

    made = read()
    assert made == read()
    assert len(set(made)) > 1


def test_a_program_that_left_a_loader_open_ends(shards: Path) -> None:
    program = f"""
from unclip.data.loader import batches
from unclip.data.shards import DataConfig, Stream
config = DataConfig(shards={str(shards / "*.tar")!r}, batch=2, workers=2, shuffle=10)
left_open = batches(Stream(config, size=64))
next(left_open)
kept = left_open.gi_yieldfrom  # as a traceback somewhere may do
"""
    made = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True)
    assert made.returncode == 0 and "Traceback" not in made.stderr, made.stderr


def test_pictures_of_other_shapes_are_scaled_and_cut_from_the_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (128, 32), "black")
    wide.paste("white", (48, 0, 80, 32))  # the middle square
    file = io.BytesIO()
    wide.save(file, "PNG")
    write_tar(tmp_path / "a.tar", {"a.png": file.getvalue(), "a.txt": b"wide"})
    image = next(iter(stream(tmp_path / "a.tar", size=16))).image
    assert image is not None and image.shape == (16, 16, 3)
    assert image[:, 2:-2].min() > 240


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colours with fine grain."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray(np.clip(pixels + rng.integers(-20, 21, pixels.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("side", "decoded"), [(64, (150, 128)), (65, (300, 256)), (400, (600, 512)), (None, (600, 512))]
)
def test_a_large_jpeg_is_decoded_smaller_and_nobody_sees_it(
    side: int | None, decoded: tuple[int, int]
) -> None:
    file, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6  # lies on its side
    photograph(512, 600).save(file, "JPEG", quality=90, exif=turned)
    sample = {"__key__": "a", "jpg": file.getvalue()}
    image = picture(sample, side)
    assert image.size == decoded
    if side is not None:
        ours, whole = (np.asarray(scaled(one, side), dtype=np.int16) for one in (image, picture(sample)))
        assert ours.shape == whole.shape and np.abs(ours - whole).mean() < 1  # of 255


def test_a_jpeg_that_breaks_off_is_bad_at_every_side() -> None:
    file = io.BytesIO()
    photograph(512, 512).save(file, "JPEG", quality=90)
    for side in (None, 32, 512):
        with pytest.raises(BadSample, match="unreadable picture"):
            picture({"__key__": "a", "jpg": file.getvalue()[:-2000]}, side)


def test_crops_are_random_parts_of_the_picture(shards: Path) -> None:
    source = [picture(s) for s in read_samples(find_shards(str(shards / "*.tar")))]
    arrays = [np.asarray(image) for image in source]
    corners = set()
    for item in islice(iter(stream(shards / "*.tar", crop=16)), 12):
        image = item.image
        assert image is not None and image.shape == (16, 16, 3)
        part = image.numpy()
        found = {
            (x, y)
            for array in arrays
            for y in range(49)
            for x in range(49)
            if (array[y, x] == part[0, 0]).all() and (array[y : y + 16, x : x + 16] == part).all()
        }
        assert found
        corners |= set(list(found)[:1])
    assert len(corners) > 6


def test_captions_alone_need_no_pictures(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.txt": b"only words"})
    assert next(iter(stream(tmp_path / "a.tar", needs=frozenset()))) == Item(
        "a", "only words", None, None, None, Counter()
    )
    batch = next(batches(stream(tmp_path / "a.tar", needs=frozenset())))
    assert batch.image is None and batch.captions == ("only words",) * 4


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60,000 × 60,000 pixels."""
    good = png((1, 1))
    claim = b"IHDR" + struct.pack(">II", 60_000, 60_000) + good[24:29]
    return good[:12] + claim + struct.pack(">I", zlib.crc32(claim)) + good[33:]


def reasons(skipped: Counter[tuple[str, str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for (_, reason), n in skipped.items():
        counts[reason] += n
    return dict(counts)


def test_bad_samples_are_skipped_and_counted_by_reason_and_shard(tmp_path: Path) -> None:
    good = png()
    broken = bytearray(good)
    broken[40:60] = bytes(20)
    path = str(
        write_tar(
            tmp_path / "a.tar",
            {
                "b.png": good[:40],
                "b.txt": b"cut off",
                "c.png": b"not a picture",
                "c.txt": b"no picture",
                "d.txt": b"picture missing",
                "e.png": good,
                "f.png": good,
                "f.json": b"{not json",
                "g.png": good,
                "g.json": b"[1, 2]",
                "h.png": good,
                "h.txt": b"\xff\xfe not UTF-16",
                "i.png": bytes(broken),
                "i.txt": b"damaged",
                "j.png": bomb(),
                "j.txt": b"a bomb",
                "../../x.png": good,
                "../../x.txt": b"elsewhere",
                "k.png": good,
                "k.txt": b" \n",
                "m.png": good,
                "m.txt": b"good",
            },
        )
    )
    items = list(islice(iter(stream(path, shuffle=1)), 3))
    assert [item.caption for item in items] == ["good"] * 3
    expected = {
        "unreadable picture": 3,
        "no picture": 1,
        "no caption": 3,
        "unreadable caption": 2,
        "decompression bomb": 1,
        "unsafe name": 1,
    }
    for item in items[1:]:  # what the buffer had taken in before the first one may belong to the next
        assert reasons(item.skipped) == expected
        assert {shard for shard, _ in item.skipped} == {path}
    assert not (tmp_path.parent / "x.png").exists()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_carry_what_was_skipped_out_of_every_worker(tmp_path: Path, workers: int) -> None:
    write_tar(
        tmp_path / "a.tar", {"a.png": png(), "a.txt": b"good", "b.png": png()[:40], "b.txt": b"cut off"}
    )
    config = DataConfig(shards=str(tmp_path / "a.tar"), batch=4, workers=workers, shuffle=1)
    made = list(islice(batches(Stream(config, size=64)), 6))
    assert 20 <= sum(batch.skipped.total() for batch in made) <= 24
    assert all(set(batch.skipped) == {(config.shards, "unreadable picture")} for batch in made)


def test_a_link_and_a_name_used_twice_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        header("a.png", kind=tarfile.SYMTYPE)
        + header("b.txt")
        + header("b.txt")
        + header("c.txt")
        + bytes(1024)
    )
    assert [s.get("__bad__") for s in read_shard(str(tmp_path / "a.tar"))] == [
        "not a file",
        "name used twice",
        None,
    ]


def test_a_file_that_claims_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "LARGEST_FILE", 100)
    write_tar(tmp_path / "a.tar", {"a.txt": bytes(101), "b.txt": b"good"})
    found = list(read_shard(str(tmp_path / "a.tar")))
    assert [s.get("__bad__") for s in found] == ["file too large", None] and "txt" not in found[0]


@pytest.mark.parametrize("max_bad", [0.3, 1.0])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_shards_of_bad_samples_only_are_an_error_and_not_read_for_ever(
    tmp_path: Path, workers: int, max_bad: float
) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": png()[:40], "a.txt": b"cut off"})
    config = DataConfig(shards=str(path), batch=4, workers=workers, shuffle=1, max_bad=max_bad)
    with pytest.raises(
        DataError, match=r"of 1000 samples cannot be used.*a\.tar: \d+ unreadable picture; the first is"
    ) as error:
        next(batches(Stream(config, size=64)))
    assert "\n" not in str(error.value)


def test_a_run_goes_on_below_the_share_that_is_allowed_and_stops_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MIN_SAMPLES", 20)
    write_tar(tmp_path / "a.tar", {"a.txt": b"good", "b.txt": b"good", "c.txt": b"good", "d.txt": b""})

    def read(max_bad: float) -> list[Item]:
        config = DataConfig(shards=str(tmp_path / "a.tar"), batch=1, workers=0, shuffle=1, max_bad=max_bad)
        return list(islice(Stream(config, size=64, needs=frozenset()), 100))

    assert len(read(0.3)) == 100
    with pytest.raises(DataError, match="max_bad allows 20%.*a.tar: 5 no caption"):
        read(0.2)


def test_what_was_skipped_names_the_worst_shards_first() -> None:
    skipped = Counter({("a", "x"): 1, ("b", "x"): 2, ("b", "y"): 3, **{(f"c{i}", "z"): 1 for i in range(5)}})
    assert described(skipped) == "b: 3 y, 2 x; a: 1 x; c0: 1 z; c1: 1 z; c2: 1 z; and 2 more shards"


def test_no_damage_to_a_picture_stops_the_stream(tmp_path: Path) -> None:
    rng = random.Random(0)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    good = file.getvalue()
    files: dict[str, bytes] = {}
    for i in range(300):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(8 if i % 2 else 0, min(len(damaged), 120))] = rng.randrange(256)
        files |= {f"{i:03d}.png": bytes(damaged), f"{i:03d}.txt": b"damaged"}
    write_tar(tmp_path / "a.tar", {**files, "end.png": good, "end.txt": b"good"})
    skipped: Counter[tuple[str, str]] = Counter()
    for item in stream(tmp_path / "a.tar", shuffle=1, size=16):
        skipped.update(item.skipped)
        if item.caption == "good":
            break
    assert skipped.total() > 100


def test_a_shard_that_is_cut_off_gives_what_it_still_holds(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    found = list(read_shard(str(tmp_path / "cut.tar")))
    assert 5 < len(found) < 40 and [s["__bad__"] for s in found if "__bad__" in s] == ["shard is damaged"]
    assert found[-1]["__bad__"] == "shard is damaged"


def test_damage_anywhere_in_a_shard_ends_that_shard_only(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "a.tar", {f"{i}.txt": bytes([65 + i]) * 600 for i in range(6)}).read_bytes()
    rng = random.Random(1)
    for _ in range(200):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 30)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "b.tar").write_bytes(bytes(damaged))
        list(read_shard(str(tmp_path / "b.tar")))
    (tmp_path / "b.tar").write_bytes(good[:1536] + b"\xff" * 512 + good[2048:])  # the second header
    assert [s.get("__bad__") for s in read_shard(str(tmp_path / "b.tar"))] == ["shard is damaged"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "shard cannot be opened"),
        (bytes(1024), "shard is empty"),
        (b"x" * 700, "shard cannot be opened"),
    ],
)
def test_shards_without_a_sample_are_one_bad_sample(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    assert [s["__bad__"] for s in read_shard(str(tmp_path / "a.tar"))] == [reason]
    assert [s["__bad__"] for s in read_shard(str(tmp_path / "no.tar"))] == ["shard cannot be opened"]


def test_shards_come_through_pipes_and_file_systems_as_from_files(shards: Path) -> None:
    path = str(shards / "000000.tar")
    whole = list(read_shard(path))

    def same(url: str) -> bool:
        (found,) = find_shards(url)
        return [{**s, "__url__": path} for s in read_shard(found)] == whole

    assert same(f"pipe:cat {path}") and same(f"file://{path}") and same(f"file://{shards}/*.tar")
    fsspec.filesystem("memory").pipe("/set/a.tar", Path(path).read_bytes())
    assert same("memory://set/a.tar") and same("memory://set/*.tar") and same("memory://set/{a..a}.tar")


def test_a_command_that_fails_is_a_bad_sample_and_an_unknown_protocol_an_error(shards: Path) -> None:
    found = list(read_shard(f"pipe:cat {shards}/000000.tar; exit 3"))
    assert found[-1]["__bad__"] and len(found) >= 40
    with pytest.raises(DataError, match="nosuch://a.tar"):
        find_shards("nosuch://a.tar")


# --- the frozen encoders ---


def test_embed_fills_in_what_the_stage_needs(tiny_clip: Clip) -> None:
    seen = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    batch = Batch(
        captions=("a cat", "a corgi in space"),
        image=torch.full((2, 64, 64, 3), 51, dtype=torch.uint8),
        clip_image=seen,
    )
    plain = embed(batch, None, frozenset({"image"}))
    assert plain.image is not None and plain.image_embed is None
    torch.testing.assert_close(plain.image, torch.full((2, 3, 64, 64), -0.6))
    full = embed(batch, tiny_clip, frozenset({"image_embed", "text"}))
    assert full.clip_image is None  # one copy of the pictures is enough from here on
    torch.testing.assert_close(full.image_embed, tiny_clip.encode_image(from_bytes(seen)).clone())
    assert full.image_embed is not None and full.image_embed.shape == (2, tiny_clip.width)
    assert full.text is not None and full.null is not None
    assert full.text.captions == ["a cat", "a corgi in space"] and len(full.null.embed) == 1
    assert full.text.tokens.shape[1] == full.null.tokens.shape[1]
    weight = torch.ones(tiny_clip.width, requires_grad=True)
    (full.image_embed * weight).sum().backward()  # inference-mode tensors would be refused here
    assert weight.grad is not None


# --- pairs for an upsampler ---


def test_a_pair_is_cropped_at_one_place(tmp_path: Path) -> None:
    def png(array: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        return file.getvalue()

    small = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    large = small.repeat(4, 0).repeat(4, 1)
    samples = [{"__key__": "a", "txt": b"x", "png": png(large), "low.png": png(small)}]
    tar.write_shard(tmp_path / "0.tar", samples)
    config = DataConfig(shards=str(tmp_path / "0.tar"), batch=4, shuffle=1)
    needs = frozenset({"image", "low"})
    batch = embed(next(batches(Stream(config, size=64, crop=32, needs=needs))), None, needs)
    assert batch.image is not None and batch.low is not None and batch.low.shape == (4, 3, 8, 8)
    assert torch.equal(batch.image[..., ::4, ::4], batch.low)
    assert not torch.equal(batch.low[0], batch.low[1])  # cropped at random
    native = config.model_copy(update={"crop": "native"})
    batch = embed(next(batches(Stream(native, size=1024, crop=32, needs=needs))), None, needs)
    assert batch.image is not None and batch.low is not None
    assert torch.equal(batch.image[..., ::4, ::4], batch.low)
    tar.write_shard(tmp_path / "1.tar", [{"__key__": "a", "txt": b"x", "png": png(large)}])
    with pytest.raises(BadSample, match=r"no low.png"):
        Stream(config, size=64, crop=32, needs=needs)._item(
            next(read_samples([f"{tmp_path}/1.tar"])), random.Random(0)
        )
