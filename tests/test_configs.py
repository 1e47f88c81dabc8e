"""Every config in configs/ builds a stage, and the large ones have the published shapes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from unclip.diffusion.samplers import SAMPLERS
from unclip.stages import stage_class
from unclip.stages.base import Stage
from unclip.stages.pixels import PixelsConfig
from unclip.train.config import RunConfig, read_run

CONFIGS = Path(__file__).parent.parent / "configs"
RUNS = [path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "accelerate"]
FILES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in RUNS)


@cache
def run(name: str) -> RunConfig:
    return read_run(CONFIGS / f"{name}.yaml")


def build(name: str) -> Stage:
    """The stage on the meta device: shapes without memory."""
    config = run(name).stage
    with torch.device("meta"):
        return stage_class(config.kind)(config)


def count(stage: Stage, prefix: str = "") -> int:
    return sum(p.numel() for name, p in stage.named_parameters() if name.startswith(prefix))


@pytest.mark.parametrize("name", FILES)
def test_parses_and_builds(name: str) -> None:
    stage = build(name)
    assert count(stage) > 0
    assert run(name).stage.sampling.sampler in SAMPLERS
    assert run(name).clip or not stage.needs & {"image_embed", "text"}


def test_all_families_are_there() -> None:
    assert {
        "mini/clip",
        "mini/upsampler-1024",
        "emoji/decoder",
        "karlo/upsampler-256",
        "dalle2/upsampler-1024",
    } <= set(FILES)


# --- DALL·E 2: Ramesh et al. 2022, table 3 ---


def test_dalle2_decoder_has_3_5_billion() -> None:
    # All parameters of the stage. GLIDE, whose decoder it is, counts its 3.5B as 2.3B visual and 1.2B text:
    # visual is everything but the text encoder; text is the transformer without its table of token
    # embeddings.
    stage = build("dalle2/decoder")
    table = count(stage, "network.text_encoder.tokens")
    text = count(stage, "network.text_encoder") - table
    assert count(stage) == pytest.approx(3.5e9, rel=0.03)
    assert text == pytest.approx(1.2e9, rel=0.03)
    assert count(stage) - text - table == pytest.approx(2.3e9, rel=0.03)


@pytest.mark.parametrize(
    ("name", "expected", "which"),
    [
        ("dalle2/upsampler-256", 691_579_523, "quoted as 700M; the time embedding added, as Karlo has it"),
        ("dalle2/upsampler-1024", 282_059_139, "quoted as 300M; the table's numbers give no more than this"),
        ("karlo/upsampler-256", 691_579_523, "the super-resolution network of the published checkpoint"),
    ],
)
def test_upsamplers_have_the_derived_counts(name: str, expected: int, which: str) -> None:
    # Derived elsewhere, by building the same shapes from diffusers' blocks.
    assert count(build(name)) == expected, which


def test_dalle2_upsampler_256_has_700_million() -> None:
    assert count(build("dalle2/upsampler-256")) == pytest.approx(700e6, rel=0.03)


def test_dalle2_upsampler_1024_with_an_added_time_embedding() -> None:
    config = run("dalle2/upsampler-1024").stage
    unet = config.unet.model_copy(update={"scale_shift": False})  # type: ignore[attr-defined]
    with torch.device("meta"):
        stage = stage_class("upsampler")(config.model_copy(update={"unet": unet}))
    assert count(stage) == 267_146_691


@pytest.mark.parametrize(
    ("name", "expected"), [("dalle2/prior", 1_225_927_680), ("karlo/prior", 1_022_030_080)]
)
def test_priors_have_the_derived_counts(name: str, expected: int) -> None:
    # diffusers' PriorTransformer of that shape, which counts the embeddings' mean and deviation as
    # parameters; here they are buffers. DALL·E 2's is quoted as 1B; Karlo's is the published checkpoint.
    assert count(build(name)) + sum(b.numel() for b in build(name).buffers()) == expected


def test_karlo_decoder_has_the_published_count() -> None:
    # Its checkpoint keeps the U-Net and the projections of the condition (text_proj) in two files.
    stage = build("karlo/decoder")
    assert count(stage, "network.unet") == 885_439_686
    assert count(stage) - count(stage, "network.unet") == 7_878_400


# stage: schedule, sampling steps and method; steps, lr, beta2, eps, weight decay, EMA; global batch
TABLE_3 = {
    "prior": ("cosine", 64, "ddpm", 600_000, 1.1e-4, 0.96, 1e-6, 6e-2, 0.9999, 4096),
    "decoder": ("cosine", 250, "ddpm", 800_000, 1.2e-4, 0.999, 1e-8, 0.0, 0.9999, 2048),
    "upsampler-256": ("cosine", 27, "ddim", 1_000_000, 1.2e-4, 0.999, 1e-8, 0.0, 0.9999, 1024),
    "upsampler-1024": ("linear", 15, "ddim", 1_000_000, 1.0e-4, 0.999, 1e-8, 0.0, 0.9999, 512),
}


@pytest.mark.parametrize("stage", TABLE_3)
def test_dalle2_is_table_3(stage: str) -> None:
    config = run(f"dalle2/{stage}")
    schedule, steps, sampler, iterations, lr, beta, eps, decay, ema, batch = TABLE_3[stage]
    assert config.stage.diffusion.schedule == schedule  # type: ignore[attr-defined]
    assert (config.stage.sampling.steps, config.stage.sampling.sampler) == (steps, sampler)
    optim = config.optim
    assert (optim.lr, optim.betas, optim.eps, optim.weight_decay) == (lr, (0.9, beta), eps, decay)
    assert (config.train.steps, config.train.ema) == (iterations, ema)
    assert batch % config.data.batch == 0
    assert f"{batch} in all" in (CONFIGS / f"dalle2/{stage}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stage", "steps", "guidance"), [("prior", 25, 4.0), ("decoder", 25, 8.0), ("upsampler-256", 7, 1.0)]
)
def test_karlo_samples_as_published(stage: str, steps: int, guidance: float) -> None:
    sampling = run(f"karlo/{stage}").stage.sampling
    assert (sampling.steps, sampling.guidance, sampling.sampler) == (steps, guidance, "ddpm")


# --- DDPM: Ho et al. 2020, appendix B ---


def test_cifar10_is_the_papers() -> None:
    config = run("ddpm/cifar10")
    # Quoted as 35.7M; to the last one what the paper's published network has, with no class to embed.
    assert count(build("ddpm/cifar10")) == 35_746_307
    optim = config.optim
    assert (optim.lr, optim.warmup, optim.weight_decay, optim.clip_norm) == (2e-4, 5000, 0, 1)
    assert (config.train.steps, config.train.ema, config.data.batch) == (800_000, 0.9999, 128)
    stage = config.stage
    assert isinstance(stage, PixelsConfig) and stage.flips and stage.unet.dropout == 0.1
    diffusion = stage.diffusion
    assert (diffusion.schedule, diffusion.times, diffusion.objective) == ("linear", 1000, "simple")
    # Their code's choice for CIFAR-10, of the two that the paper finds alike.
    assert (diffusion.predict, diffusion.variance) == ("eps", "fixed_large")
