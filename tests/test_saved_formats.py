"""Files saved by earlier versions load and give the same numbers.

`fixtures/saved-VERSION.tar.xz` holds models, stages, runs, shards, configs and pictures as that version wrote
them, the results it had with them (reference.json), and the program that made all this (make.py). An archive
is never made again: when a format changes, a new one joins it.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from unclip.cli import cli
from unclip.data.check import check
from unclip.data.embeddings import find_embeddings
from unclip.data.tar import find_shards
from unclip.diffusion.noise import SeededNoise
from unclip.files import read_weights
from unclip.images import open_picture, read_settings, to_tensor
from unclip.models.resolve import load_clip, resolve
from unclip.pipeline import Pipeline
from unclip.provenance import watermark
from unclip.stages import load_stage, stage_class
from unclip.train.config import read_run
from unclip.train.loop import train

ARCHIVES = sorted((Path(__file__).parent / "fixtures").glob("saved-*.tar.xz"))
PROMPTS = ["a red fox", "a hat on a table"]
TOLERANCE = 1e-5
CONFIGS = 25  # that were shipped with 0.1.0
KINDS = ("clip", "prior", "prior_ar", "prior_onepass", "decoder", "upsampler", "pixels")
PARTS = (
    "model/prior",
    "model/decoder",
    "model/upsampler-64",
    "stages/decoder-inpaint",
    "stages/upsampler-residual",
    "stages/prior-ar",
    "stages/prior-onepass",
    "stages/pixels",
)


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive's folder. Never write into it."""
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder / "saved"


@pytest.fixture(scope="module")
def reference(saved: Path) -> Any:
    return json.loads((saved / "reference.json").read_text())


def assert_as_before(now: Tensor, before: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    flat = now.detach().double().flatten()
    found = [*flat[:8].tolist(), flat.mean().item(), flat.std().item()]
    assert list(now.shape) == before["shape"]
    assert found == pytest.approx(
        [*before["first"], before["mean"], before["std"]], rel=tolerance, abs=tolerance
    )


def pictures(saved: Path) -> Tensor:
    paths = find_shards(f"{saved}/shards/*.tar")
    with tarfile.open(paths[0]) as shard:
        files = [shard.extractfile(name) for name in ("0000.png", "0001.png")]
        return torch.stack([to_tensor(Image.open(file)) for file in files if file is not None])


def test_a_clip(saved: Path, reference: Any) -> None:
    clip = load_clip(str(saved / "model/clip"))
    text = clip.encode_text([*PROMPTS, ""]).rows(None, -1)
    assert_as_before(text.embed, reference["samples"]["text_embed"])
    assert_as_before(text.tokens, reference["samples"]["tokens"])
    assert_as_before(clip.encode_image(pictures(saved)), reference["samples"]["image_embed"])


@pytest.mark.parametrize("part", PARTS)
def test_a_stage_samples_what_it_sampled(saved: Path, reference: Any, part: str) -> None:
    stage: Any = load_stage(saved / part)
    name = Path(part).name
    noise, options = SeededNoise([5, 6], name), stage.config.sampling
    clip = load_clip(str(saved / "model/clip"))
    both = clip.encode_text([*PROMPTS, ""])
    text, null = both.rows(None, -1), both.rows(-1, None).repeat(2)
    with torch.inference_mode():
        if name.startswith("prior"):
            steps = stage.sample(text, null, options, noise)
        elif name.startswith("decoder"):
            steps = stage.sample(clip.encode_image(pictures(saved)), text, null, options, noise)
        elif name.startswith("upsampler"):
            steps = stage.sample(pictures(saved), options, noise)
        else:
            steps = stage.sample(torch.tensor([0, 2]), options, noise)
        *_, last = steps
    assert_as_before(last.x, reference["samples"][name], 1e-4 if name == "prior-ar" else TOLERANCE)


@pytest.mark.parametrize("name", ["model", "karlo"])
def test_a_model_draws_what_it_drew(saved: Path, reference: Any, name: str) -> None:
    """The second was converted from diffusers' folder of a small Karlo."""
    pipe = Pipeline.from_pretrained(str(saved / name), device="cpu", dtype=torch.float32)
    steps = {
        role: {"steps": 2}
        for role in json.loads((saved / name / "model_index.json").read_text())["upsamplers"]
    }
    steps |= {"prior": {"steps": 2}, "decoder": {"steps": 2}}
    made = pipe.generate(PROMPTS, seed=7, options=steps, watermark=False)
    before = reference["pipelines"][name]
    assert_as_before(made.image_embeds, before["image_embeds"])
    for image, as_it_was in zip(made.images, before["images"], strict=True):
        levels = torch.from_numpy(np.array(image)).double()
        assert levels.flatten()[:8].tolist() == pytest.approx(
            as_it_was["first"], abs=1
        )  # rounded on another machine
        assert levels.mean().item() == pytest.approx(as_it_was["mean"], abs=0.01)
        assert levels.std().item() == pytest.approx(as_it_was["std"], abs=0.01)


def test_a_model_that_was_marked_quick_is_drawn_in_bfloat16(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unclip.pipeline.pipeline.quick_in_bf16", lambda device: True)
    assert json.loads((saved / "karlo/model_index.json").read_text())["precision"] == "quick"
    assert Pipeline.from_pretrained(str(saved / "karlo"), device="cpu").dtype == torch.bfloat16
    assert Pipeline.from_pretrained(str(saved / "model"), device="cpu").dtype is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_as_it_went(
    saved: Path, reference: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest checkpoint is of step 2: weights, two averages and Adam's moments are read, and two steps
    follow.
    """
    monkeypatch.chdir(saved)  # its run.yaml and its config have relative paths
    shutil.copytree(saved / "runs" / kind, tmp_path / kind)
    end = train(read_run(Path(f"configs/{kind}.yaml")), tmp_path / kind, progress=False)
    assert end.name == "step-00000004"
    for file, before in reference["runs"][kind].items():
        tensors = [tensor.double() for tensor in read_weights(end / file).values() if tensor.numel() > 1]
        # Without their names, which may change.
        now = sorted([tensor.numel(), tensor.mean().item(), tensor.std().item()] for tensor in tensors)
        assert len(now) == len(before)
        assert [*chain(*now)] == pytest.approx([*chain(*before)], rel=TOLERANCE, abs=TOLERANCE), file


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_described_and_its_run_yaml_is_a_config(saved: Path, kind: str) -> None:
    told = json.loads(CliRunner().invoke(cli, ["info", str(saved / "runs" / kind), "--json"]).output)
    assert (told["run"], told["stage"], told["step"]) == (kind, kind, "2 of 2")
    assert (
        read_run(saved / "runs" / kind / "run.yaml").stage == read_run(saved / f"configs/{kind}.yaml").stage
    )
    assert isinstance(load_stage(resolve(str(saved / "runs" / kind)).folder), stage_class(kind))


def test_the_configs_that_were_shipped(saved: Path) -> None:
    paths = sorted((saved / "configs/shipped").rglob("*.yaml"))
    assert len(paths) == CONFIGS
    for path in paths:
        read_run(path)


def test_embedded_shards(saved: Path) -> None:
    paths = find_shards(f"{saved}/embedded/*.tar")
    record = find_embeddings(paths)
    assert record is not None and record.identity == load_clip(str(saved / "model/clip")).identity
    assert record.count == 8 and record.null is not None
    assert check(paths).samples == check(find_shards(f"{saved}/shards/*.tar")).samples == 8


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("name", ["model", "karlo"])
def test_settings_in_pictures(saved: Path, reference: Any, name: str, suffix: str) -> None:
    path = saved / f"pictures/{name}.{suffix}"
    before = reference["pipelines"][f"pictures/{name}.{suffix}"]
    assert read_settings(path) == before
    told = CliRunner().invoke(cli, ["info", str(path), "--json"])
    assert json.loads(told.output) == before


def test_the_watermark(saved: Path) -> None:
    assert watermark.detect(open_picture(saved / "pictures/marked.jpg")).found
