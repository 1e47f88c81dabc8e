"""Parity of whole chains of Karlo with diffusers, for `parity_karlo.py --picture` and `--variation`.

Both sides have the same noise and one network in memory at a time (13 GiB, half of it in float32). diffusers'
schedulers get float64 tables, as ours are.
"""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unclip import Pipeline
from unclip.clip.converted import ConvertedClip
from unclip.clip.image_tower import ImageTower
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.schedule import cosine_betas

declare_missing_schemas()

import diffusers  # noqa: E402  (needs the schemas)

SHAPES = {"prior": (1, 768), "decoder": (1, 3, 64, 64), "upsampler-256": (1, 3, 256, 256)}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
LARGE = {
    "prior": "PriorTransformer",
    "decoder": "UNet2DConditionModel",
    "super_res_first": "UNet2DModel",
    "super_res_last": "UNet2DModel",
}


def same_noise() -> dict[str, Tensor]:
    """Our initial noise of seed 0 by role. Patches diffusers' schedulers to continue the same noise."""
    from diffusers.schedulers import scheduling_unclip

    noise = {shape: SeededNoise([0], role) for role, shape in SHAPES.items()}
    latents = {role: noise[shape](torch.empty(shape)) for role, shape in SHAPES.items()}
    scheduling_unclip.randn_tensor = lambda shape, **_: noise[tuple(shape)](torch.empty(shape))
    return latents


def exact(*schedulers: Any) -> None:
    """Give diffusers' schedulers float64 tables."""
    for scheduler in schedulers:
        scheduler.betas = cosine_betas(1000)
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
        scheduler.one = torch.tensor(1.0, dtype=torch.float64)


class Enough(Exception):
    """Raised when the tensors to compare have been recorded."""


class OnCpu(diffusers.UnCLIPPipeline):
    """A pipeline on the CPU. diffusers would ask its first network, which may be on the meta device."""

    _execution_device = torch.device("cpu")


class OnCpuFromPictures(diffusers.UnCLIPImageVariationPipeline):
    """The same for image variations."""

    _execution_device = torch.device("cpu")


def taking_turns(folder: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """diffusers' large networks. Only the one that runs is in memory, mapped from disk."""
    networks: dict[str, nn.Module] = {}

    def fill(name: str) -> None:
        for other, network in networks.items():
            if other != name:
                empty = {key: tensor.to("meta") for key, tensor in network.state_dict().items()}
                network.load_state_dict(empty, assign=True)
        stored = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        weights = {key: tensor.to(dtype) for key, tensor in stored.items()}
        networks[name].load_state_dict(weights, assign=True, strict=True)

    for name, kind in LARGE.items():
        cls = getattr(diffusers, kind)
        with accelerate.init_empty_weights():  # keeps buffers, which are in no file
            networks[name] = cls.from_config(cls.load_config(folder / name)).eval()
        networks[name].register_forward_pre_hook(lambda *_, name=name: fill(name))
        networks[name].register_forward_hook(lambda *_, name=name: tell(f"theirs: {name}"))
    return networks


def tell(what: str) -> None:
    """Print progress with the time, for runs that may be cut off."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def compare_picture(folder: Path, dtype: torch.dtype) -> None:
    """Print the largest difference of each stage. Fails if the images differ by more than 1 of 255.

    Their results are saved in the folder, so that an interrupted run continues with ours.
    """
    latents = same_noise()
    kept = folder / f"theirs-picture-{str(dtype).removeprefix('torch.')}.safetensors"
    if not kept.is_file():
        save_file(their_picture(folder / "theirs", latents, dtype), kept)
        gc.collect()  # the last network has a reference cycle
    seen = load_file(kept)
    ours = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", offload=True, dtype=dtype)

    def look(role: str, number: int, steps: int, step: Step) -> None:
        tell(f"ours: {role}")
        if number == steps:
            report({role: step.x}, seen)

    ours.generate("a shiba inu", seed=0, options={role: {"steps": 2} for role in SHAPES}, on_step=look)


def their_picture(folder: Path, latents: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The result of each of their stages by our role names; the 64 px image as the upsampler reads it."""
    theirs = OnCpu.from_pretrained(folder, torch_dtype=dtype, **taking_turns(folder, dtype))
    exact(theirs.prior_scheduler, theirs.decoder_scheduler, theirs.super_res_scheduler)
    seen: dict[str, Tensor] = {}

    def embed(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        seen["prior"] = given["image_embeddings"]

    def low(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        seen.setdefault("decoder", given["sample"][:, 3:].contiguous())

    theirs.text_proj.register_forward_pre_hook(embed, with_kwargs=True)
    theirs.super_res_first.register_forward_pre_hook(low, with_kwargs=True)
    picture = theirs(
        "a shiba inu",
        prior_latents=latents["prior"].to(dtype),
        decoder_latents=latents["decoder"].to(dtype),
        super_res_latents=latents["upsampler-256"].to(dtype),
        prior_num_inference_steps=2,
        decoder_num_inference_steps=2,
        super_res_num_inference_steps=2,
        output_type="np",
    ).images
    seen["upsampler-256"] = torch.from_numpy(picture).permute(0, 3, 1, 2).contiguous() * 2 - 1
    return seen


def compare_variation(folder: Path) -> None:
    """Compare image variations up to the decoder's end.

    The image encoder has random weights.
    """
    latents = same_noise()
    torch.manual_seed(0)
    vision = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION)).eval()
    picture = Image.linear_gradient("L").resize((224, 224)).convert("RGB")
    seen = their_variation(folder / "theirs", latents, vision, picture)
    ours = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", offload=True, dtype=torch.float32)
    assert isinstance(ours.clip, ConvertedClip)
    vision.save_pretrained(folder / "image_encoder")
    ours.clip.vision = ImageTower(folder / "image_encoder")
    ends: dict[str, Tensor] = {}
    made = ours.vary(
        picture,
        fresh_noise=True,
        seed=0,
        size=64,
        options={"decoder": {"steps": 2}},
        on_step=lambda role, _, __, step: ends.update({role: step.x}),
    )
    report({"prior": made.image_embeds, **ends}, seen)


def their_variation(
    folder: Path, latents: dict[str, Tensor], vision: nn.Module, picture: Image.Image
) -> dict[str, Tensor]:
    """z_i and the decoder's image, as diffusers' upsampler reads it."""
    parts = OnCpu.from_pretrained(folder, **taking_turns(folder, torch.float32)).components
    theirs = OnCpuFromPictures(
        **{name: part for name, part in parts.items() if not name.startswith("prior")},
        image_encoder=vision,
        feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 224}),
    )
    exact(theirs.decoder_scheduler, theirs.super_res_scheduler)
    seen: dict[str, Tensor] = {}

    def embed(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        seen["prior"] = given["image_embeddings"]

    def low(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        seen["decoder"] = given["sample"][:, 3:].float()
        raise Enough

    theirs.text_proj.register_forward_pre_hook(embed, with_kwargs=True)
    theirs.super_res_first.register_forward_pre_hook(low, with_kwargs=True)
    with suppress(Enough):
        theirs(
            picture,
            decoder_latents=latents["decoder"],
            super_res_latents=latents["upsampler-256"],
            decoder_num_inference_steps=2,
            super_res_num_inference_steps=2,
        )
    return seen


def report(ends: dict[str, Tensor], seen: dict[str, Tensor]) -> None:
    """Compare our stages' results with theirs. Images may differ by 1 of 255."""
    for role, end in ends.items():
        if role == "decoder":  # theirs is recorded at the upsampler's input
            end = nn.functional.interpolate(end.clamp(-1, 1), (256, 256), mode="bicubic", antialias=True)
        elif role == "upsampler-256":
            end = end.clamp(-1, 1)
        errors, largest = (end - seen[role]).abs(), float(seen[role].abs().max())
        usual, most = (
            float(errors.flatten().kthvalue(round(q * errors.numel())).values) for q in (0.9999, 1)
        )
        print(
            f"| {role} | {most:.1e} of values up to {largest:.2f}; {usual:.1e} but for one in 10,000; "
            f"{int((errors > 2 / 255).sum())} of {errors.numel():,} beyond 1 of 255 |",
            flush=True,
        )
        assert role == "prior" or most <= 2 / 255, f"the pictures differ by {255 * most / 2:.1f} of 255"
