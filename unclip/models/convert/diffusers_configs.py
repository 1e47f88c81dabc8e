"""Supported diffusers configs: field types hold the supported values, and pydantic refuses all others.

Classes and fields are named as in diffusers and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field

from unclip.config import Config, parse
from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json


class Foreign(Config):
    """A config of another program; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PriorTransformer(Foreign):
    """The prior of Karlo and Kandinsky; ECLIPSE's has three additional embeddings. Defaults are Karlo's."""

    num_attention_heads: int = Field(32, ge=1)
    attention_head_dim: int = Field(64, ge=1)
    num_layers: int = Field(20, ge=1)
    embedding_dim: int = Field(768, ge=1)
    num_embeddings: int = Field(77, ge=1)
    additional_embeddings: Literal[3, 4] = 4
    time_embed_act_fn: Literal["silu"] = "silu"
    norm_in_type: None = None
    embedding_proj_norm_type: None = None
    encoder_hid_proj_type: Literal["linear"] = "linear"
    added_emb_type: Literal["prd"] = "prd"
    time_embed_dim: None = None
    embedding_proj_dim: None = None
    clip_embed_dim: None = None


class UNet(Foreign):
    """Fields common to the decoder's and the upsampler's U-Net."""

    sample_size: int | None = Field(None, ge=1)
    layers_per_block: int = Field(2, ge=1)
    block_out_channels: tuple[int, ...] = Field(min_length=1)
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    dropout: float = 0.0
    act_fn: Literal["silu"] = "silu"
    norm_num_groups: Literal[32] = 32
    norm_eps: float = Field(1e-5, ge=1e-5, le=1e-5)
    center_input_sample: Literal[False] = False
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Literal[0] = 0
    mid_block_scale_factor: Literal[1] = 1


class UNet2DModel(UNet):
    """One of the upsampler's two networks (all steps but the last; the last step)."""

    in_channels: Literal[6]
    out_channels: Literal[3]
    down_block_types: tuple[Literal["ResnetDownsampleBlock2D"], ...]
    up_block_types: tuple[Literal["ResnetUpsampleBlock2D"], ...]
    add_attention: Literal[False]
    time_embedding_type: Literal["positional"] = "positional"


class UNet2DConditionModel(UNet):
    """The decoder's network."""

    in_channels: Literal[3]
    out_channels: Literal[3, 6]
    down_block_types: tuple[Literal["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"], ...]
    up_block_types: tuple[Literal["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"], ...]
    mid_block_type: Literal["UNetMidBlock2DSimpleCrossAttn"]
    cross_attention_dim: int = Field(ge=1)
    attention_head_dim: int = Field(ge=1)
    class_embed_type: Literal["identity"]
    only_cross_attention: Literal[False] = False
    mid_block_only_cross_attention: None = None
    addition_embed_type: None = None
    encoder_hid_dim_type: None = None
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    resnet_skip_time_act: Literal[False] = False


class UnCLIPTextProjModel(Foreign):
    """The projections of z_i and the caption that condition the decoder."""

    clip_embeddings_dim: int = Field(768, ge=1)
    clip_extra_context_tokens: Literal[4] = 4
    cross_attention_dim: int = Field(ge=1)
    time_embed_dim: int = Field(ge=1)


class CLIPTextModelWithProjection(Foreign):
    """CLIP's text encoder. Defaults are those of transformers."""

    vocab_size: int = Field(49_408, ge=1)
    hidden_size: int = Field(512, ge=1)
    intermediate_size: int = Field(2048, ge=1)
    projection_dim: int = Field(512, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(8, ge=1)
    max_position_embeddings: int = Field(77, ge=3)
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = Field(1e-5, ge=1e-5, le=1e-5)


class UnCLIPScheduler(Foreign):
    """The diffusion process; its steps equal our `ddpm` on our schedule's timesteps."""

    num_train_timesteps: int = Field(1000, ge=2)
    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"


F = TypeVar("F", bound=Foreign)


def read_config(kind: type[F], path: Path) -> F:
    """Read a config file of class `kind`.

    Raises:
        CheckpointError: missing, another class, or an unsupported value.
    """
    tree = read_json(path)
    names = tree.get("architectures")  # transformers' key for the class
    found = names[0] if isinstance(names, list) and names else tree.get("_class_name")
    if found != kind.__name__:
        raise CheckpointError(f"{path}: is a {found or 'config without _class_name'}, not a {kind.__name__}")
    try:
        return parse(kind, tree, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
