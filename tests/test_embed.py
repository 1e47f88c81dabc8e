"""Embedding: stored values equal CLIP's, interrupted jobs resume, and training needs no CLIP."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load

from unclip.cli import cli
from unclip.clip import Clip
from unclip.clip.openclip import OpenClip
from unclip.data.check import check
from unclip.data.embed import embed_shards
from unclip.data.embeddings import find_embeddings, read_embedded
from unclip.data.loader import batches, embed
from unclip.data.sample import captions, picture
from unclip.data.shards import DataConfig, Stream
from unclip.data.tar import find_shards, read_record, read_samples, write_shard
from unclip.errors import ConfigError, DataError
from unclip.files import read_weights
from unclip.images import to_tensor
from unclip.menagerie.shards import write_shards
from unclip.stages import load_stage
from unclip.train.config import RunConfig
from unclip.train.loop import train

NEEDS = frozenset({"image_embed", "text"})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of eight pictures; in each, one sample is bad."""
    folder = tmp_path_factory.mktemp("pictures")
    list(write_shards(folder / "drawn", count=24, size=32))
    samples = list(read_samples(find_shards(str(folder / "drawn/*.tar"))))
    for i in range(3):
        bad = {"__key__": f"bad{i}", "png": b"broken", "txt": b"broken"}
        write_shard(folder / f"{i}.tar", [*samples[8 * i : 8 * i + 8], bad])
    return folder


@pytest.fixture(scope="module")
def embedded(pictures: Path, tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "out"
    embed_shards(str(pictures / "*.tar"), out, str(tiny_clip_folder), batch=5)
    return out


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def run_config(shards: Path, clip: Path | None, steps: int = 2, trained_with: str | None = None) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "prior",
            "clip": None if clip is None else str(clip),
            "stage": {
                "kind": "prior",
                "embed": 32,
                "token_width": 64,
                "context": 48,
                "width": 32,
                "depth": 1,
                "heads": 2,
                "clip": trained_with,
            },
            "data": {
                "shards": str(shards / "*.tar"),
                "batch": 4,
                "workers": 0,
                "shuffle": 10,
                "calibration": 8,
            },
            "optim": {"lr": 0.001, "warmup": 2},
            "train": {"steps": steps, "precision": "no", "save_every": 2, "sample_every": 0},
        }
    )


def test_what_is_stored_is_what_clip_says(pictures: Path, embedded: Path, tiny_clip: Clip) -> None:
    sources = list(read_samples(find_shards(str(pictures / "*.tar"))))
    sources = [one for one in sources if not one["__key__"].startswith("bad")]
    found = list(read_samples(find_shards(str(embedded / "*.tar"))))
    assert [one["__key__"] for one in found] == [one["__key__"] for one in sources]
    for source, one in zip(sources, found):
        sample = read_embedded(one)
        assert sample.captions == captions(source)
        image_embed = tiny_clip.encode_image(to_tensor(picture(source))[None])[0]
        torch.testing.assert_close(sample.image_embed, image_embed.clone(), atol=1e-4, rtol=1e-4)
        for caption, text in zip(sample.captions, sample.texts):
            truth = tiny_clip.encode_text([caption])
            assert torch.equal(text.ids, truth.ids[0].long())
            torch.testing.assert_close(text.embed, truth.embed[0].clone(), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(text.tokens.float(), truth.tokens[0].clone(), atol=5e-3, rtol=5e-3)


def test_the_record_holds_the_identity_and_the_statistics(embedded: Path, tiny_clip: Clip) -> None:
    record = find_embeddings(find_shards(str(embedded / "*.tar")))
    assert record is not None and record.identity == tiny_clip.identity and record.count == 24
    shards = read_samples(find_shards(str(embedded / "*.tar")))
    embeds = torch.stack([read_embedded(one).image_embed for one in shards]).double()
    torch.testing.assert_close(record.moments.mean.double(), embeds.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(record.moments.std.double(), embeds.std(0, correction=0), atol=1e-6, rtol=1e-4)
    assert [n for *_, n in json.loads((embedded / "shards.json").read_text())["skipped"]] == [1, 1, 1]
    assert check(find_shards(str(embedded / "*.tar"))).samples == 24


def test_the_prior_is_whitened_by_the_record_which_is_read_once(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def reading(url: str) -> dict[str, Any] | None:
        asked.append(url)
        return read_record(url)

    monkeypatch.setattr("unclip.data.embeddings.read_record", reading)
    config = run_config(embedded, None, steps=5)  # its streams are opened three times
    calibrated = config.data.model_copy(update={"calibration": 1})  # of which nobody could tell a deviation
    stage = load_stage(
        train(config.model_copy(update={"data": calibrated}), tmp_path / "run", progress=False)
    )
    assert asked == [str(embedded / "shards.json")]
    record = json.loads((embedded / "shards.json").read_text())
    torch.testing.assert_close(stage.mean, torch.tensor(record["mean"]), rtol=0, atol=0)
    torch.testing.assert_close(stage.std, torch.tensor(record["std"]).clamp(min=1e-4), rtol=0, atol=0)


def test_the_records_of_several_folders_are_one(
    pictures: Path, embedded: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    for name in "012":
        embed_shards(str(pictures / f"{name}.tar"), tmp_path / name, str(tiny_clip_folder), batch=5)
    parts, whole = (
        find_embeddings(find_shards(str(path))) for path in (tmp_path / "?/*.tar", embedded / "*.tar")
    )
    assert parts is not None and whole is not None and parts.count == whole.count == 24
    torch.testing.assert_close(parts.moments, whole.moments, rtol=1e-4, atol=1e-6)
    embed_shards(str(pictures / "1.tar"), tmp_path / "bare", str(tiny_clip_folder), batch=5, tokens=False)
    mixed = find_embeddings([str(tmp_path / "0/0.tar"), str(tmp_path / "bare/1.tar")])
    assert mixed is not None and mixed.null is None  # the text tower runs where one folder wants it


def test_an_embedding_that_was_stopped_goes_on_to_the_same_bytes(
    pictures: Path, embedded: Path, tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = OpenClip.encode_image, []

    def stop_in_the_second_shard(self: OpenClip, images: torch.Tensor, **options: bool) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(OpenClip, "encode_image", stop_in_the_second_shard)
        with pytest.raises(KeyboardInterrupt):
            embed_shards(str(pictures / "*.tar"), tmp_path / "out", str(tiny_clip_folder), batch=5)
    assert sorted(everything(tmp_path / "out")) == ["0.tar"]
    written = (tmp_path / "out/0.tar").stat().st_mtime_ns
    embed_shards(str(pictures / "*.tar"), tmp_path / "out", str(tiny_clip_folder), batch=5)
    assert everything(tmp_path / "out") == everything(embedded)
    assert (tmp_path / "out/0.tar").stat().st_mtime_ns == written


def test_two_processes_share_the_shards(
    pictures: Path, embedded: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "data",
        "embed",
        str(pictures / "*.tar"),
        str(tmp_path / "out"),
        "--clip",
        str(tiny_clip_folder),
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(Path(__file__).parent.parent / "configs/accelerate/cpu-gloo.yaml"),
            "--main_process_port",
            "0",
            "-m",
            "unclip",
            *arguments,
            "--batch",
            "5",
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.stdout.splitlines() == [str(tmp_path / "out")]  # one of them says so
    assert sorted(everything(tmp_path / "out")) == sorted(everything(embedded))
    ours, theirs = (
        list(read_samples(find_shards(str(folder / "*.tar")))) for folder in (tmp_path / "out", embedded)
    )
    assert [(one["__key__"], one["json"]) for one in ours] == [
        (one["__key__"], one["json"]) for one in theirs
    ]
    for one, other in zip(ours, theirs):  # one thread sums in another order than two
        torch.testing.assert_close(load(one["safetensors"]), load(other["safetensors"]), atol=1e-4, rtol=1e-4)
    one, other = (json.loads((folder / "shards.json").read_text()) for folder in (tmp_path / "out", embedded))
    for key in ("mean", "std"):
        assert one.pop(key) == pytest.approx(other.pop(key), abs=1e-5)
    assert one.pop("null").keys() == other.pop("null").keys() and one == other


def counts(out: Path) -> tuple[list[str], int]:
    """Names of the shards, and the number of images in the record."""
    return sorted(path.name for path in out.glob("*.tar")), json.loads((out / "shards.json").read_text())[
        "count"
    ]


def test_shards_that_changed_or_came_later_are_embedded_and_no_others(
    pictures: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "a", tmp_path / "out"
    shutil.copytree(pictures, source)

    def embedded_now(pattern: str = str(source / "*.tar")) -> int:
        return embed_shards(pattern, out, str(tiny_clip_folder), batch=8)

    assert (embedded_now(), counts(out)) == (3, (["0.tar", "1.tar", "2.tar"], 24))
    untouched = (out / "0.tar").stat().st_mtime_ns
    good = list(read_samples([str(source / "1.tar")]))[:3]
    write_shard(source / "1.tar", good)  # replaced under its name
    assert (embedded_now(), counts(out)) == (1, (["0.tar", "1.tar", "2.tar"], 19))
    assert embedded_now() == 0 and (out / "0.tar").stat().st_mtime_ns == untouched
    (tmp_path / "b").mkdir()
    write_shard(tmp_path / "b/1.tar", good[:2])  # another pack, numbered as the first
    both = f"{{{source},{tmp_path / 'b'}}}/*.tar"
    assert (embedded_now(both), counts(out)) == (1, (["0.tar", "1.tar", "2.tar", "b-1.tar"], 21))
    with pytest.raises(DataError, match=r"out: holds embeddings of other shards \(\S+/b/1.tar\)"):
        embedded_now()
    shutil.rmtree(tmp_path / "b")
    (source / "2.tar").unlink()
    assert (embedded_now(), counts(out)) == (0, (["0.tar", "1.tar"], 11))
    source.rename(tmp_path / "moved")
    assert (embedded_now(str(tmp_path / "moved/*.tar")), counts(out)) == (0, (["0.tar", "1.tar"], 11))


def test_two_packs_of_folders_of_the_same_name_embed_together(
    pictures: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    good = list(read_samples([str(pictures / "0.tar")]))[:2]
    for name in ("x", "y", "z"):
        write_shard(tmp_path / name / "train/000000.tar", good)
    embed_shards(str(tmp_path / "?/train/*.tar"), tmp_path / "out", str(tiny_clip_folder), batch=8)
    names, count = counts(tmp_path / "out")
    assert len(names) == 3 and count == 6


def test_long_keys_and_captions_beyond_the_context_are_embedded_and_the_latter_counted(
    pictures: Path, tiny_clip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = next(read_samples([str(pictures / "0.tar")]))
    key = "k" * 240
    texts = {"captions": ["a cat", "a cat and " * 60]}
    write_shard(tmp_path / "a.tar", [{**good, "__key__": key, "json": json.dumps(texts).encode()}])
    embed_shards(str(tmp_path / "a.tar"), tmp_path / "out", str(tiny_clip_folder), batch=8)
    assert next(read_samples([str(tmp_path / "out/a.tar")]))["__key__"] == key
    assert json.loads((tmp_path / "out/shards.json").read_text())["cut"] == 1
    assert "1 captions are longer than the CLIP's 48 tokens" in caplog.text


# --- training from it ---


def test_batches_are_the_ones_that_pictures_would_give(
    pictures: Path, embedded: Path, tiny_clip: Clip
) -> None:
    def read(folder: Path) -> list[Any]:
        config = DataConfig(shards=str(folder / "[0-9].tar"), batch=4, workers=0, shuffle=1)
        stream = Stream(config, needs=NEEDS, preprocess=tiny_clip.preprocess)
        return [embed(batch, tiny_clip, NEEDS) for batch in islice(batches(stream), 2)]

    for stored, online in zip(read(embedded), read(pictures)):
        assert stored.image is None and stored.captions == online.captions
        torch.testing.assert_close(stored.image_embed, online.image_embed, atol=1e-4, rtol=1e-4)
        assert torch.equal(stored.text.mask, online.text.mask[:, : stored.text.mask.shape[1]])
        tokens = online.text.tokens[:, : stored.text.mask.shape[1]]
        torch.testing.assert_close(
            stored.text.tokens[stored.text.mask], tokens[stored.text.mask], atol=5e-3, rtol=5e-3
        )
        length = stored.null.tokens.shape[1]
        torch.testing.assert_close(stored.null.tokens, online.null.tokens[:, :length], atol=1e-4, rtol=1e-4)


def test_a_prior_trained_from_it_runs_no_clip(
    embedded: Path, tiny_clip_folder: Path, tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("CLIP ran")

    monkeypatch.setattr(OpenClip, "encode_image", never)
    monkeypatch.setattr(OpenClip, "encode_text", never)
    with_clip = train(run_config(embedded, tiny_clip_folder), tmp_path / "a", progress=False)
    without = train(run_config(embedded, None), tmp_path / "b", progress=False)
    assert json.loads((without / "config.json").read_text())["clip"] == tiny_clip.identity
    ours, theirs = read_weights(with_clip / "model.safetensors"), read_weights(without / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    half = train(run_config(embedded, None, steps=1), tmp_path / "c", progress=False)
    assert half.name == "step-00000001"
    again = read_weights(
        train(run_config(embedded, None), tmp_path / "c", progress=False) / "model.safetensors"
    )
    assert all(torch.equal(again[name], theirs[name]) for name in theirs)  # resuming stays exact


def test_without_token_states_only_the_text_tower_runs(
    pictures: Path, tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_shards(str(pictures / "*.tar"), tmp_path / "out", str(tiny_clip_folder), batch=8, tokens=False)
    monkeypatch.delattr(OpenClip, "encode_image")
    last = train(run_config(tmp_path / "out", tiny_clip_folder), tmp_path / "run", progress=False)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
    assert last.name == "step-00000002"
    with pytest.raises(ConfigError, match="needs `clip`"):
        train(run_config(tmp_path / "out", None), tmp_path / "other", progress=False)


# --- refusals ---


def test_another_clip_is_refused_by_name(
    embedded: Path, pictures: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = tiny_model / "clip"
    with pytest.raises(DataError, match=r"embeddings of CLIP tiny-clip@\S+, not of tiny@"):
        embed_shards(str(pictures / "*.tar"), embedded, str(other), batch=8)
    with pytest.raises(ConfigError, match=r"hold embeddings of CLIP tiny-clip@\S+, not of tiny@"):
        train(run_config(embedded, other), tmp_path / "a", progress=False)
    with pytest.raises(ConfigError, match=r"is trained with CLIP other@1, not with tiny-clip@"):
        train(run_config(embedded, None, trained_with="other@1"), tmp_path / "b", progress=False)
    assert not (tmp_path / "a").exists() or not list((tmp_path / "a").glob("step-*"))


def test_what_cannot_be_embedded_is_refused(
    embedded: Path, pictures: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    ref = str(tiny_clip_folder)
    with pytest.raises(DataError, match="hold embeddings already"):
        embed_shards(str(embedded / "*.tar"), tmp_path / "a", ref, batch=8)
    with pytest.raises(DataError, match="other shards"):
        embed_shards(str(pictures / "*.tar"), pictures, ref, batch=8)
    write_shard(tmp_path / "bad.tar", [{"__key__": "0", "txt": b"no picture"}])
    with pytest.raises(DataError, match=r"no sample could be used: \S+bad.tar: 1 no picture"):
        embed_shards(str(tmp_path / "bad.tar"), tmp_path / "c", ref, batch=8)
    assert not list((tmp_path / "c").glob("*.tar"))


def test_embeddings_are_no_pictures_and_a_stage_that_needs_these_says_so(embedded: Path) -> None:
    with pytest.raises(DataError, match="hold embeddings, and the stage needs pictures.*--keep-pictures"):
        config = DataConfig(shards=str(embedded / "*.tar"), batch=4)
        Stream(config, size=32, needs=frozenset({"image", "text"}))


def test_damaged_embeddings_are_bad_samples(embedded: Path, tmp_path: Path) -> None:
    good = next(read_samples(find_shards(str(embedded / "*.tar"))))
    content = good["safetensors"]
    write_shard(
        tmp_path / "a.tar",
        [
            {**good, "__key__": "a"},
            {**good, "__key__": "b", "safetensors": content[:-8]},
            {**good, "__key__": "c", "safetensors": b"\x80\x04pickle"},
            {**good, "__key__": "d", "json": b'{"caption": "x"}'},
            {"__key__": "e", "json": good["json"]},
        ],
    )
    (tmp_path / "shards.json").write_bytes((embedded / "shards.json").read_bytes())
    report = check([str(tmp_path / "a.tar")])
    assert report.samples == 1
    assert {reason: n for (_, reason), n in report.skipped.items()} == {
        "unreadable embeddings": 3,
        "no embeddings": 1,
    }
    (tmp_path / "shards.json").write_text('{"clip": "x"}')
    with pytest.raises(DataError, match="shards.json: damaged"):
        find_embeddings([str(tmp_path / "a.tar")])


def test_the_command_embeds(pictures: Path, embedded: Path, tiny_clip_folder: Path, tmp_path: Path) -> None:
    arguments = [
        "data",
        "embed",
        str(pictures / "*.tar"),
        str(tmp_path / "out"),
        "--clip",
        str(tiny_clip_folder),
    ]
    done = CliRunner().invoke(cli, [*arguments, "--batch", "5"])
    assert done.exit_code == 0 and done.output == f"{tmp_path / 'out'}\n"
    again = CliRunner().invoke(cli, [*arguments, "--batch", "5"])
    assert again.output == f"already embedded, nothing changed: {tmp_path / 'out'}\n"
    assert everything(tmp_path / "out") == everything(embedded)
