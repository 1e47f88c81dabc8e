"""Parity of Karlo at full size with diffusers, in float32 with the same random weights.

    python tools/benchmarks/parity_karlo.py                       # each network; about 6 GiB of memory python
    tools/benchmarks/parity_karlo.py prior decoder python tools/benchmarks/parity_karlo.py upsampler --side 64
    # 256 px, its own size, takes minutes per run python tools/benchmarks/parity_karlo.py --picture DIR
    # the chain in 2 + 2 + 2 steps python tools/benchmarks/parity_karlo.py --picture DIR --dtype float32
    python tools/benchmarks/parity_karlo.py --variation DIR       # from an image to the decoder's end

DIR is made by `karlo.py make DIR`. Our stages share the tensors of diffusers' modules, so nothing is in
memory twice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from karlo_networks import (
    PARAMETERS,
    build_decoder,
    build_prior,
    build_projection,
    build_upsampler,
    count,
    draw,
    randomised,
)
from torch import Tensor, nn

from unclip.models.convert import diffusers_keys
from unclip.models.convert.weights import filled
from unclip.stages import stage_class
from unclip.stages.base import Stage
from unclip.stages.upsampler import UpsamplerConfig
from unclip.train.config import read_run

CONFIGS = Path(__file__).parents[2] / "configs" / "karlo"
TOLERANCE = 1e-5
TIMES = (999, 0)


def stage_of(role: str, name: Callable[[str], str], parts: dict[str, nn.Module]) -> Any:
    """Our stage of configs/karlo with the tensors of diffusers' modules."""
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


def compare_prior() -> list[tuple[Tensor, Tensor]]:
    """(ours, theirs) at each of TIMES."""
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
    """(ours, theirs) at each of TIMES."""
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
    """(ours, theirs) at each of TIMES.

    Karlo's two networks share the weights of one, to hold only one in memory.
    """
    theirs = randomised(build_upsampler())
    ours = stage_of(
        "upsampler-256", diffusers_keys.upsampler, {"super_res_first": theirs, "super_res_last": theirs}
    ).network
    x, low = draw(1, 3, side, side), draw(1, 3, side, side) / 2
    return [
        (ours(x, torch.full((1,), t), low=low), theirs(torch.cat([x, low], dim=1), t).sample) for t in TIMES
    ]


def main() -> None:
    """Print a row per network. Fails if an error is above TOLERANCE or a number of parameters differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["prior", "decoder", "upsampler"])
    parser.add_argument("--side", type=int, default=256, help="side of the upsampler's images in pixels")
    parser.add_argument("--picture", type=Path, help="folder of karlo.py: compare whole chains")
    parser.add_argument("--variation", type=Path, help="folder of karlo.py: compare variations of an image")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="of --picture")
    options = parser.parse_args()
    from parity_karlo_chain import compare_picture, compare_variation

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
