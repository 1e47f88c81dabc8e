"""Read Stable unCLIP 2.1 from diffusers' folders: its decoder, and the CLIP and the prior beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from unclip import files
from unclip.errors import CheckpointError
from unclip.models.convert import diffusers_keys
from unclip.models.convert.diffusers_configs import CLIPTextModelWithProjection, Foreign, read_config
from unclip.models.convert.weights import filled, read_component

PIPELINES = ("StableUnCLIPImg2ImgPipeline", "StableUnCLIPPipeline")
# Defaults of diffusers' pipelines.
SAMPLING = {"steps": 20, "guidance": 10.0}
CLASS_NAMES = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerDiscreteScheduler": "ddim",  # the same ODE step in other variables
}


class StableUNet(Foreign):
    """The part of the U-Net's config that the stage depends on."""

    class_embed_type: Literal["projection"]
    projection_class_embeddings_input_dim: int = Field(ge=2)
    in_channels: Literal[4] = 4
    out_channels: Literal[4] = 4


class StableUnCLIPImageNormalizer(Foreign):
    """Mean and deviation of z_i."""

    embedding_dim: int = Field(768, ge=1)


class CLIPTextModel(CLIPTextModelWithProjection):
    """CLIP's text encoder without its projection."""


def padding_id(folder: Path) -> int:
    """The id of the token that a CLIPTokenizer pads with."""
    from unclip.clip.hf import transformers

    try:
        return int(transformers.CLIPTokenizer.from_pretrained(folder).pad_token_id)
    except Exception as error:
        raise CheckpointError(f"{folder}: not a CLIP tokenizer ({error})") from None
