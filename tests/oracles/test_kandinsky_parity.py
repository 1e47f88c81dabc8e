"""Kandinsky 2.2 in small: diffusers' pipelines with random weights, converted and run side by side with ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

pytest.importorskip("diffusers")

import diffusers
from diffusers.schedulers import scheduling_ddpm, scheduling_unclip
from tiny_kandinsky import CELL, DECODER, INPAINT, PRIOR, SIDE, WIDTH, write

from unclip.clip import Text
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.schedule import Schedule, cosine_betas
from unclip.diffusion.trajectory import Trajectory
from unclip.images import to_tensor
from unclip.models.convert import convert
from unclip.models.convert.latent_kandinsky import read_decoder
from unclip.pipeline import Pipeline
from unclip.stages.decoder_kandinsky import KandinskyDecoder
from unclip.stages.latent_configs import KandinskyDecoderConfig

PROMPTS, SEEDS = ["a red fox", "a hat"], [3, 8]
STEPS = {"prior": 5, "decoder": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("kandinsky"))


def exact(scheduler: Any, betas: Tensor) -> None:
    """Their tables in double: in float32, as they are, they are wrong by 5e-4 near the clean end."""
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)


def load(kind: Any, folder: Path) -> Any:
    pipe = kind.from_pretrained(folder).to(dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    cosine = hasattr(pipe, "prior")
    exact(
        pipe.scheduler,
        cosine_betas(1000) if cosine else torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64),
    )
    return pipe


@pytest.fixture(scope="module")
def prior(folder: Path) -> Any:
    return load(diffusers.KandinskyV22PriorPipeline, folder / PRIOR)


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Any:
    return load(diffusers.KandinskyV22Pipeline, folder / DECODER)


def ours_from(folder: Path, name: str) -> Pipeline:
    convert(folder / name, folder / f"ours-{name}", parity=True)
    return Pipeline.from_pretrained(str(folder / f"ours-{name}"), device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Pipeline:
    return ours_from(folder, DECODER)


@pytest.fixture(scope="module")
def ours_inpaint(folder: Path) -> Pipeline:
    return ours_from(folder, INPAINT)


def their_noise(module: Any, sources: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a scheduler of theirs the noise of ours, stacked from several sources; returns what draws it."""

    def draw(shape: Any, **_: Any) -> Tensor:
        like = torch.empty(shape[0] // len(sources), *shape[1:])
        return torch.cat([source(like) for source in sources]).double()

    monkeypatch.setattr(module, "randn_tensor", draw)
    return draw


def options(guidance: float = 4.0, **decoder: Any) -> dict[str, Any]:
    changes = {"steps": STEPS["decoder"], "guidance": guidance, **decoder}
    return {"prior": {"steps": STEPS["prior"]}, "decoder": changes}


def assert_same(got: list[Image.Image], expected: list[Image.Image]) -> None:
    for image, wanted in zip(got, expected, strict=True):
        a, b = np.asarray(image).astype(int), np.asarray(wanted).astype(int)
        assert np.ptp(b) > 100
        assert np.abs(a - b).max() <= 1


def assert_near(a: Tensor, b: Tensor) -> None:
    """Maximum error relative to the largest value."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-9 * b.abs().max()


# --- networks ---

FULL_UNET = {
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 64,
    "block_out_channels": [384, 768, 1152, 1536],
    "layers_per_block": 3,
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "cross_attention_dim": 768,
    "encoder_hid_dim": 1280,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
}
FULL_MOVQ = {
    "_class_name": "VQModel",
    "latent_channels": 4,
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 4,
    "block_out_channels": [128, 256, 256, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
    "norm_type": "spatial",
}


def test_full_size_has_the_published_number_of_parameters() -> None:
    config = KandinskyDecoderConfig(embed=1280, unet=FULL_UNET, autoencoder=FULL_MOVQ)
    with torch.device("meta"):
        stage = KandinskyDecoder(config)
    assert sum(p.numel() for p in stage.network.parameters()) == 1_253_057_288
    assert sum(p.numel() for p in stage.autoencoder.parameters()) == 67_832_495
    assert (stage.unit, stage.cell, stage.inpaints) == (64, 8, False)


@torch.inference_mode()
def test_networks(decoder: Any, ours: Pipeline) -> None:
    stage = ours.decoder
    assert isinstance(stage, KandinskyDecoder)
    x, z = torch.randn(2, 4, 16, 24, dtype=torch.float64), torch.randn(2, WIDTH, dtype=torch.float64)
    for t in (999, 416, 0):
        out = decoder.unet(x, t, None, added_cond_kwargs={"image_embeds": z}).sample
        assert_near(stage.network(x, torch.full((2,), t), image_embed=z), out)
    pictures = torch.rand(2, 3, 64, 96, dtype=torch.float64) * 2 - 1
    assert_near(stage.encode(pictures), decoder.movq.encode(pictures).latents)
    assert_near(stage.render(x), decoder.movq.decode(x, force_not_quantize=True).sample)


def test_the_null_embedding_is_that_of_zeros(prior: Any, ours: Pipeline) -> None:
    stage = ours.decoder
    assert isinstance(stage, KandinskyDecoder)
    torch.testing.assert_close(stage.null_embed, prior.get_zero_embed()[0].float())


# --- whole pipelines ---


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_pictures_are_theirs(
    prior: Any, decoder: Any, ours: Pipeline, negative: str, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = ["prior", "negative"] if negative else ["prior"]
    draw = their_noise(scheduling_unclip, [SeededNoise(SEEDS, one) for one in streams], monkeypatch)
    embeds = prior(
        PROMPTS,
        negative_prompt=[negative] * 2 if negative else None,
        latents=draw((2 * len(streams), WIDTH)),
        num_inference_steps=STEPS["prior"],
    )
    draw = their_noise(scheduling_ddpm, [SeededNoise(SEEDS, "decoder")], monkeypatch)
    expected = decoder(
        image_embeds=embeds.image_embeds,
        negative_image_embeds=embeds.negative_image_embeds,
        latents=draw((2, 4, SIDE // CELL, SIDE // CELL)),
        num_inference_steps=STEPS["decoder"],
        guidance_scale=guidance,
        height=SIDE,
        width=SIDE,
    ).images
    made = ours.generate(PROMPTS, seeds=SEEDS, options=options(guidance), negative=negative, watermark=False)
    torch.testing.assert_close(made.image_embeds, embeds.image_embeds)
    assert_same(made.images, expected)


@pytest.mark.parametrize(
    "changes",
    [{"thresholding": True, "sample_max_value": 2.0}, {"clip_sample": True, "timestep_spacing": "linspace"}],
    ids=["thresholding", "clip_sample"],
)
def test_the_schedulers_config_is_followed(
    folder: Path, decoder: Any, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.DDPMScheduler.from_config(decoder.scheduler.config, **changes)
    scheduler.save_pretrained(tmp_path / "scheduler")
    for part in ("unet", "movq"):
        (tmp_path / part).symlink_to(folder / DECODER / part)
    exact(scheduler, decoder.scheduler.betas)
    theirs = diffusers.KandinskyV22Pipeline(unet=decoder.unet, scheduler=scheduler, movq=decoder.movq)
    theirs.set_progress_bar_config(disable=True)
    stage = read_decoder(tmp_path, None, parity=True).double()
    z, null = torch.randn(2, 1, WIDTH, dtype=torch.float64)
    draw = their_noise(scheduling_ddpm, [SeededNoise(SEEDS[:1], "decoder")], monkeypatch)
    expected = theirs(
        image_embeds=z,
        negative_image_embeds=null,
        latents=draw((1, 4, 16, 24)),
        num_inference_steps=STEPS["decoder"],
        height=64,
        width=96,
    ).images
    used = stage.config.sampling.updated({"steps": STEPS["decoder"], "guidance": 4.0})
    text, noise = Text.plain([""]), SeededNoise(SEEDS[:1], "decoder")
    with torch.inference_mode():
        *_, step = stage.sample(z, text, text, used, noise, size=(96, 64), null_embed=null)
        assert_same([to_image(stage.render(step.x)[0])], expected)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_theirs(spacing: str) -> None:
    """Theirs add noise after the last step where it does not start from t = 0; ours end without noise."""
    theirs = diffusers.DDPMScheduler(timestep_spacing=spacing, steps_offset=1)
    ours = replace(Schedule.named("linear"), spacing=spacing, offset=1)
    for steps in (2, 7, 25, 100):
        theirs.set_timesteps(steps)
        assert ours.grid(steps) == theirs.timesteps.tolist()


def test_betas_are_theirs() -> None:
    for name, ends in (("linear", (0.00085, 0.012)), ("scaled_linear", (0.00085, 0.012)), ("linear", None)):
        first, last = ends or (1e-4, 0.02)
        theirs = diffusers.DDPMScheduler(beta_schedule=name, beta_start=first, beta_end=last)
        ours = Schedule.named(name, 1000, ends)
        torch.testing.assert_close(ours.alpha.square().float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)


class Scripted:
    """The noise of an edit with theirs: all known parts are noised with the walk's first noise."""

    def __init__(self, seeds: list[int]) -> None:
        self.source, self.drawn = SeededNoise(seeds, "decoder"), 0
        self.first: Tensor | None = None

    def __call__(self, like: Tensor) -> Tensor:
        """Ours draws the first noise, then by turns that of a step and that of the known part."""
        self.drawn += 1
        if self.first is None:
            self.first = self.source(like)
        elif self.drawn % 2 == 0:
            return self.source(like)
        return self.first


def picture() -> Image.Image:
    rows = torch.linspace(0, 255, SIDE).byte().numpy()
    return Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], np.uint8(90)), -1))


def last_picture(ours: Pipeline, z: Tensor, trajectory: Trajectory) -> Image.Image:
    """The decoder's picture before the pipeline puts the kept pixels back."""
    stage, text = ours.decoder, Text.plain([""])
    used = stage.config.sampling.updated({"steps": STEPS["decoder"]})
    with torch.inference_mode():
        *_, step = stage.sample(z, text, text, used, Scripted(SEEDS[:1]), trajectory)  # type: ignore[arg-type]
        return to_image(stage.render(step.x)[0])


def to_image(made: Tensor) -> Image.Image:
    return Image.fromarray(((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def test_inpainting_is_theirs(folder: Path, ours_inpaint: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load(diffusers.KandinskyV22InpaintPipeline, folder / INPAINT)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle(
        (16, 24, 39, 47), fill=255
    )  # whole latents: theirs reads one pixel of each
    stage = ours_inpaint.decoder
    z, null = torch.randn(1, WIDTH), stage.state_dict()["null_embed"][None]
    draw = their_noise(scheduling_ddpm, [SeededNoise(SEEDS[:1], "decoder")], monkeypatch)
    expected = theirs(
        image_embeds=z.double(),
        negative_image_embeds=null.double(),
        image=picture(),
        mask_image=mask,
        latents=draw((1, 4, SIDE // CELL, SIDE // CELL)),
        num_inference_steps=STEPS["decoder"],
        height=SIDE,
        width=SIDE,
    ).images
    keep = torch.from_numpy(np.asarray(mask) == 0)
    with torch.inference_mode():
        known = stage.encode_known(Known(to_tensor(picture())[None], keep))
    assert_same([last_picture(ours_inpaint, z, Trajectory(known=known))], expected)


def test_a_strength_is_their_image_to_image(
    folder: Path, ours: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDEdit at our timesteps: ours walk evenly from strength · (T − 1), theirs take the grid's last ones."""
    theirs = load(diffusers.KandinskyV22Img2ImgPipeline, folder / DECODER)
    stage = ours.decoder
    trajectory = Trajectory(strength=0.5)
    times = list(trajectory._times(stage.diffusion.schedule, STEPS["decoder"]))
    set_timesteps = theirs.scheduler.set_timesteps
    monkeypatch.setattr(theirs.scheduler, "set_timesteps", lambda *_, **__: set_timesteps(timesteps=times))
    monkeypatch.setattr(theirs, "get_timesteps", lambda *_: (theirs.scheduler.timesteps, len(times)))
    z, null = torch.randn(1, WIDTH), stage.state_dict()["null_embed"][None]
    draw = their_noise(scheduling_ddpm, [SeededNoise(SEEDS[:1], "decoder")], monkeypatch)
    monkeypatch.setattr("diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_img2img.randn_tensor", draw)
    expected = theirs(
        image_embeds=z.double(),
        negative_image_embeds=null.double(),
        image=picture(),
        num_inference_steps=STEPS["decoder"],
        height=SIDE,
        width=SIDE,
    ).images
    nothing = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    with torch.inference_mode():
        known = stage.encode_known(Known(to_tensor(picture())[None], nothing))
    assert_same([last_picture(ours, z, Trajectory(known=known, strength=0.5))], expected)


def test_an_edit_of_the_inpainting_decoder_keeps_pixels(ours_inpaint: Pipeline) -> None:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((13, 21, 40, 50), fill=255)
    made = ours_inpaint.edit(picture(), "a hat", mask, seed=1, options=options())
    kept = np.asarray(mask) == 0
    before, after = np.asarray(picture()), np.asarray(made.images[0])
    assert np.array_equal(before[kept], after[kept])
    assert np.abs(before[~kept].astype(int) - after[~kept]).mean() > 20
    assert made.settings[0]["repeats"] == 1
