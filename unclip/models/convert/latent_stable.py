"""Read Stable unCLIP 2.1 from diffusers' folders: its decoder, and the CLIP beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from unclip import files
from unclip.clip.identity import weights_identity
from unclip.errors import CheckpointError
from unclip.models.convert import diffusers_keys, diffusers_stages
from unclip.models.convert.diffusers_configs import CLIPTextModelWithProjection, Foreign, read_config
from unclip.models.convert.latent_schedules import read_schedule
from unclip.models.convert.weights import filled, read_component
from unclip.stages.config import parse_checkpoint
from unclip.stages.decoder_stable import StableDecoder

VARIATIONS, FROM_CAPTIONS = PIPELINES = ("StableUnCLIPImg2ImgPipeline", "StableUnCLIPPipeline")
COMPONENTS = ("unet", "vae", "image_normalizer", "image_noising_scheduler", "scheduler")
SAMPLING = {"steps": 20, "guidance": 10.0}  # defaults of diffusers' pipelines


class UNet2DConditionModel(Foreign):
    """The fields of the U-Net that the stage depends on; diffusers reads the whole config."""

    sample_size: int = Field(ge=1)
    class_embed_type: Literal["projection"]
    projection_class_embeddings_input_dim: int = Field(ge=2)
    cross_attention_dim: int = Field(ge=1)


class AutoencoderKL(Foreign):
    """The fields of the autoencoder that the stage depends on; diffusers reads the whole config."""

    block_out_channels: tuple[int, ...] = Field(min_length=1)
    scaling_factor: float = Field(0.18215, gt=0)


class StableUnCLIPImageNormalizer(Foreign):
    """Mean and standard deviation of z_i."""

    embedding_dim: int = Field(768, ge=1)


class DDPMScheduler(Foreign):
    """The schedule of the noise on z_i."""

    num_train_timesteps: int = Field(1000, ge=2)
    beta_schedule: Literal["squaredcos_cap_v2"]
    trained_betas: None = None


class CLIPTextModel(CLIPTextModelWithProjection):
    """CLIP's text encoder without a projection."""


class CLIPVisionModelWithProjection(Foreign):
    """CLIP's image encoder."""

    projection_dim: int = Field(512, ge=1)


def copy_clip(source: Path, out: Path) -> str:
    """Convert the CLIP of a pipeline's folder into a new folder and return its identity.

    Before a prior it is the prior's text encoder; otherwise an image encoder without a text encoder.

    Raises:
        CheckpointError: an encoder of other embeddings than the decoder's.
    """
    width = read_config(
        StableUnCLIPImageNormalizer, source / "image_normalizer" / "config.json"
    ).embedding_dim
    if (source / "prior").is_dir():
        text = source / "prior_text_encoder"
        found = read_config(CLIPTextModelWithProjection, text / "config.json").projection_dim
    else:
        text = source / "image_encoder"
        found = read_config(CLIPVisionModelWithProjection, text / "config.json").projection_dim
    if found != width:
        raise CheckpointError(
            f"{text}: its embeddings have {found} numbers, but the decoder reads {width}: another CLIP"
        )
    if text.name == "prior_text_encoder":
        return diffusers_stages.copy_clip(source, out, pictures=False, prefix="prior_")
    identity = weights_identity("clip", read_component(text))
    out.mkdir()
    diffusers_stages.copy_image_encoder(source, out)
    files.write_json(out / "config.json", {"kind": "clip", "identity": identity})
    return identity


def read_decoder(source: Path) -> StableDecoder:
    """Read the decoder of a pipeline's folder.

    Raises:
        CheckpointError: an unsupported config, or parts that do not fit each other.
    """
    from unclip.clip.hf import read_tokenizer  # imports transformers

    unet = read_config(UNet2DConditionModel, source / "unet" / "config.json")
    vae = read_config(AutoencoderKL, source / "vae" / "config.json")
    norm = read_config(StableUnCLIPImageNormalizer, source / "image_normalizer" / "config.json")
    path = source / "image_noising_scheduler" / "scheduler_config.json"
    noising = read_config(DDPMScheduler, path)
    text = read_config(CLIPTextModel, source / "text_encoder" / "config.json")
    diffusion, sampler = read_schedule(source / "scheduler")
    for field, wanted, of in (
        ("projection_class_embeddings_input_dim", 2 * norm.embedding_dim, "image_normalizer"),
        ("cross_attention_dim", text.hidden_size, "text_encoder"),
    ):
        if (found := getattr(unet, field)) != wanted:
            raise CheckpointError(
                f"{source / 'unet'}: {field} is {found}, but the {of} beside it needs {wanted}"
            )
    tokenizer, padding = read_tokenizer(source / "tokenizer")
    config = parse_checkpoint(
        StableDecoder.Config,
        source,
        {
            "size": unet.sample_size * 2 ** (len(vae.block_out_channels) - 1),
            "embed": norm.embedding_dim,
            "unet": files.read_json(source / "unet" / "config.json"),
            "autoencoder": files.read_json(source / "vae" / "config.json"),
            "scale": vae.scaling_factor,
            "captions": {
                "width": text.hidden_size,
                "depth": text.num_hidden_layers,
                "heads": text.num_attention_heads,
                "vocabulary": text.vocab_size,
                "context": text.max_position_embeddings,
                "mlp_width": text.intermediate_size,
                "activation": text.hidden_act,
                "padding": padding,
            },
            "noise_times": noising.num_train_timesteps,
            "diffusion": diffusion,
            "sampling": {**SAMPLING, "sampler": sampler},
        },
    )
    with torch.device("meta"):
        stage = StableDecoder(config)
    stage.captions.tokenizer = tokenizer
    weights = {
        f"{part}.{name.removeprefix('text_model.')}": tensor
        for part in ("unet", "vae", "image_normalizer", "text_encoder")
        for name, tensor in read_component(source / part).items()
        if not name.endswith("position_ids")  # a constant that older transformers saved
    }
    return filled(stage, _theirs, weights, source)


def _theirs(name: str) -> str:
    """The name in diffusers' folders of our tensor `name`, with its component before it."""
    part, _, rest = name.partition(".")
    match part:
        case "network":
            return rest
        case "autoencoder":
            return f"vae.{rest}"
        case "embed_noise":
            return f"image_normalizer.{rest}"
    return "text_encoder." + diffusers_keys.text_tower(rest).removeprefix("text_model.")
