"""Shards in, batches out: what is drawn, in which order it is read, and what is skipped."""

from __future__ import annotations

import io
import json
import logging
import random
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.clip import Clip
from unclip.data import menagerie
from unclip.data.menagerie import write_shards
from unclip.data.shards import DataConfig, Stream, batches, captions, embed, find_shards, picture, read_samples
from unclip.errors import DataError
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import HELD_OUT, sample
from unclip.stages.base import Batch


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


def stream(pattern: Path | str, *, resolution: int = 64, crop: int = 64, shuffle: int = 10, **more: Any) -> Stream:
    return Stream(
        DataConfig(shards=str(pattern), batch=4, workers=0, shuffle=shuffle), resolution=resolution, crop=crop, **more
    )


# --- writing the menagerie ---


def test_shards_hold_the_scenes_their_pictures_and_their_captions(shards: Path) -> None:
    samples = list(read_samples(find_shards(str(shards / "*.tar"))))
    assert [s["__key__"] for s in samples] == [f"{i:08d}" for i in range(40)]
    for i, one in enumerate(samples[:5]):
        scene = sample(0, i)
        assert picture(one).tobytes() == draw(scene, 64).tobytes()
        assert json.loads(one["json"])["scene"] == scene.attributes()
        assert len(captions(one)) == menagerie.CAPTIONS and captions(one)[0] == one["txt"].decode()


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
    monkeypatch.setattr(menagerie, "SHARD_SIZE", 10)
    steps = write_shards(tmp_path, count=25, size=32)
    assert next(steps) == 10
    steps.close()
    first = (tmp_path / "000000.tar").stat()
    assert list(write_shards(tmp_path, count=25, size=32)) == [20, 25]
    assert (tmp_path / "000000.tar").stat().st_mtime_ns == first.st_mtime_ns
    assert len(list(read_samples(find_shards(str(tmp_path / "*.tar"))))) == 25
    assert list(write_shards(tmp_path, count=25, size=32)) == []


def test_a_shard_that_fails_half_way_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_at_5(scene: object, size: int) -> Image.Image:
        if scene == sample(0, 5):
            raise KeyboardInterrupt
        return Image.new("RGB", (size, size))

    monkeypatch.setattr(menagerie, "draw", stop_at_5)
    with pytest.raises(KeyboardInterrupt):
        list(write_shards(tmp_path, count=10, size=32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    # Shards are of 1,000 samples, so two need 1,001: small ones.
    done = list(write_shards(tmp_path / "two", count=1001, size=16, jobs=2))
    assert done == [1000, 1001]
    last = list(read_samples([str(tmp_path / "two/000001.tar")]))
    assert [s["__key__"] for s in last] == ["00001000"]
    assert picture(last[0]).tobytes() == draw(sample(0, 1000), 16).tobytes()


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


@pytest.mark.parametrize("pattern", ["nothing.tar", "*.tar", "{0..9}.tar", "{0..", ""])
def test_shards_that_are_not_there_are_a_data_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match="no such shards"):
        find_shards(str(tmp_path / pattern))


# --- reading samples ---


def test_captions_come_from_json_or_text() -> None:
    assert captions({"__key__": "a", "txt": b" a cat \n"}) == ["a cat"]
    assert captions({"__key__": "a", "json": b'{"captions": ["one", "two"]}', "txt": b"three"}) == ["one", "two"]
    assert captions({"__key__": "a", "json": b'{"captions": "a cat"}'}) == ["a cat"]
    assert captions({"__key__": "a", "json": b'{"other": 1}', "txt": b"three"}) == ["three"]
    with pytest.raises(DataError, match="sample a: holds no caption"):
        captions({"__key__": "a", "png": b""})
    with pytest.raises(DataError, match="sample a: holds no picture"):
        picture({"__key__": "a", "txt": b""})


# --- the stream ---


def first(stream: Stream, n: int) -> list[tuple[bytes, str]]:
    return [(image.numpy().tobytes() if image is not None else b"", text) for image, text in islice(iter(stream), n)]


def test_the_stream_depends_on_its_seed_and_rank_alone(shards: Path) -> None:
    pattern = shards / "*.tar"
    one = first(stream(pattern, seed=1), 20)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert first(stream(pattern, seed=1), 20) == one
    assert first(stream(pattern, seed=2), 20) != one
    assert first(stream(pattern, seed=1, rank=1), 20) != one


def test_the_stream_is_endless_and_shuffled(shards: Path) -> None:
    several = first(stream(shards / "*.tar", shuffle=40), 120)
    pictures = [image for image, _ in several]
    assert len(set(pictures)) == 40
    in_order = [draw(sample(0, i), 64) for i in range(40)]
    assert [np.frombuffer(p, np.float32).tobytes() for p in pictures[:40]] != [i.tobytes() for i in in_order]
    assert len({text for _, text in several}) > 60  # one of several captions is drawn each time


def test_reading_draws_nothing_from_the_global_generators(shards: Path) -> None:
    before = torch.get_rng_state(), random.getstate()
    next(batches(stream(shards / "*.tar")))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_batches_are_the_stream_in_pieces(shards: Path) -> None:
    pattern = shards / "*.tar"
    made = list(islice(batches(stream(pattern, seed=3)), 3))
    single = list(islice(iter(stream(pattern, seed=3)), 12))
    assert [c for b in made for c in b.captions] == [text for _, text in single]
    images = torch.cat([b.image for b in made if b.image is not None])
    assert torch.equal(images, torch.stack([image for image, _ in single if image is not None]))
    assert images.shape == (12, 3, 64, 64) and images.min() >= -1 and images.max() <= 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_different_things_and_the_same_each_time(shards: Path) -> None:
    def read() -> list[tuple[str, ...]]:
        config = DataConfig(shards=str(shards / "*.tar"), batch=2, workers=2, shuffle=10)
        return [b.captions for b in islice(batches(Stream(config, resolution=64, crop=64)), 4)]

    made = read()
    assert made == read()
    assert len(set(made)) > 1


def test_pictures_of_other_shapes_are_scaled_and_cut_from_the_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (128, 32), "black")
    wide.paste("white", (48, 0, 80, 32))  # the middle square
    file = io.BytesIO()
    wide.save(file, "PNG")
    write_tar(tmp_path / "a.tar", {"a.png": file.getvalue(), "a.txt": b"wide"})
    image = next(iter(stream(tmp_path / "a.tar", resolution=16, crop=16)))[0]
    assert image is not None and image.shape == (3, 16, 16)
    assert image[..., 2:-2].min() > 0.9


def test_crops_are_random_parts_of_the_picture(shards: Path) -> None:
    source = [picture(s) for s in read_samples(find_shards(str(shards / "*.tar")))]
    arrays = [np.asarray(image) for image in source]
    corners = set()
    for image, _ in islice(iter(stream(shards / "*.tar", crop=16)), 12):
        assert image is not None and image.shape == (3, 16, 16)
        part = ((image.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        found = {
            (x, y) for array in arrays for y in range(49) for x in range(49)
            if (array[y, x] == part[0, 0]).all() and (array[y : y + 16, x : x + 16] == part).all()
        }  # fmt: skip
        assert found
        corners |= set(list(found)[:1])
    assert len(corners) > 6


def test_captions_alone_need_no_pictures(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.txt": b"only words"})
    assert next(iter(stream(tmp_path / "a.tar", decode=False))) == (None, "only words")
    batch = next(batches(stream(tmp_path / "a.tar", decode=False)))
    assert batch.image is None and batch.captions == ("only words",) * 4


def test_bad_samples_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = png()
    broken = bytearray(good)
    broken[40:60] = bytes(20)
    write_tar(tmp_path / "a.tar", {
        "a.png": good, "a.txt": b"good",
        "b.png": good[:40], "b.txt": b"cut off",
        "c.png": b"not a picture", "c.txt": b"no picture",
        "d.txt": b"picture missing",
        "e.png": good,
        "f.png": good, "f.json": b"{not json",
        "g.png": good, "g.json": b"[1, 2]",
        "h.png": good, "h.txt": b"\xff\xfe not utf-8",
        "i.png": bytes(broken), "i.txt": b"damaged",
    })  # fmt: skip
    source = stream(tmp_path / "a.tar", shuffle=1)
    with caplog.at_level(logging.WARNING):
        assert [text for _, text in islice(iter(source), 3)] == ["good"] * 3
    assert source.skipped >= 16
    assert "skipped sample b" in caplog.text and f"({source.skipped} so far)" in caplog.text


def test_no_damage_to_a_picture_stops_the_stream(tmp_path: Path) -> None:
    good = bytearray()
    rng = random.Random(0)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    good += file.getvalue()
    files: dict[str, bytes] = {}
    for i in range(300):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(8 if i % 2 else 0, min(len(damaged), 120))] = rng.randrange(256)
        files |= {f"{i:03d}.png": bytes(damaged), f"{i:03d}.txt": b"damaged"}
    write_tar(tmp_path / "a.tar", {**files, "end.png": bytes(good), "end.txt": b"good"})
    source = stream(tmp_path / "a.tar", shuffle=1, resolution=16, crop=16)
    for _, text in iter(source):
        if text == "good":
            break
    assert source.skipped > 100


@pytest.mark.filterwarnings("ignore:ReadError:UserWarning")
def test_a_shard_that_is_cut_off_gives_what_it_still_holds(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    found = list(read_samples([str(tmp_path / "cut.tar")]))
    assert 5 < len(found) < 40


# --- the frozen encoders ---


def test_embed_fills_in_what_the_stage_needs(tiny_clip: Clip) -> None:
    batch = Batch(captions=("a cat", "a corgi in space"), image=torch.zeros(2, 3, 64, 64))
    assert embed(batch, None, frozenset({"image"})) is batch
    full = embed(batch, tiny_clip, frozenset({"image_embed", "text"}))
    assert full.image_embed is not None and full.image_embed.shape == (2, tiny_clip.width)
    assert full.text is not None and full.null is not None
    assert full.text.captions == ["a cat", "a corgi in space"] and len(full.null.embed) == 1
    assert full.text.tokens.shape[1] == full.null.tokens.shape[1]
    weight = torch.ones(tiny_clip.width, requires_grad=True)
    (full.image_embed * weight).sum().backward()  # inference-mode tensors would be refused here
    assert weight.grad is not None
