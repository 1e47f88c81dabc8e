"""Stable unCLIP in small: whole pipelines of diffusers, converted and run side by side with ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.schedule import cosine_betas
from unclip.models.convert import convert
from unclip.pipeline import Pipeline
from unclip.stages.decoder_stable import StableDecoder
from unclip.stages.latent_configs import CaptionEncoderConfig, StableDecoderConfig

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import stable_unclip_models as small
from diffusers.pipelines.stable_diffusion import pipeline_stable_unclip, pipeline_stable_unclip_img2img
from diffusers.schedulers import scheduling_ddpm

PROMPTS = ["a red fox", "a hat"]  # of different lengths
SEEDS = [3, 8]


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small.variations(tmp_path_factory.mktemp("varying"))


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small.from_captions(tmp_path_factory.mktemp("generating"))


def in_double(pipe: Any) -> Any:
    """A copy whose networks and tables are float64; theirs are wrong by 5e-4 in float32."""
    exact = copy.deepcopy(pipe).to(dtype=torch.float64)
    for name in ("image_noising_scheduler", "prior_scheduler", "scheduler"):
        if (scheduler := getattr(exact, name, None)) is None:
            continue
        start, end = (scheduler.config[key] ** 0.5 for key in ("beta_start", "beta_end"))
        linear = torch.linspace(start, end, 1000, dtype=torch.float64) ** 2
        scheduler.betas = linear if name == "scheduler" else cosine_betas(1000)
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    return exact


def same_noise(monkeypatch: pytest.MonkeyPatch, seeds: list[int]) -> dict[str, Tensor]:
    """The first draws of our walks; diffusers gets the same noise for z_i and the prior's steps."""
    streams = {name: SeededNoise(seeds, name) for name in ("prior", "decoder", "decoder/z_i")}
    z_i = torch.empty(len(seeds), small.EMBED)
    first = {
        "prior": streams["prior"](z_i).double(),
        "decoder": streams["decoder"](torch.empty(len(seeds), *small.LATENTS)).double(),
    }
    noise = streams["decoder/z_i"](z_i).double()
    for module in (pipeline_stable_unclip, pipeline_stable_unclip_img2img):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: streams["prior"](z_i).double())
    return first


def assert_same_pictures(got: list[Image.Image], expected: list[Image.Image]) -> None:
    for image, wanted in zip(got, expected, strict=True):
        a, b = np.asarray(image).astype(int), np.asarray(wanted).astype(int)
        assert np.ptp(b) > 25
        worst = np.abs(a - b).max()
        assert worst <= 1, f"{worst} of 255"


def converted(theirs: Any, folder: Path, **how: Any) -> Path:
    """Saved by diffusers, converted by us."""
    theirs.save_pretrained(folder / "theirs", **how)
    convert(folder / "theirs", folder / "ours", parity=True)
    return folder / "ours"


# Whole chains in float64: untrained networks make one rounding of float32 into several grey values.
@pytest.mark.parametrize(
    ("guidance", "level", "steps", "how"),
    [(10.0, 0, 20, {}), (1.0, 999, 4, {"variant": "fp16"}), (4.0, 500, 4, {"max_shard_size": "200KB"})],
)
def test_pictures_of_embeddings_are_theirs(
    varying: Any,
    tmp_path: Path,
    guidance: float,
    level: int,
    steps: int,
    how: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = Pipeline.from_pretrained(
        str(converted(varying, tmp_path, **how)), device="cpu", dtype=torch.float64
    )
    latents = same_noise(monkeypatch, SEEDS)
    z_i = torch.randn(2, small.EMBED, generator=torch.Generator().manual_seed(1))
    expected = in_double(varying)(
        image_embeds=z_i.double(),
        prompt=PROMPTS,
        negative_prompt=["a cap", "a cap"],
        latents=latents["decoder"],
        noise_level=level,
        guidance_scale=guidance,
        num_inference_steps=steps,
    ).images
    options: Any = {"decoder": {"guidance": guidance, "noise_level": level / 999}}
    if steps != 20:
        options["decoder"]["steps"] = steps
    made = ours.decode(z_i, PROMPTS, negative="a cap", seeds=SEEDS, options=options, watermark=False)
    used = made.settings[0]["stages"]["decoder"]
    assert (used["steps"], used["sampler"]) == (steps, "ddim")
    assert_same_pictures(made.images, expected)


def test_variations_are_theirs(varying: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Pipeline.from_pretrained(str(converted(varying, tmp_path)), device="cpu", dtype=torch.float64)
    latents = same_noise(monkeypatch, SEEDS)
    rows = torch.linspace(0, 255, 32).byte().numpy()
    pictures = [
        Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], k), -1)) for k in np.uint8([9, 200])
    ]
    exact = in_double(varying)
    pixels = exact.feature_extractor(images=pictures, return_tensors="pt").pixel_values
    z_i = exact.image_encoder(pixels.double()).image_embeds
    given = {"prompt": ["a hat"] * 2, "latents": latents["decoder"], "num_inference_steps": 4}
    expected = exact(image_embeds=z_i, **given).images
    options = {"decoder": {"steps": 4}}
    made = ours.vary(
        pictures, prompt="a hat", fresh_noise=True, seeds=SEEDS, options=options, watermark=False
    )
    assert_same_pictures(made.images, expected)


@pytest.mark.parametrize(("prior", "decoder"), [(4.0, 10.0), (1.0, 1.0)])
def test_pictures_of_captions_are_theirs(
    generating: Any, tmp_path: Path, prior: float, decoder: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Pipeline.from_pretrained(str(converted(generating, tmp_path)), device="cpu", dtype=torch.float64)
    latents = same_noise(monkeypatch, SEEDS)
    expected = in_double(generating)(
        PROMPTS,
        prior_latents=latents["prior"],
        latents=latents["decoder"],
        prior_guidance_scale=prior,
        guidance_scale=decoder,
        noise_level=100,
        prior_num_inference_steps=6,
        num_inference_steps=4,
    ).images
    options = {
        "prior": {"guidance": prior, "steps": 6},
        "decoder": {"guidance": decoder, "noise_level": 100 / 999, "steps": 4},
    }
    made = ours.generate(PROMPTS, seeds=SEEDS, options=options, watermark=False)
    assert_same_pictures(made.images, expected)


@torch.inference_mode()
def test_caption_states_are_theirs(varying: Any, tmp_path: Path) -> None:
    ours = Pipeline.from_pretrained(str(converted(varying, tmp_path)), device="cpu")
    texts: Any = ours.decoder.captions
    captions = ["a red fox", "", "a very long caption that ends behind the last token of the context"]
    expected, _ = varying.encode_prompt(captions, "cpu", 1, False)
    got = texts(texts.ids(captions))
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("embed", "unet"), [(1024, 870_173_124), (768, 869_517_764)])
def test_the_published_sizes_have_the_published_counts(embed: int, unet: int) -> None:
    config = StableDecoderConfig(
        embed=embed,
        unet={
            "sample_size": 96,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2 * embed,
        },
        autoencoder={
            "_class_name": "AutoencoderKL",
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        },
        scale=0.18215,
        captions=CaptionEncoderConfig(
            width=1024, depth=23, heads=16, vocabulary=49_408, context=77, activation="gelu", padding=0
        ),
    )
    with torch.device("meta"):
        stage = StableDecoder(config)
    counts = {part: sum(p.numel() for p in getattr(stage, part).parameters()) for part in stage.parts}
    assert counts == {"network": unet, "autoencoder": 83_653_863, "captions": 340_387_840}
    assert (stage.size, stage.cell, stage.unit) == (768, 8, 64)
