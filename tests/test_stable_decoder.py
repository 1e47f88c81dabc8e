"""Stable unCLIP's decoder in pipelines: verbs, dtypes, offload, CLI, assembly, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from unclip.cli import cli
from unclip.errors import CheckpointError, RequestError
from unclip.models.assemble import assemble
from unclip.models.convert import convert
from unclip.pipeline import Generation, Pipeline
from unclip.stages import load_stage
from unclip.stages.batch import Batch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import stable_unclip_models as small

FEW: Any = {"decoder": {"steps": 2}}
BOTH: Any = {**FEW, "prior": {"steps": 2}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """theirs: both pipelines in diffusers' layout; ours: their conversions."""
    root = tmp_path_factory.mktemp("stable")
    small.variations(root / "a").save_pretrained(root / "varying-theirs")
    small.from_captions(root / "b").save_pretrained(root / "generating-theirs")
    for name in ("varying", "generating"):
        convert(root / f"{name}-theirs", root / name)
    return root


@pytest.fixture(scope="module")
def varying(folders: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(folders / "varying"), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rows = np.linspace(0, 255, 32).astype(np.uint8)
    return Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], np.uint8(90)), -1))


def bytes_of(made: Generation) -> list[bytes]:
    return [image.tobytes() for image in made.images]


def z_i(count: int = 1) -> Tensor:
    return torch.randn(count, small.EMBED, generator=torch.Generator().manual_seed(5))


VERBS: dict[str, Callable[[Pipeline, Image.Image], Generation]] = {
    "vary": lambda p, a: p.vary(a, 2, seed=3, options=FEW),
    "vary a prompt": lambda p, a: p.vary(a, prompt="a fox", fresh_noise=True, seed=3, options=FEW),
    "interpolate": lambda p, a: p.interpolate([a, a.rotate(90)], 2, seed=3, options=FEW),
    "mix": lambda p, a: p.mix([a, a.rotate(90)], seed=3, options=FEW),
    "edit": lambda p, a: p.edit(a, "a fox", strength=0.6, repeats=1, seed=3, options=FEW),
    "outpaint": lambda p, a: p.outpaint(
        a.resize((16, 16)), "a fox", (20, 16), repeats=1, seed=3, options=FEW
    ),
    "decode": lambda p, a: p.decode(z_i(2), ["a fox", "a hat"], seed=3, negative="a cap", options=FEW),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_whole_and_offloaded(folders: Path, varying: Pipeline, picture: Image.Image, verb: str) -> None:
    offloaded = Pipeline.from_pretrained(
        str(folders / "varying"), device="cpu", dtype=torch.float32, offload=True
    )
    assert bytes_of(VERBS[verb](offloaded, picture)) == bytes_of(VERBS[verb](varying, picture))


@pytest.mark.parametrize("verb", ["decode", "edit"])
def test_verbs_in_bfloat16(folders: Path, picture: Image.Image, verb: str) -> None:
    half = Pipeline.from_pretrained(str(folders / "varying"), device="cpu", dtype=torch.bfloat16)
    made = VERBS[verb](half, picture)
    assert made.settings[0]["dtype"] == "bfloat16"
    side = picture.width if verb == "edit" else small.SIDE
    assert {image.size for image in made.images} == {(side, side)}


def test_an_inversion_reconstructs(varying: Pipeline, picture: Image.Image) -> None:
    found = varying.invert(picture, evaluations=3, options={"decoder": {"steps": 20}})
    assert found.noise.shape == (1, *small.LATENTS)
    made = varying.vary(found, eta=0.0, seed=1, watermark=False, options={"decoder": {"steps": 20}})
    x0 = varying.decoder.encode(torch.zeros(1, 3, small.SIDE, small.SIDE))
    assert x0.shape == (1, *small.LATENTS)
    assert made.images[0].size == (small.SIDE, small.SIDE)


def test_a_picture_depends_on_its_seed_only(varying: Pipeline) -> None:
    options = {"decoder": {"steps": 2, "noise_level": 0.7}}
    both = varying.decode(z_i().expand(2, -1), seeds=[4, 9], options=options, watermark=False)
    alone = varying.decode(z_i(), seeds=[9], options=options, watermark=False)
    a, b = (np.asarray(one).astype(int) for one in (both.images[1], alone.images[0]))
    assert np.abs(a - b).max() <= 1
    assert bytes_of(both)[0] != bytes_of(both)[1]


def test_the_noise_level_changes_z_i(varying: Pipeline) -> None:
    made = [
        bytes_of(varying.decode(z_i(), seed=1, options={"decoder": {"steps": 2, "noise_level": level}}))
        for level in (0.0, 0.5, 1.0)
    ]
    assert len({one[0] for one in made}) == 3


def test_sizes_that_are_not_square(varying: Pipeline) -> None:
    made = varying.decode(z_i(), seed=1, size=(24, 16), options=FEW)
    assert made.images[0].size == (24, 16)


def test_a_saved_model_is_the_same(varying: Pipeline, tmp_path: Path) -> None:
    varying.save_pretrained(tmp_path / "copy")
    again = Pipeline.from_pretrained(str(tmp_path / "copy"), device="cpu", dtype=torch.float32)
    how: Any = {"seed": 2, "options": FEW}
    assert bytes_of(again.decode(z_i(), "a fox", **how)) == bytes_of(varying.decode(z_i(), "a fox", **how))


def test_generate_behind_a_prior(folders: Path, picture: Image.Image) -> None:
    pipe = Pipeline.from_pretrained(str(folders / "generating"), device="cpu", dtype=torch.float32)
    made = pipe.generate("a fox", seed=3, options=BOTH)
    sampled = pipe.sample_prior("a fox", seed=3, options=BOTH)
    assert bytes_of(pipe.decode(sampled, "a fox", seed=3, options=BOTH)) == bytes_of(made)
    with pytest.raises(RequestError, match="has no image encoder"):
        pipe.vary(picture)


def test_the_decoder_is_assembled_with_a_prior(folders: Path, picture: Image.Image, tmp_path: Path) -> None:
    assemble([folders / "varying-theirs", folders / "generating-theirs" / "prior"], tmp_path / "joined")
    pipe = Pipeline.from_pretrained(str(tmp_path / "joined"), device="cpu", dtype=torch.float32)
    assert pipe.generate("a fox", seed=3, options=BOTH).images[0].size == (small.SIDE, small.SIDE)
    assert len(pipe.diff(picture, "a cap", "a hat", [0.3], seed=3, options=BOTH).images) == 1
    assert len(pipe.mix(["a fox", picture], seed=3, options=BOTH).images) == 1


def test_the_loss_trains_the_network_only(folders: Path) -> None:
    stage = load_stage(folders / "varying" / "decoder").train()
    batch = Batch(
        captions=("a fox", "a hat"),
        image=torch.zeros(2, 3, small.SIDE, small.SIDE),
        image_embed=z_i(2),
        seeds=torch.tensor([1, 2]),
    )
    loss = stage(batch)
    assert loss.shape == (2,)
    loss.mean().backward()
    trained = {name.partition(".")[0] for name, tensor in stage.named_parameters() if tensor.grad is not None}
    assert trained == {"network"}


def test_on_the_command_line(folders: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    out = tmp_path / "out.png"
    model = ["--model", str(folders / "varying"), "--device", "cpu", "--steps", "2"]
    how = ["--fresh-noise", "--prompt", "a fox", "--noise-level", "0.5", "--seed", "1", "-o", str(out), "-q"]
    result = CliRunner().invoke(cli, ["vary", str(tmp_path / "a.png"), *model, *how, "--json"])
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout.splitlines()[-1])["settings"]
    assert settings["stages"]["decoder"]["noise_level"] == 0.5
    assert settings["prompt"] == "a fox"
    assert out.is_file()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p, a: p.generate("a fox"), "has no prior, so it cannot generate from a prompt"),
        (lambda p, a: p.diff(a, "a cap", "a hat"), "this CLIP has no text encoder"),
        (lambda p, a: p.decode(torch.zeros(1, 31)), "has 31 numbers per embedding; .* which have 24"),
        (lambda p, a: p.decode(z_i(), options={"decoder": {"noise_level": 1.5}}), "noise_level: .*1.5"),
    ],
)
def test_what_it_cannot_do_is_refused(varying: Pipeline, picture: Image.Image, call: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        call(varying, picture)


def test_other_decoders_have_no_noise_level() -> None:
    mini = Pipeline.from_pretrained("mini", device="cpu")
    with pytest.raises(RequestError, match="decoder: noise_level 0.5: this decoder reads z_i without noise"):
        mini.generate("a shiba inu", options={"decoder": {"noise_level": 0.5}})


def changed(source: Path, out: Path, file: str, **changes: Any) -> Path:
    """A copy of a folder of diffusers with another value in one config."""
    shutil.copytree(source, out)
    tree = json.loads((out / file).read_text())
    (out / file).write_text(json.dumps({**tree, **changes}))
    return out


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("unet/config.json", {"class_embed_type": None}, "class_embed_type"),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 96},
            "is 96, but the image_normalizer beside it needs 48",
        ),
        (
            "image_encoder/config.json",
            {"projection_dim": 32},
            "its embeddings have 32 numbers, but the decoder reads 24",
        ),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule"),
        ("image_noising_scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    folders: Path, tmp_path: Path, file: str, changes: Any, says: str
) -> None:
    source = changed(folders / "varying-theirs", tmp_path / "theirs", file, **changes)
    with pytest.raises(CheckpointError, match=says):
        convert(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_prior_of_another_clip_is_refused(folders: Path, tmp_path: Path) -> None:
    stage = load_stage(folders / "generating" / "prior")
    wider = stage.config.model_copy(update={"embed": 32, "token_width": 32, "clip": None})
    (tmp_path / "prior").mkdir()
    type(stage)(wider).save(tmp_path / "prior")
    with pytest.raises(CheckpointError, match="prior has embed 32, but decoder has 24"):
        assemble([folders / "varying", tmp_path / "prior"], tmp_path / "x", clip=str(folders / "varying"))
