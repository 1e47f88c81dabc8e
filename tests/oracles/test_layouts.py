"""Every layout in which diffusers' repositories come: variants, shards, snapshots of the Hub, pickles."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from fake_hub import MODEL, Hub, serve
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from unclip.cli import cli
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.noise import SeededNoise
from unclip.errors import CheckpointError, RequestError
from unclip.models.convert import convert
from unclip.models.resolve import locate, resolve
from unclip.pipeline import Pipeline

declare_missing_schemas()
pytest.importorskip("diffusers")

from diffusers.schedulers import scheduling_unclip  # noqa: E402
from small_karlo import (  # noqa: E402
    WIDTH,
    kandinsky_prior_pipeline,
    karlo_pipeline,
    variation_pipeline,
)

PROMPTS = ["a red fox", "a hat"]
SHARD = "8KB"  # several files for every network


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pipelines by name, as their repositories hold them."""
    karlo = karlo_pipeline(tmp_path_factory.mktemp("words") / "tokenizer")
    return {
        "karlo-v1-alpha": karlo,
        "karlo-v1-alpha-image-variations": variation_pipeline(karlo),
        "kandinsky-2-1-prior": kandinsky_prior_pipeline(karlo, "KandinskyPriorPipeline"),
        "kandinsky-2-2-prior": kandinsky_prior_pipeline(karlo, "KandinskyV22PriorPipeline"),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def spoilt_copies(folder: Path) -> None:
    """Half precision beside every file of weights, all zeros: a test that reads it fails."""
    for path in folder.rglob("*.safetensors"):
        zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
        save_file(zeros, path.with_name(f"{path.stem}.fp16.safetensors"))


def written(pipe: Any, folder: Path, layout: str) -> Path:
    options: dict[str, dict[str, Any]] = {
        "fp16 alone": {"variant": "fp16"},
        "shards": {"max_shard_size": SHARD},
        "fp16 shards": {"max_shard_size": SHARD, "variant": "fp16"},
    }
    pipe.save_pretrained(folder, **options.get(layout, {}))
    if layout == "both":
        spoilt_copies(folder)
    names = [path.name for path in folder.glob("*/*")]
    assert any("fp16" in name for name in names) == ("fp16" in layout or layout == "both")
    assert any("-of-" in name for name in names) == ("shards" in layout)
    return folder


def assert_same_models(one: Path, two: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files and files == sorted(path.relative_to(two) for path in two.rglob("*.safetensors"))
    for path in files:
        assert (one / path).read_bytes() == (two / path).read_bytes(), path


@pytest.mark.parametrize(
    "name",
    ["karlo-v1-alpha", "karlo-v1-alpha-image-variations", "kandinsky-2-1-prior", "kandinsky-2-2-prior"],
)
def test_variants_and_shards_are_the_same_model(theirs: dict[str, Any], name: str, tmp_path: Path) -> None:
    convert(written(theirs[name], tmp_path / "plain", "plain"), tmp_path / "expected")
    for layout in ("fp16 alone", "both", "shards", "fp16 shards"):
        convert(written(theirs[name], tmp_path / layout, layout), tmp_path / f"{layout} out")
        assert_same_models(tmp_path / "expected", tmp_path / f"{layout} out")


@pytest.mark.parametrize("layout", ["fp16 alone", "both", "shards", "fp16 shards"])
def test_a_single_network_in_every_layout(theirs: dict[str, Any], layout: str, tmp_path: Path) -> None:
    only = _Only(theirs["karlo-v1-alpha"].prior)
    written(only, tmp_path / "theirs", layout)
    written(only, tmp_path / "plain", "plain")
    one, two = (resolve(str(tmp_path / name / "prior")).folder for name in ("theirs", "plain"))
    assert_same_models(one, two)


class _Only:
    """Saves one network in the folder `prior`."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def save_pretrained(self, folder: Path, **options: Any) -> None:
        self.network.save_pretrained(folder / "prior", **options)


# --- Kandinsky's priors ---


@pytest.mark.parametrize("name", ["kandinsky-2-1-prior", "kandinsky-2-2-prior"])
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_kandinskys_z_i_is_theirs(
    theirs: dict[str, Any], name: str, guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(theirs[name], tmp_path / name, "plain")
    ours = Pipeline.from_pretrained(str(folder), device="cpu", dtype=torch.float64)
    noise = SeededNoise([3, 8], "prior")
    latents = noise(torch.empty(2, WIDTH)).double()
    monkeypatch.setattr(
        scheduling_unclip, "randn_tensor", lambda shape, **_: noise(torch.empty(shape)).double()
    )
    exact = copy.deepcopy(theirs[name]).to(dtype=torch.float64)
    expected = exact(PROMPTS, latents=latents, num_inference_steps=5, guidance_scale=guidance).image_embeds
    options = {"prior": {"steps": 5, "guidance": guidance, "candidates": 1}}
    z_i = ours.sample_prior(PROMPTS, seed=[3, 8], options=options)
    assert (z_i.double() - expected).abs().max() < 1e-6 < expected.std()
    picture = ours.clip.encode_image(torch.zeros(1, 3, 32, 32))
    assert picture.shape == (1, WIDTH)
    with pytest.raises(RequestError, match="has no decoder, so it cannot make pictures"):
        ours.generate("a hat")


# --- the Hub ---


@pytest.fixture(scope="module")
def karlo(theirs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Karlo in whole and half precision."""
    return written(theirs["karlo-v1-alpha"], tmp_path_factory.mktemp("both") / "karlo", "both")


@pytest.fixture
def hub(karlo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(karlo, tmp_path / "hub", monkeypatch) as server:
        del server.files["prior/training.bin"], server.files["prior/optimizer.ckpt"]
        yield server


def fetched(hub: Hub) -> set[str]:
    """Names of the files that were downloaded."""
    got = (line.partition("/resolve/")[2].partition("/")[2] for line, _ in hub.seen if "/resolve/" in line)
    return set(got)


def test_half_precision_is_fetched_only_where_there_is_no_whole(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = locate(MODEL)
    assert (
        not [name for name in fetched(hub) if "fp16" in name]
        and len(list(folder.rglob("*.safetensors"))) == 6
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(MODEL) == folder
    whole = [name for name in hub.files if name.endswith(".safetensors") and "fp16" not in name]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    for name in whole:
        del hub.files[name]
    assert len(list(locate(MODEL).rglob("*.fp16.safetensors"))) == 6
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Pipeline.from_pretrained(MODEL, device="cpu").prior is not None


@pytest.mark.parametrize("part", ["", "/prior"])
def test_pickles_alone_say_what_to_do(hub: Hub, karlo: Path, part: str, tmp_path: Path) -> None:
    local = tmp_path / "downloaded"
    weights = load_file(karlo / "prior/diffusion_pytorch_model.safetensors")
    for name in [name for name in hub.files if name.startswith("prior/") and name.endswith(".safetensors")]:
        del hub.files[name]
    pickled = tmp_path / "diffusion_pytorch_model.bin"
    torch.save(weights, pickled)
    hub.files["prior/diffusion_pytorch_model.bin"] = pickled.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        Pipeline.from_pretrained(f"{MODEL}{part}", device="cpu")
    said = str(caught.value)
    assert "prior: no weights in it" in said and "\n" not in said
    assert said.endswith("pickles (.bin) are not fetched: `hf download` the repository and give that folder")
    shutil.copytree(karlo, local)
    for path in (local / "prior").glob("*.safetensors"):
        path.unlink()
    shutil.copy(pickled, local / "prior")
    assert Pipeline.from_pretrained(f"{local}{part}", device="cpu").prior is not None


def test_what_cannot_run_is_refused_before_its_weights_are_fetched(hub: Hub) -> None:
    hub.files["model_index.json"] = json.dumps({"_class_name": "StableDiffusionXLPipeline"}).encode()
    with pytest.raises(
        CheckpointError, match=f"^{MODEL}: is a StableDiffusionXLPipeline: Stable Diffusion reads"
    ):
        Pipeline.from_pretrained(MODEL)
    assert fetched(hub) == {"model_index.json"}


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("size", ["", "-small"])
def test_a_withdrawn_repository_names_its_mirror(
    hub: Hub, size: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    done = CliRunner().invoke(cli, ["info", f"stabilityai/stable-diffusion-2-1-unclip{size}"])
    assert str(done.exception).endswith(
        f"its owner withdrew it in 2025, and sd2-community/stable-diffusion-2-1-unclip{size} is a mirror"
    )


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("laion/DALLE2-PyTorch", "holds pickles of DALLE2-pytorch, .*pip install dalle2-pytorch"),
        (
            "ECLIPSE-Community/Lambda-ECLIPSE-Prior-v1.0",
            "is a prior that also reads pictures of its subjects",
        ),
    ],
)
def test_models_that_cannot_be_read_are_refused_without_asking(hub: Hub, ref: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{ref}: {says}"):
        locate(ref)
    assert hub.seen == []
