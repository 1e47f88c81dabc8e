"""Models of other programs that cannot run here: one line says what they are, why not, and what runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from unclip.cli import cli
from unclip.errors import CheckpointError
from unclip.models.convert.pipelines import PIPELINES
from unclip.models.refusals import REASONS
from unclip.pipeline import Pipeline

REFUSED = {
    "StableDiffusionPipeline": "is a .*: Stable Diffusion reads captions, not an image embedding; diffusers",
    "StableDiffusionXLPipeline": "Stable Diffusion reads captions",
    "StableDiffusionImageVariationPipeline": "reads an image embedding instead of a caption; diffusers",
    "Kandinsky3Pipeline": "Kandinsky 3 has no prior and reads Flan-UL2's states of a caption; diffusers",
    "Kandinsky5T2IPipeline": "Kandinsky 5 reads captions",
    "KandinskyPipeline": "multilingual XLM-R, which unclip lacks; diffusers runs it, and unclip its prior",
    "KandinskyInpaintCombinedPipeline": "multilingual XLM-R",
    "KandinskyV22ControlnetPipeline": "reads a depth map",
    "WuerstchenPriorPipeline": "latents of a picture, not CLIP embeddings; diffusers runs it",
    "StableCascadeDecoderPipeline": "latents of a picture, not CLIP embeddings; diffusers runs it",
    "IFPipeline": "is an IFPipeline: DeepFloyd IF reads T5's states of a caption, not an image embedding; diffus",
    "IFImg2ImgSuperResolutionPipeline": "DeepFloyd IF",
    "ShapEPipeline": "three-dimensional shapes",
    "FluxPipeline": "FLUX reads captions",
    "SomethingElse": "is a SomethingElse, which unclip cannot run; it converts Karlo's, ",
}
NETWORKS = {
    "ControlNetModel": "an addition to a U-Net of Stable Diffusion, which draws nothing alone; diffusers runs both",
    "T2IAdapter": "an addition to a U-Net",
    "Kandinsky3UNet": "Kandinsky 3 has no prior",
    "StableCascadeUNet": "latents of a picture",
    "UNet2DConditionModel": "is a U-Net, but no decoder of Karlo's: no text_proj beside it",
    "VQModel": "is a VQModel, not a PriorTransformer",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(folder: Path, name: str, **tree: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(tree))
    return folder


def assert_refused(ref: str, says: str, out: Path) -> None:
    commands = (["info", ref], ["convert", ref, str(out)], ["generate", "a cat", "--model", ref])
    for command in (*commands, ["assemble", "mini", ref, "-o", str(out)]):
        done = CliRunner().invoke(cli, command)
        assert isinstance(done.exception, CheckpointError), (command, done.output)
        said = str(done.exception)
        assert said.startswith((f"{ref}: ", f"{ref}/config.json: ")), (command, said)
        assert "\n" not in said and len(said) < 400 and not out.exists()
        with pytest.raises(CheckpointError, match=says):
            raise done.exception


@pytest.mark.parametrize("kind", REFUSED)
def test_pipelines_that_cannot_run_say_what_they_are(kind: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "theirs", "model_index.json", _class_name=kind)
    assert_refused(str(folder), REFUSED[kind], tmp_path / "out")


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_that_cannot_run_say_what_they_are(kind: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "theirs", "config.json", _class_name=kind)
    assert_refused(str(folder), NETWORKS[kind], tmp_path / "out")


def test_a_network_is_refused_with_its_pipeline(tmp_path: Path) -> None:
    written(tmp_path / "sd", "model_index.json", _class_name="StableDiffusionPipeline")
    folder = written(tmp_path / "sd/unet", "config.json", _class_name="UNet2DConditionModel")
    assert_refused(str(folder), "belongs to a StableDiffusionPipeline: Stable Diffusion", tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("MultilingualCLIP", "text_encoder/config.json: is a MultilingualCLIP, not a CLIPTextModelWithPro"),
        ("CLIPTextModel", "text_encoder/config.json: is a CLIPTextModel, not a CLIPTextModelWithProjection"),
        (
            "T5EncoderModel",
            "text_encoder/config.json: is a T5EncoderModel, not a CLIPTextModelWithProjection",
        ),
    ],
)
def test_another_text_encoder_beside_a_prior_is_named(kind: str, says: str, tmp_path: Path) -> None:
    written(tmp_path / "theirs", "model_index.json", _class_name="KandinskyPriorPipeline")
    encoder = written(tmp_path / "theirs/text_encoder", "config.json", architectures=[kind])
    save_file({"weight": torch.zeros(1)}, encoder / "model.safetensors")
    with pytest.raises(CheckpointError, match=says):
        Pipeline.from_pretrained(str(tmp_path / "theirs"))


def test_no_reason_hides_a_pipeline_that_runs() -> None:
    assert not [(kind, word) for kind in PIPELINES for word in REASONS if kind.startswith(word)]
