"""diffusers' networks of Karlo at full size, with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unclip.clip.torchvision_schemas import declare_missing_schemas

declare_missing_schemas()

import diffusers  # noqa: E402  (needs the schemas)
import transformers  # noqa: E402
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel  # noqa: E402

# parameters of the published files
PARAMETERS = {
    "prior": 1_022_030_080,
    "decoder": 885_439_686,
    "text_proj": 7_878_400,
    "upsampler": 691_579_523,
}
CHANNELS = (320, 640, 960, 1280)


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
    """The projection of embeddings that conditions the decoder."""
    module: nn.Module = UnCLIPTextProjModel(
        clip_embeddings_dim=768, time_embed_dim=1280, cross_attention_dim=1536
    )
    return module


def build_upsampler() -> nn.Module:
    """One of the upsampler's two networks, which have the same shape."""
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


def build_text_encoder(end: int) -> nn.Module:
    """CLIP ViT-L/14's text encoder; `end` is the id of the end token."""
    module: nn.Module = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            projection_dim=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    return module


def randomised(module: nn.Module) -> nn.Module:
    """Perturb all parameters, so that none is zero or one, where a misplaced tensor would not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return module.eval()


def draw(*shape: int) -> Tensor:
    """Deterministic normal input."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def count(build: Callable[[], nn.Module]) -> int:
    """Number of parameters, counted on the meta device."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in build().parameters())
