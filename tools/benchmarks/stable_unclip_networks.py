"""diffusers' networks of Stable unCLIP 2.1 at full size, as their published configs build them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unclip.clip.torchvision_schemas import declare_missing_schemas

declare_missing_schemas()

import diffusers  # noqa: E402  (needs the schemas)
import transformers  # noqa: E402

# Parameters of the published files. "-small" has the smaller image encoder and a narrower class projection.
PARAMETERS = {
    "unet": 870_173_124,
    "unet-small": 869_517_764,
    "vae": 83_653_863,
    "text_encoder": 340_387_840,
    "image_encoder": 632_076_800,
    "image_encoder-small": 303_966_208,
}
EMBED = {"": 1024, "-small": 768}  # width of z_i
SAMPLE = 96  # side in latent positions: 768 px


def build_unet(model: str = "") -> Any:
    """Stable Diffusion 2.1's U-Net with a projection of z_i and of its noise level's embedding."""
    return diffusers.UNet2DConditionModel(
        sample_size=SAMPLE,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
        upcast_attention=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * EMBED[model],
    )


def build_autoencoder() -> Any:
    """Stable Diffusion's KL autoencoder."""
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
    )


def build_text_encoder() -> Any:
    """OpenCLIP ViT-H/14's text encoder up to its penultimate layer, and the final norm."""
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
        )
    )


def build_image_encoder(model: str = "") -> Any:
    """OpenCLIP ViT-H/14's image encoder; of "-small", OpenAI's ViT-L/14."""
    width, depth = (1024, 24) if model else (1280, 32)
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=EMBED[model],
            num_hidden_layers=depth,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
            hidden_act="quick_gelu" if model else "gelu",
        )
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "unet": build_unet,
    "unet-small": lambda: build_unet("-small"),
    "vae": build_autoencoder,
    "text_encoder": build_text_encoder,
    "image_encoder": build_image_encoder,
    "image_encoder-small": lambda: build_image_encoder("-small"),
}


def count(build: Callable[[], nn.Module]) -> int:
    """Number of parameters, counted on the meta device."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in build().parameters())
