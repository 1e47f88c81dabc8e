"""Karlo at its full size beside diffusers: each network in float32 with the same random weights, one at a
time.

    python tools/benchmarks/parity_karlo.py                       # all of them; about 6 GiB of memory
    python tools/benchmarks/parity_karlo.py prior decoder
    python tools/benchmarks/parity_karlo.py upsampler --side 64   # it is convolution-only; 256 px, its own,
    take minutes a run python tools/benchmarks/parity_karlo.py --picture DIR         # the whole chain in 2 +
    2 + 2 steps, of `karlo.py make DIR` python tools/benchmarks/parity_karlo.py --picture DIR --dtype float32
    python tools/benchmarks/parity_karlo.py --variation DIR       # a picture's embedding and 2 steps of the
    decoder; the rest is the same

The weights are diffusers' own, by reference: our stage is the same numbers under other names, so nothing is
held twice. The picture has the same noise on both sides and one network of each in memory at a time (13 GiB,
half of it in float32); diffusers' schedulers get tables in float64, as ours are.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.samplers import Step
from unclip.models.convert import diffusers_keys
from unclip.models.convert.weights import filled
from unclip.stages import stage_class
from unclip.stages.base import Stage
from unclip.stages.upsampler import UpsamplerConfig
from unclip.train.config import read_run

declare_missing_schemas()

import diffusers  # noqa: E402  (needs the schemas)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs" / "karlo"
# Of the published files.
PARAMETERS = {
    "prior": 1_022_030_080,
    "decoder": 885_439_686,
    "text_proj": 7_878_400,
    "upsampler": 691_579_523,
}
TOLERANCE = 1e-5
CHANNELS = (320, 640, 960, 1280)
TIMES = (999, 0)


def build_prior() -> nn.Module:
    """Karlo's PriorTransformer: diffusers' defaults are its numbers."""
    module: nn.Module = diffusers.PriorTransformer()
    return module


def build_decoder() -> nn.Module:
    """Karlo's 64 px network."""
    module: nn.Module = diffusers.UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=6,
        layers_per_block=3,
        block_out_channels=CHANNELS,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        cross_attention_dim=1536,
        class_embed_type="identity",
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
    )
    return module


def build_projection() -> nn.Module:
    """What conditions the decoder."""
    module: nn.Module = UnCLIPTextProjModel(
        clip_embeddings_dim=768, time_embed_dim=1280, cross_attention_dim=1536
    )
    return module


def build_upsampler() -> nn.Module:
    """One of the two networks of one shape."""
    module: nn.Module = diffusers.UNet2DModel(
        sample_size=256,
        in_channels=6,
        out_channels=3,
        layers_per_block=3,
        block_out_channels=CHANNELS,
        down_block_types=["ResnetDownsampleBlock2D"] * 4,
        up_block_types=["ResnetUpsampleBlock2D"] * 4,
        add_attention=False,
    )
    return module


def stage_of(role: str, name: Callable[[str], str], parts: dict[str, nn.Module]) -> Any:
    """Our stage of configs/karlo on the parts' tensors."""
    config: Any = read_run(CONFIGS / f"{role}.yaml").stage
    if isinstance(config, UpsamplerConfig):
        config = config.model_copy(update={"expert": True})
    with torch.device("meta"):
        stage: Stage = stage_class(config.kind)(config)
    weights = {
        f"{part}.{key}": tensor
        for part, module in parts.items()
        for key, tensor in module.state_dict().items()
    }
    return filled(stage, name, weights, CONFIGS).eval()


def randomised(module: nn.Module) -> nn.Module:
    """Nothing left at zero or one, where a misplaced tensor would not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return module.eval()


def draw(*shape: int) -> Tensor:
    """The same numbers each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def compare_prior() -> list[tuple[Tensor, Tensor]]:
    """Ours and theirs at each of TIMES."""
    theirs = randomised(build_prior())
    ours = stage_of("prior", diffusers_keys.prior, {"prior": theirs}).network
    x, z_t, tokens, mask = (
        draw(2, 768),
        draw(2, 768) + 1,
        draw(2, 77, 768),
        torch.arange(77) < torch.tensor([[77], [9]]),
    )
    return [
        (
            ours(x, torch.full((2,), t), text_embed=z_t, tokens=tokens, mask=mask),
            theirs(x, t, z_t, tokens, mask).predicted_image_embedding,
        )
        for t in TIMES
    ]


def compare_decoder() -> list[tuple[Tensor, Tensor]]:
    """Ours and theirs at each of TIMES."""
    theirs, projection = randomised(build_decoder()), randomised(build_projection())
    ours = stage_of("decoder", diffusers_keys.decoder, {"decoder": theirs, "text_proj": projection}).network
    x, z_i, z_t, tokens = draw(1, 3, 64, 64), draw(1, 768), draw(1, 768) + 1, draw(1, 77, 768)
    mask = torch.arange(77)[None] < 9
    context, embed = projection(
        image_embeddings=z_i,
        prompt_embeds=z_t,
        text_encoder_hidden_states=tokens,
        do_classifier_free_guidance=False,
    )
    seen = nn.functional.pad(mask, (4, 0), value=True)
    cond = {"image_embed": z_i, "text_embed": z_t, "ids": mask.long(), "tokens": tokens, "mask": mask}
    return [
        (
            ours(x, torch.full((1,), t), **cond),
            theirs(x, t, context, class_labels=embed, attention_mask=seen).sample,
        )
        for t in TIMES
    ]


def compare_upsampler(side: int) -> list[tuple[Tensor, Tensor]]:
    """Ours and theirs at each of TIMES; both of Karlo's networks are given one's weights, to hold one
    only.
    """
    theirs = randomised(build_upsampler())
    ours = stage_of(
        "upsampler-256", diffusers_keys.upsampler, {"super_res_first": theirs, "super_res_last": theirs}
    ).network
    x, low = draw(1, 3, side, side), draw(1, 3, side, side) / 2
    return [
        (ours(x, torch.full((1,), t), low=low), theirs(torch.cat([x, low], dim=1), t).sample) for t in TIMES
    ]


SHAPES = {"prior": (1, 768), "decoder": (1, 3, 64, 64), "upsampler-256": (1, 3, 256, 256)}


def same_noise() -> dict[str, Tensor]:
    """What our walk from seed 0 starts with, by role; diffusers' schedulers are then given the rest of it."""
    from diffusers.schedulers import scheduling_unclip

    from unclip.diffusion.noise import SeededNoise

    noise = {shape: SeededNoise([0], role) for role, shape in SHAPES.items()}
    latents = {role: noise[shape](torch.empty(shape)) for role, shape in SHAPES.items()}
    scheduling_unclip.randn_tensor = lambda shape, **_: noise[tuple(shape)](torch.empty(shape))
    return latents


def exact(*schedulers: Any) -> None:
    """Gives diffusers' schedulers tables in float64."""
    from unclip.diffusion.schedule import cosine_betas

    for scheduler in schedulers:
        scheduler.betas = cosine_betas(1000)
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
        scheduler.one = torch.tensor(1.0, dtype=torch.float64)


class Enough(Exception):
    """What is to be compared has been seen."""


class OnCpu(diffusers.UnCLIPPipeline):
    """diffusers asks its first network where to run, which may be nowhere yet."""

    _execution_device = torch.device("cpu")


class OnCpuFromPictures(diffusers.UnCLIPImageVariationPipeline):
    """The same of their other pipeline."""

    _execution_device = torch.device("cpu")


LARGE = {
    "prior": "PriorTransformer",
    "decoder": "UNet2DConditionModel",
    "super_res_first": "UNet2DModel",
    "super_res_last": "UNet2DModel",
}


def taking_turns(folder: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """diffusers' large networks, of which the one that runs is mapped from disk and no other is in memory."""
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
        with accelerate.init_empty_weights():  # which leaves buffers that no file has
            networks[name] = cls.from_config(cls.load_config(folder / name)).eval()
        networks[name].register_forward_pre_hook(lambda *_, name=name: fill(name))
        networks[name].register_forward_hook(lambda *_, name=name: tell(f"theirs: {name}"))
    return networks


def tell(what: str) -> None:
    """What is done, so that a run that was cut off shows how far it came."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def compare_picture(folder: Path, dtype: torch.dtype) -> None:
    """Prints the largest difference at the end of each stage; fails where the pictures differ by more than 1
    of 255.

    Theirs is kept in the folder: what was cut off after it goes on with ours.
    """
    from unclip import Pipeline

    latents = same_noise()
    kept = folder / f"theirs-picture-{str(dtype).removeprefix('torch.')}.safetensors"
    if not kept.is_file():
        save_file(their_picture(folder / "theirs", latents, dtype), kept)
        gc.collect()  # the last of their networks, which refers to itself
    seen = load_file(kept)
    ours = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", offload=True, dtype=dtype)

    def look(role: str, number: int, steps: int, step: Step) -> None:
        tell(f"ours: {role}")
        if number == steps:
            report({role: step.x}, seen)

    ours.generate("a shiba inu", seed=0, options={role: {"steps": 2} for role in SHAPES}, on_step=look)


def their_picture(folder: Path, latents: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """What each stage of theirs ends with, by our names of the stages; the low picture as the upsampler reads
    it.
    """
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
    """The same up to the decoder's end, from a picture. The image encoder has random weights that are nowhere
    on disk.
    """
    import transformers
    from PIL import Image

    from unclip import Pipeline
    from unclip.clip.converted import ConvertedClip

    latents = same_noise()
    torch.manual_seed(0)
    vision = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            projection_dim=768,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        )
    ).eval()
    parts = OnCpu.from_pretrained(
        folder / "theirs", **taking_turns(folder / "theirs", torch.float32)
    ).components
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
    picture = Image.linear_gradient("L").resize((224, 224)).convert("RGB")
    with suppress(Enough):
        theirs(
            picture,
            decoder_latents=latents["decoder"],
            super_res_latents=latents["upsampler-256"],
            decoder_num_inference_steps=2,
            super_res_num_inference_steps=2,
        )
    del theirs, parts
    ours = Pipeline.from_pretrained(str(folder / "ours"), device="cpu", offload=True, dtype=torch.float32)
    assert isinstance(ours.clip, ConvertedClip)
    ours.clip.vision = vision
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


def report(ends: dict[str, Tensor], seen: dict[str, Tensor]) -> None:
    """Our stages' ends beside theirs; pictures may differ by 1 of 255."""
    for role, end in ends.items():
        if role == "decoder":  # theirs is seen as the upsampler reads it
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


def count(build: Callable[[], nn.Module]) -> int:
    """Of a module that is never filled."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in build().parameters())


def main() -> None:
    """Prints one line of a table per network; fails where one is beyond TOLERANCE or has another count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["prior", "decoder", "upsampler"])
    parser.add_argument("--side", type=int, default=256, help="pixels of the upsampler's pictures")
    parser.add_argument("--picture", type=Path, help="compare whole chains, on what karlo.py made there")
    parser.add_argument(
        "--variation", type=Path, help="compare the way from a picture to the decoder's end, on the same"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="of --picture")
    options = parser.parse_args()
    if options.picture:
        return compare_picture(options.picture, getattr(torch, options.dtype))
    if options.variation:
        return compare_variation(options.variation)
    compare: dict[str, Callable[[], list[tuple[Tensor, Tensor]]]] = {
        "prior": compare_prior,
        "decoder": compare_decoder,
        "upsampler": lambda: compare_upsampler(options.side),
    }
    builders = {
        "prior": build_prior,
        "decoder": build_decoder,
        "text_proj": build_projection,
        "upsampler": build_upsampler,
    }
    for name, build in builders.items():
        assert count(build) == PARAMETERS[name], (
            f"{name}: {count(build):,} parameters, not {PARAMETERS[name]:,}"
        )
    for name in options.networks:
        started = time.perf_counter()
        with torch.no_grad():
            errors = [float((a - b).abs().max() / b.abs().max()) for a, b in compare[name]()]
        seconds = time.perf_counter() - started
        print(f"| {name} | {PARAMETERS[name]:,} | {max(errors):.1e} | {seconds:.0f} s |", flush=True)
        assert max(errors) <= TOLERANCE, f"{name}: beyond {TOLERANCE}"


if __name__ == "__main__":
    main()
