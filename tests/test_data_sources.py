"""Sources of training samples: mixtures, folders of images, the share held out, crops and flips."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_train_keys import lines
from tiny_runs import assert_same_bits

from unclip.data.config import DataConfig
from unclip.data.shards import Item, Shards, Stream, held_out
from unclip.data.tar import write_shard
from unclip.errors import ConfigError, DataError
from unclip.train.encoders import Sources
from unclip.train.loop import train

IMAGE = frozenset({"image"})


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    import io

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def samples(name: str, count: int, colour: tuple[int, int, int] = (9, 9, 9)) -> list[dict[str, Any]]:
    return [{"__key__": f"{name}{i:03d}", "png": png(colour), "txt": name.encode()} for i in range(count)]


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two sets: ten of a, in two shards, and 40 of b."""
    for i in range(2):
        write_shard(tmp_path / f"a{i}.tar", samples(f"a{i}-", 5))
    write_shard(tmp_path / "b.tar", samples("b-", 40))
    return str(tmp_path / "a*.tar"), str(tmp_path / "b.tar")


def stream(shards: Any, number: int = 0, **more: Any) -> Stream:
    config = DataConfig.model_validate({"shards": shards, "batch": 1, "workers": 0, "shuffle": 20, **more})
    return Stream(config, needs=IMAGE, size=8, seed=3, number=number)


def keys(found: Stream, count: int) -> list[str]:
    return [item.key for item in islice(found, count)]


# --- mixtures ---


def test_sources_are_drawn_in_proportion_to_their_weights(two: tuple[str, str]) -> None:
    a, b = two
    for weight in (1.0, 4.0):
        drawn = Counter(key[0] for key in keys(stream({a: weight, b: 1.0}), 2000))
        assert drawn["a"] / 2000 == pytest.approx(weight / (weight + 1), abs=0.04)
    assert len(set(keys(stream({a: 3, b: 1}), 500))) == 50


def test_a_mixture_depends_on_the_seed_and_the_stream_alone(two: tuple[str, str]) -> None:
    a, b = two
    mixture = {a: 2, b: 1}
    assert keys(stream(mixture), 200) == keys(stream(mixture), 200)
    assert keys(stream(mixture), 200) != keys(stream(mixture, number=1), 200)
    random.seed(5)
    torch.manual_seed(5)
    assert keys(stream(mixture), 200) == keys(stream(mixture), 200)


def test_a_mixture_of_one_is_the_plain_stream(two: tuple[str, str]) -> None:
    assert keys(stream({two[0]: 0.3}), 100) == keys(stream(two[0]), 100)


def test_a_run_on_a_mixture_resumes_exactly(run_of: Any, two: tuple[str, str], tmp_path: Path) -> None:
    options = (f"data.shards={{{two[0]}: 1, {two[1]}: 2}}", "data.random_flip=true", "data.crop=random")
    whole = train(run_of("upsampler", *options), tmp_path / "whole", progress=False)
    train(run_of("upsampler", *options, "train.steps=3"), tmp_path / "halves", progress=False)
    assert_same_bits(train(run_of("upsampler", *options), tmp_path / "halves", progress=False), whole)


@pytest.mark.parametrize("weights", ["{}", "{a.tar: 0}", "{a.tar: -1}", "{a.tar: x}", "[a.tar]", "''"])
def test_weights_that_cannot_be_right_are_named(weights: str, run_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.shards"):
        run_of("upsampler", f"data.shards={weights}")


def test_a_source_that_is_not_there_is_named(run_of: Any, two: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tar"):
        train(run_of("upsampler", f"data.shards={{{two[0]}: 1, nowhere.tar: 1}}"), tmp_path, progress=False)


# --- folders ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of each of two classes; one has its caption in a JSON file."""
    for name, colour in (("cat", (200, 0, 0)), ("dog", (0, 0, 200))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.write_bytes(png(colour))
            path.with_suffix(".txt").write_text(f"{name} {i}")
    (tmp_path / "photos/cat/0.txt").unlink()
    (tmp_path / "photos/cat/0.json").write_text(json.dumps({"captions": ["one", "two"]}))
    return tmp_path / "photos"


def test_a_folder_of_images_is_read_without_packing(folder: Path) -> None:
    items = list(islice(stream(str(folder)), 60))
    captions = {item.caption for item in items}
    assert captions == {"one", "two", "cat 1", "cat 2", "dog 0", "dog 1", "dog 2"}
    for item in items:
        assert item.image is not None
        red, _, blue = item.image[0, 0].tolist()
        assert (red > blue) == ("dog" not in item.caption)


def test_a_folder_of_tars_is_its_tars(two: tuple[str, str], tmp_path: Path) -> None:
    assert len(set(keys(stream(str(tmp_path)), 500))) == 50


def test_a_large_folder_is_not_read_class_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(30):
            (tmp_path / name / f"{i}.png").write_bytes(png((0, 0, 0)))
            (tmp_path / name / f"{i}.txt").write_text(name)
    monkeypatch.setattr("unclip.data.shards.FOLDER_UNIT", 16)
    drawn = Counter(item.caption for item in islice(stream(str(tmp_path), shuffle=1), 16))
    assert min(drawn.values()) >= 3 and len(drawn) == 2


def test_a_run_trains_and_validates_on_a_folder(run_of: Any, folder: Path, tmp_path: Path) -> None:
    options = (f"data.shards={folder}", f"data.validation={folder}", "train.validate_every=2")
    train(run_of("decoder", *options, "train.steps=2"), tmp_path / "run", progress=False)
    assert lines(tmp_path / "run", "validation_loss")


# --- held out ---


def test_a_share_is_held_out_by_key_and_never_trained_on(two: tuple[str, str], run_of: Any) -> None:
    config = run_of("upsampler", f"data.shards={{{two[0]}: 1, {two[1]}: 1}}", "data.validation=0.3")
    stage: Any = type("", (), {"needs": IMAGE})
    training, validation = Sources.find(config.data, stage)
    assert validation is not None

    def read(shards: Shards) -> set[str]:
        return {item.key for item in islice(Stream(config.data, needs=IMAGE, size=8, shards=shards), 1000)}

    kept, held = read(training), read(validation)
    assert not kept & held and len(kept | held) == 50 and 5 <= len(held) <= 25
    assert held == {key for key in kept | held if held_out(key, 0.3)}


def test_what_is_held_out_is_the_same_everywhere_and_grows_with_the_share() -> None:
    names = [f"{i:06d}" for i in range(5000)]
    small, large = ({name for name in names if held_out(name, share)} for share in (0.02, 0.1))
    assert small < large and len(small) == pytest.approx(100, abs=35)
    assert len(large) == pytest.approx(500, abs=80)
    assert sorted(small)[:3] == FIRST


FIRST = ["000003", "000044", "000096"]  # a change here would leak validation samples into running trainings


def test_what_is_held_out_of_a_folder_does_not_depend_on_where_it_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(source: str) -> set[str]:
        shards = Shards.find(source, IMAGE)._replace(share=0.4, held_out=True)
        found = islice(Stream(DataConfig(shards=source, batch=1), needs=IMAGE, size=8, shards=shards), 50)
        return {item.key.partition("otos/")[2] for item in found}

    here = held(str(folder))
    folder.rename(tmp_path / "fotos")
    monkeypatch.chdir(tmp_path)
    assert here == held("fotos") == held("./fotos/") and 0 < len(here) < 6


def test_a_held_out_share_watches_a_run(run_of: Any, tmp_path: Path) -> None:
    options = ("data.validation=0.2", "train.validate_every=2", "train.validation_images=4")
    train(run_of("prior", *options, "train.steps=2"), tmp_path / "run", progress=False)
    assert len(lines(tmp_path / "run", "validation_loss")) == 1


@pytest.mark.parametrize("share", ["0.01", "0.5"])
def test_a_share_of_too_few_samples_is_explained(share: str, run_of: Any, tmp_path: Path) -> None:
    name = next(str(i) for i in range(99) if held_out(str(i), 0.4))
    write_shard(tmp_path / "one.tar", [{"__key__": name, "png": png((1, 2, 3)), "txt": b"a"}])
    says = "leaves no samples for validation" if share == "0.01" else "leaves no samples for training"
    options = (f"data.shards={tmp_path / 'one.tar'}", f"data.validation={share}")
    with pytest.raises(DataError, match=says):
        train(run_of("upsampler", *options), tmp_path / "run", progress=False)


@pytest.mark.parametrize("share", ["0", "1", "0.7", "-0.1", ".nan"])
def test_a_share_that_cannot_be_right_is_named(share: str, run_of: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation"):
        run_of("upsampler", f"data.validation={share}")


# --- crops and flips ---


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """One image of 32 × 16 pixels, red on the left and blue on the right."""
    import io

    image = Image.new("RGB", (32, 16), (255, 0, 0))
    image.paste((0, 0, 255), (16, 0, 32, 16))
    file = io.BytesIO()
    image.save(file, "PNG")
    write_shard(tmp_path / "wide.tar", [{"__key__": "wide", "png": file.getvalue(), "txt": b"a"}])
    return str(tmp_path / "wide.tar")


def images(shards: str, count: int, **more: Any) -> list[Any]:
    found: list[Item] = list(islice(stream(shards, **more), count))
    return [item.image for item in found]


def test_the_centre_is_cropped_by_default(wide: str) -> None:
    (image,) = images(wide, 1)
    assert torch.equal(image, images(wide, 1, crop="centre")[0]) and image.shape == (8, 8, 3)
    assert image[0, 0].tolist() == [255, 0, 0] and image[0, -1].tolist() == [0, 0, 255]


def test_random_crops_are_at_every_place(wide: str) -> None:
    reds = {int((image[0, :, 0] > 127).sum()) for image in images(wide, 80, crop="random")}
    assert reds == set(range(9))


def test_padding_keeps_the_whole_image(wide: str) -> None:
    (image,) = images(wide, 1, crop="pad")
    assert (image[:2] == 255).all() and (image[-2:] == 255).all()
    assert image[4, 0].tolist() == [255, 0, 0] and image[4, -1].tolist() == [0, 0, 255]


def test_native_crops_keep_the_image_at_its_own_resolution(wide: str) -> None:
    reds = {int((image[:, :, 0] > 127).sum(dim=1)[0]) for image in images(wide, 80, crop="native")}
    assert reds == set(range(9))
    config = DataConfig(shards=wide, batch=1, workers=0, shuffle=1, crop="native")
    item = next(iter(Stream(config, needs=IMAGE, size=64, crop=16)))
    assert item.image is not None and item.image.shape == (16, 16, 3)
    with pytest.raises(DataError, match=r"smaller than the crop \(32 × 16\)"):
        next(iter(Stream(config, needs=IMAGE, size=64, crop=32)))


def test_half_of_the_images_are_mirrored_if_asked(wide: str) -> None:
    plain, flipped = images(wide, 60), images(wide, 60, random_flip=True)
    mirrored = [torch.equal(image, plain[0].flip(1)) for image in flipped]
    assert all(torch.equal(image, plain[0]) for image in plain)
    assert 15 <= sum(mirrored) <= 45
    assert all(
        torch.equal(image, plain[0]) for image, is_mirrored in zip(flipped, mirrored) if not is_mirrored
    )
