"""CLIP's input: its own size and crop for every stage and command, with stored or computed z_i."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import tiny
import tiny_runs
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load
from torch import Tensor

from unclip.cli import cli
from unclip.clip import Clip, encode_pictures, hf, openclip
from unclip.clip.hf import read_preprocess
from unclip.clip.openclip import OpenClip, preprocess_of
from unclip.clip.preprocess import Preprocess
from unclip.data.check import check
from unclip.data.embed import embed_shards
from unclip.data.embeddings import find_embeddings
from unclip.data.loader import embed
from unclip.data.sample import picture, scaled
from unclip.data.shards import DataConfig, Stream
from unclip.data.tar import find_shards, read_samples, write_shard
from unclip.errors import CheckpointError, ConfigError, DataError
from unclip.images import to_tensor
from unclip.models.resolve import load_clip
from unclip.stages.batch import Batch
from unclip.train import feed
from unclip.train.config import RunConfig
from unclip.train.loop import train

SIDE = 224
ARCHITECTURE = tiny.ARCHITECTURE.model_copy(update={"image_size": SIDE, "patch": 32})
KINDS = ("prior", "prior_ar", "prior_onepass", "decoder")
SIZES = ((640, 427), (300, 200), (227, 224), (224, 231), (99, 160), (1201, 900), (224, 224))
ONE_LEVEL = 1 / 255 / 0.26  # of 8 bits, normalised


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Broad colours with fine detail, which 64 pixels cannot hold; not so strong that resizing overshoots 8
    bits.
    """
    rng = np.random.default_rng(seed)
    broad = Image.fromarray(rng.integers(80, 176, size=(6, 8, 3), dtype=np.uint8)).resize((width, height))
    fine = rng.integers(-50, 51, size=(height, width, 1))
    return Image.fromarray((np.asarray(broad).astype(int) + fine).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


# --- the rule, beside those of the libraries that the CLIPs come from ---


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_prepared_as_by_open_clip(
    size: tuple[int, int], mode: Literal["shortest", "longest", "squash"], interpolation: str
) -> None:
    config = openclip.open_clip.transform.PreprocessCfg(
        size=SIDE,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        interpolation=interpolation,
        resize_mode=mode,
        fill_color=90,
    )
    ours = preprocess_of(SimpleNamespace(preprocess_cfg=config.__dict__), "it")
    image = photo(*size)
    theirs = openclip.open_clip.transform.image_transform_v2(config, is_train=False)(image)
    torch.testing.assert_close(ours(to_tensor(ours.view(image))[None])[0], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": 2},
        {"size": {"shortest_edge": 256}},
        {"do_normalize": False},
        {
            "size": {"height": SIDE, "width": SIDE},
            "do_center_crop": False,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    ],
)
def test_pictures_are_prepared_as_by_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    processor = hf.transformers.CLIPImageProcessor(**changes)
    processor.save_pretrained(tmp_path)
    ours = read_preprocess(tmp_path, SIDE)
    for size in SIZES:
        image = photo(*size)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        difference = (ours(to_tensor(ours.view(image))[None])[0] - theirs).abs()
        assert (
            difference.max() < 2.05 * ONE_LEVEL and difference.mean() < 0.05 * ONE_LEVEL
        )  # two roundings, otherwise than Pillow


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_images_of_any_size_are_prepared_as_pictures_are(
    mode: Literal["shortest", "longest", "squash"],
) -> None:
    for interpolation in ("bicubic", "bilinear"):
        preprocess = Preprocess(SIDE, resize_mode=mode, interpolation=interpolation, fill=90)  # type: ignore[arg-type]
        for size in SIZES:
            image = photo(*size)
            whole, seen = (
                preprocess(to_tensor(image)[None]),
                preprocess(to_tensor(preprocess.view(image))[None]),
            )
            assert whole.shape == seen.shape == (1, 3, SIDE, SIDE)
            assert (whole - seen).abs().max() < 1.1 * ONE_LEVEL and (
                whole - seen
            ).abs().mean() < 0.35 * ONE_LEVEL


def test_a_folder_says_how_its_pictures_are_prepared_or_is_refused(tmp_path: Path) -> None:
    assert read_preprocess(tmp_path, 336) == Preprocess(336, rounds_crop=False)  # none is said: OpenAI's
    for changes, message in (
        (
            {"crop_size": {"height": 224, "width": 224}},
            "makes pictures of 224 × 224 pixels, but the model reads 336 × 336",
        ),
        ({"do_resize": False}, "does not resize"),
        ({"crop_size": 336, "resample": 0}, "resamples by"),
        ({"crop_size": 336, "size": {"longest_edge": 336}}, "resizes to"),
    ):
        hf.transformers.CLIPImageProcessor(**changes).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=message) as error:
            read_preprocess(tmp_path, 336)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="its preprocessor_config.json cannot be read"):
        read_preprocess(tmp_path, 336)
    wide = SimpleNamespace(preprocess_cfg={"size": (224, 336)})
    with pytest.raises(CheckpointError, match=r"openclip:wide: reads images of \(224, 336\) pixels"):
        preprocess_of(wide, "openclip:wide")


def test_a_clip_that_squashes_sees_the_edges_too(clip: Any) -> None:
    image, other = photo(448, 224), photo(448, 224)
    other.paste(photo(100, 224, seed=5), (0, 0))  # outside of the centre
    squashing = OpenClip(clip.model, clip.tokenizer, "squashing", Preprocess(SIDE, resize_mode="squash"))
    for one, same in ((clip, True), (squashing, False)):
        z_i = [encode_pictures(one, [each]) for each in (image, other)]
        assert torch.equal(*z_i) == same


# --- one z_i from every source, for every stage ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model whose CLIP sees 224 pixels and whose decoder draws 64."""
    with torch.random.fork_rng():
        return tiny.build(tmp_path_factory.mktemp("model") / "tiny", ARCHITECTURE)


@pytest.fixture(scope="module")
def clip(model: Path) -> Clip:
    return load_clip(str(model / "clip"))


@pytest.fixture(scope="module")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photos as `pictures`, `embeddings` and `both`. The largest are JPEGs, which are decoded at a
    half.
    """
    folder = tmp_path_factory.mktemp("data")
    sizes = [(300, 200), (1201, 900), (500, 500), (227, 240), (950, 1300), (64, 80)]
    samples = []
    for i, size in enumerate(sizes):
        kind = "jpg" if i % 2 else "png"
        content = encoded(photo(*size, seed=i), "JPEG" if i % 2 else "PNG")
        samples.append(
            {
                "__key__": f"{i}",
                kind: content,
                "json": json.dumps({"captions": [f"a {i}"], "label": i}).encode(),
            }
        )
    (folder / "pictures").mkdir()
    write_shard(folder / "pictures/0.tar", samples)
    for name in ("embeddings", "both"):
        shards, out = str(folder / "pictures/*.tar"), folder / name
        embed_shards(shards, out, str(model / "clip"), batch=4, keep_pictures=name == "both")
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of all that CLIP's image encoder is given."""
    shapes: list[tuple[int, ...]] = []
    encode_image = OpenClip.encode_image

    def spy(self: OpenClip, images: Tensor, **options: bool) -> Tensor:
        shapes.append(tuple(images.shape[1:]))
        return encode_image(self, images, **options)

    monkeypatch.setattr(OpenClip, "encode_image", spy)
    yield shapes


def run_config(kind: str, shards: Path, clip: str | None, steps: int = 1, **data: Any) -> RunConfig:
    shape = {"embed": 32, "token_width": 32, "context": 48, "width": 32, "depth": 1, "heads": 2}
    more = {"prior_ar": {"buckets": 16, "dots": 8}}.get(kind, {})
    stage = (
        {**tiny_runs.STAGES["decoder"], "token_width": 32}
        if kind == "decoder"
        else {"kind": kind, **shape, **more}
    )
    return RunConfig.model_validate(
        {
            "name": kind,
            "clip": clip,
            "stage": stage,
            "data": {
                "shards": str(shards / "*.tar"),
                "batch": 2,
                "workers": 0,
                "shuffle": 6,
                "calibration": 32,
                **data,
            },
            "optim": {"lr": 0.001, "warmup": 1},
            "train": {
                "steps": steps,
                "precision": "no",
                "save_every": 2,
                "sample_every": 2,
                "validate_every": 2,
                "validation_images": 2,
            },
        }
    )


def batches_of(config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """All that a run's stage is given."""
    found: list[Batch] = []

    def recorded(*arguments: Any) -> Batch:
        found.append(embed(*arguments))
        return found[-1]

    embed = feed.embed
    with monkeypatch.context() as patch:
        patch.setattr(feed, "embed", recorded)
        train(config, folder, progress=False)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_embeddings_and_both_give_one_z_i(
    kind: str,
    data: Path,
    model: Path,
    clip: Clip,
    seen: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = {
        one["__key__"]: encode_pictures(clip, [picture(one, SIDE)])[0].clone()
        for one in read_samples(find_shards(str(data / "pictures/*.tar")))
    }
    found: dict[str, list[Batch]] = {}
    for source in ("pictures", "both") if kind == "decoder" else ("pictures", "embeddings", "both"):
        seen.clear()
        config = run_config(kind, data / source, str(model / "clip"))
        found[source] = batches_of(config, tmp_path / source, monkeypatch)
        assert set(seen) == ({(3, SIDE, SIDE)} if source == "pictures" else set())
        for batch in found[source]:
            assert batch.image_embed is not None and batch.clip_image is None
            assert (batch.image is not None) == (kind == "decoder")
            assert batch.image is None or batch.image.shape == (2, 3, 32, 32)
            expected = torch.stack([truth[key] for key in batch.keys])
            torch.testing.assert_close(batch.image_embed, expected, rtol=0, atol=1e-5)
    last = [batches[-1] for batches in found.values()]  # of pictures, calibration batches came before
    assert len({batch.keys for batch in last}) == len({batch.captions for batch in last}) == 1
    blurred = {
        one["__key__"]: encode_pictures(clip, [scaled(picture(one), 32)])[0]
        for one in read_samples(find_shards(str(data / "pictures/*.tar")))
    }
    assert max((blurred[key] - truth[key]).abs().max().item() for key in truth) > 1e-2  # what the fault gave


def test_a_decoder_on_stored_embeddings_loads_no_clip_and_resumes_to_the_bit(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("CLIP was loaded")

    monkeypatch.setattr("unclip.train.encoders.load_clip", never)
    monkeypatch.setattr("unclip.clip.read_clip", never)
    monkeypatch.setattr("unclip.models.resolve.read_clip", never)
    validated = {"validation": str(data / "both/*.tar")}
    named = train(
        run_config("decoder", data / "both", str(model / "clip"), 4, **validated),
        tmp_path / "a",
        progress=False,
    )
    assert (tmp_path / "a/samples/step-00000004.png").is_file()
    last = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in last)
    train(run_config("decoder", data / "both", None, 3, **validated), tmp_path / "b", progress=False)
    unnamed = train(
        run_config("decoder", data / "both", None, 4, **validated), tmp_path / "b", progress=False
    )
    tiny_runs.assert_same_bits(named, unnamed)


def test_validation_shards_of_another_kind_are_embedded_and_of_another_clip_refused(
    data: Path, model: Path, seen: list[Any], tmp_path: Path, tiny_clip_folder: Path
) -> None:
    ref, pictures = str(model / "clip"), str(data / "pictures/*.tar")
    train(
        run_config("prior", data / "embeddings", ref, 2, validation=pictures), tmp_path / "a", progress=False
    )
    assert seen and set(seen) == {(3, SIDE, SIDE)}
    with pytest.raises(ConfigError, match="prior: a prior needs `clip`"):
        train(
            run_config("prior", data / "embeddings", None, validation=pictures),
            tmp_path / "b",
            progress=False,
        )
    embed_shards(pictures, tmp_path / "other", str(tiny_clip_folder), batch=4)
    with pytest.raises(
        ConfigError, match=r"other/\*.tar hold embeddings of CLIP tiny-clip@\S+, not of tiny@"
    ):
        other = str(tmp_path / "other/*.tar")
        train(run_config("prior", data / "embeddings", ref, validation=other), tmp_path / "c", progress=False)
    assert not (tmp_path / "c").exists()


def test_a_stage_larger_than_its_clip_gets_its_own_pixels_and_the_same_z_i(data: Path, clip: Clip) -> None:
    config, needs = (
        DataConfig(shards=str(data / "pictures/*.tar"), batch=2, shuffle=1),
        frozenset({"image", "image_embed"}),
    )
    sources = {one["__key__"]: one for one in read_samples(find_shards(config.shards))}
    stream = iter(Stream(config, needs=needs, size=512, preprocess=clip.preprocess))
    for item in (next(stream) for _ in range(6)):
        alone = next(one for one in Stream(config, size=512) if one.key == item.key)
        assert item.image is not None and alone.image is not None and torch.equal(item.image, alone.image)
        view = clip.preprocess.view(picture(sources[item.key], SIDE))
        assert item.clip_image is not None and np.array_equal(item.clip_image.numpy(), np.asarray(view))


def test_a_random_crop_leaves_clip_the_whole_picture(data: Path, clip: Clip) -> None:
    config, needs = (
        DataConfig(shards=str(data / "pictures/*.tar"), batch=2),
        frozenset({"image", "image_embed"}),
    )
    seen: dict[str, Tensor] = {}
    crops: dict[str, list[Tensor]] = {}
    stream = iter(Stream(config, needs=needs, size=96, crop=32, preprocess=clip.preprocess))
    for item in (next(stream) for _ in range(12)):
        assert item.image is not None and item.clip_image is not None and item.image.shape == (32, 32, 3)
        assert torch.equal(seen.setdefault(item.key, item.clip_image), item.clip_image)
        crops.setdefault(item.key, []).append(item.image)
    assert any(not torch.equal(one[0], another) for one in crops.values() for another in one)


# --- shards that hold both ---


def test_kept_pictures_are_the_files_themselves(data: Path, model: Path, tmp_path: Path) -> None:
    read = {
        name: list(read_samples(find_shards(str(data / name / "*.tar"))))
        for name in ("pictures", "embeddings", "both")
    }
    for source, stored, both in zip(*read.values(), strict=True):
        assert {key: both[key] for key in source if key != "__url__"} == {
            k: source[k] for k in source if k != "__url__"
        }
        ours, theirs = load(both["safetensors"]), load(stored["safetensors"])
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert ours["image_embed"].dtype == ours["text_embed"].dtype == torch.float32
    record = find_embeddings(find_shards(str(data / "both/*.tar")))
    assert record is not None and record.pictures
    report = check(find_shards(str(data / "both/*.tar")))
    assert (report.samples, min(report.sides), max(report.sides)) == (6, 64, 950)
    mixed = find_embeddings([str(data / "both/0.tar"), str(data / "embeddings/0.tar")])
    assert mixed is not None and not mixed.pictures
    both = [*find_shards(str(data / "both/*.tar")), str(data / "embeddings/0.tar")]
    with pytest.raises(DataError, match="the stage needs pictures"):
        Stream(
            DataConfig(shards=f"{{{','.join(both)}}}", batch=1),
            size=32,
            needs=frozenset({"image", "image_embed"}),
        )


def test_what_earlier_versions_embedded_is_read_and_finished(data: Path, model: Path, tmp_path: Path) -> None:
    shards, out = str(data / "pictures/*.tar"), tmp_path / "old"
    embed_shards(shards, out, str(model / "clip"), batch=4)
    for path in (out / "shards.json", out / ".embed/job.json"):
        tree = json.loads(path.read_text())
        del tree["pictures"]
        path.write_text(json.dumps(tree))
    record = find_embeddings(find_shards(str(out / "*.tar")))
    assert record is not None and not record.pictures
    embed_shards(shards, out, str(model / "clip"), batch=4)
    assert (out / "shards.json").read_bytes() == (data / "embeddings/shards.json").read_bytes()
    with pytest.raises(DataError, match=r"old: holds embeddings without the pictures kept beside them"):
        embed_shards(shards, out, str(model / "clip"), batch=4, keep_pictures=True)
    with pytest.raises(DataError, match="both: holds embeddings with the pictures kept beside them"):
        embed_shards(shards, data / "both", str(model / "clip"), batch=4)


def test_a_stage_that_needs_pictures_says_of_which_size(data: Path) -> None:
    with pytest.raises(ConfigError, match="but has no `size`"):
        Stream(DataConfig(shards=str(data / "pictures/*.tar"), batch=1))


# --- every command ---


def test_every_command_gives_clip_its_own_size(
    data: Path, model: Path, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures, ref = str(data / "pictures/*.tar"), str(model / "clip")
    photos = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(photos):
        photo(300, 260, seed=i).save(path)
    (tmp_path / "decoder.yaml").write_text(
        json.dumps(run_config("decoder", data / "pictures", ref).model_dump(mode="json"))
    )
    (tmp_path / "prior.yaml").write_text(
        json.dumps(run_config("prior", data / "pictures", ref).model_dump(mode="json"))
    )
    one = ("--model", str(model), "--size", "64", "--seed", "1", "--steps", "2", "-o")
    commands: dict[str, tuple[str, ...]] = {
        "embed": ("data", "embed", pictures, str(tmp_path / "kept"), "--clip", ref, "--keep-pictures"),
        "decoder": ("train", str(tmp_path / "decoder.yaml"), "--out", str(tmp_path / "decoder")),
        "prior": ("train", str(tmp_path / "prior.yaml"), "--out", str(tmp_path / "prior")),
        "calibrate": ("calibrate", str(tmp_path / "prior"), pictures, "--clip", ref, "--count", "64"),
        "clip": ("evaluate", "clip", str(tmp_path / "few"), "--clip", ref),
        "priors": ("evaluate", "prior", "--model", str(model), "--count", "2"),
        "vary": ("vary", str(photos[0]), *one, str(tmp_path / "varied")),
        "mix": ("mix", str(photos[0]), str(photos[1]), *one, str(tmp_path / "mixed")),
        "interpolate": ("interpolate", *map(str, photos), "--frames", "2", *one, str(tmp_path / "between")),
    }
    (tmp_path / "few").mkdir()
    for i in range(2):
        photo(260, 300, seed=i).save(tmp_path / f"few/{i}.png")
        (tmp_path / f"few/{i}.txt").write_text("it")
    for name, arguments in commands.items():
        seen.clear()
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, (name, result.output, result.exception)
        assert seen and set(seen) == {(3, SIDE, SIDE)}, name


def test_stored_captions_without_the_stored_empty_one_are_completed(clip: Clip) -> None:
    """Of two folders, one may hold token states: a batch from it alone lacks the empty caption."""
    text = clip.encode_text(["a cat", "an owl"])
    found = embed(Batch(captions=("a cat", "an owl"), text=text), clip, frozenset({"text"}))
    assert found.text is not None and torch.equal(found.text.tokens, text.tokens)
    assert found.null is not None and torch.equal(found.null.tokens, clip.encode_text([""]).tokens)
