"""A complete model of random weights, small enough to build in a second."""

from __future__ import annotations

from pathlib import Path

import torch

from unclip.clip.openclip import Architecture
from unclip.diffusion.diffusion import DiffusionConfig
from unclip.menagerie.captions import vocabulary
from unclip.models.assemble import assemble
from unclip.nn.unet import UNetConfig
from unclip.stages.base import Stage
from unclip.stages.clip import ClipConfig, ClipStage
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder import Decoder, DecoderConfig
from unclip.stages.prior import Prior, PriorConfig
from unclip.stages.upsampler import Upsampler, UpsamplerConfig

ARCHITECTURE = Architecture(
    embed=32,
    image_size=32,
    patch=8,
    vision_width=32,
    vision_depth=1,
    text_width=32,
    text_depth=1,
    head=16,
    merges=500,
    context=48,
)


def build(folder: Path, architecture: Architecture = ARCHITECTURE) -> Path:
    """Writes the model to `folder`, which must not exist yet."""
    torch.manual_seed(0)
    clip = ClipStage(ClipConfig(name="tiny", architecture=architecture))
    parts = folder.with_name(folder.name + "-parts")
    _save(clip, parts / "clip")
    identity = ClipStage.load(parts / "clip").config.clip
    v = DiffusionConfig(predict="v")
    stages: dict[str, Stage] = {
        "prior": Prior(
            PriorConfig(
                clip=identity,
                embed=32,
                token_width=32,
                context=48,
                width=32,
                depth=1,
                heads=2,
                sampling=SamplingConfig(steps=2, guidance=1.5, candidates=2),
            )
        ),
        "decoder": Decoder(
            DecoderConfig(
                clip=identity,
                size=64,
                embed=32,
                token_width=32,
                context_width=32,
                unet=UNetConfig(
                    channels=32,
                    multipliers=(1, 1, 1),
                    depth=1,
                    attention=(2,),
                    middle_attention=True,
                    head_channels=32,
                ),
                diffusion=DiffusionConfig(predict="v", variance="learned", objective="hybrid"),
                sampling=SamplingConfig(steps=2, guidance=2.0, sampler="dpmpp_2m"),
            )
        ),
        "upsampler-256": Upsampler(
            UpsamplerConfig(
                size=256,
                unet=UNetConfig(channels=32, multipliers=(1,), depth=1, patch=4),
                diffusion=v,
                sampling=SamplingConfig(steps=1, sampler="ddim"),
            )
        ),
        "upsampler-1024": Upsampler(
            UpsamplerConfig(
                size=1024,
                unet=UNetConfig(channels=32, multipliers=(1,), depth=1, patch=16),
                diffusion=v,
                degradation="bsr",
                sampling=SamplingConfig(steps=1, sampler="ddim"),
            )
        ),
    }
    for name, stage in stages.items():
        # The last layers start at zero; noise on every weight makes pictures that depend on all inputs.
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        _save(stage, parts / name)
    assemble(
        [parts / name for name in ("clip", *stages)], folder, name="tiny", vocabulary=sorted(vocabulary())
    )
    return folder


def _save(stage: Stage, folder: Path) -> None:
    folder.mkdir(parents=True)
    stage.save(folder)
