"""Read Stable unCLIP 2.1 from diffusers' folders: its decoder, and the CLIP beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from unclip import files
from unclip.clip.identity import weights_identity
from unclip.errors import CheckpointError
from unclip.models.convert import diffusers_keys, diffusers_stages, latent
from unclip.models.convert.diffusers_configs import CLIPTextModelWithProjection, Foreign, read_config
from unclip.models.convert.weights import filled, read_component
from unclip.stages.config import parse_checkpoint
from unclip.stages.decoder_stable import StableDecoder

PIPELINES = ("StableUnCLIPImg2ImgPipeline", "StableUnCLIPPipeline")
# Components beside a network that its conversion may read, besides those of Karlo.
COMPONENTS = (
    *("unet", "vae", "image_normalizer", "image_noising_scheduler", "scheduler"),
    *("prior", "prior_text_encoder", "prior_tokenizer"),
)
# Steps and guidance are the defaults of diffusers' pipelines.
SAMPLING = {"steps": 20, "guidance": 10.0, "sampler": "dpmpp_2m"}
SAMPLERS = {"DDIMScheduler": "ddim", "DDPMScheduler": "ddpm"}


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


def is_part(folder: Path) -> bool:
    """Whether the folder is the U-Net of a Stable unCLIP pipeline, which stands for the whole decoder."""
    return folder.name == "unet" and (folder.absolute().parent / "image_normalizer").is_dir()


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
        encoder = source / "prior_text_encoder"
        found = read_config(CLIPTextModelWithProjection, encoder / "config.json").projection_dim
    else:
        encoder = source / "image_encoder"
        found = read_config(CLIPVisionModelWithProjection, encoder / "config.json").projection_dim
    if found != width:
        raise CheckpointError(
            f"{encoder}: its embeddings have {found} numbers, but the decoder reads {width}: another CLIP"
        )
    if encoder.name == "prior_text_encoder":
        names = {name: f"prior_{name}" for name in ("text_encoder", "tokenizer")}
        return diffusers_stages.copy_clip(source, out, pictures=False, names=names)
    identity = weights_identity("clip", read_component(encoder))
    out.mkdir()
    diffusers_stages.copy_image_encoder(encoder, source / "feature_extractor", out)
    files.write_json(out / "config.json", {"kind": "clip", "identity": identity})
    return identity


def read_decoder(source: Path, *, parity: bool = False) -> StableDecoder:
    """Read the decoder of a pipeline's folder.

    Args:
        parity: take diffusers' spacing of timesteps, and its sampler where it is one of ours.

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
            "unet": latent.read_unet(source / "unet"),
            "autoencoder": latent.read_autoencoder(source / "vae"),
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
            "diffusion": latent.read_diffusion(source / "scheduler", learned=False, parity=parity),
            "sampling": {**SAMPLING, **({"sampler": _sampler(source / "scheduler")} if parity else {})},
        },
    )
    with torch.device("meta"):
        stage = StableDecoder(config)
    stage.captions.tokenizer = tokenizer
    weights = latent.read_networks(source / "unet", source / "vae")
    for part, prefix in (("image_normalizer", "embed_noise"), ("text_encoder", "captions")):
        for name, tensor in read_component(source / part).items():
            if not name.endswith("position_ids"):  # a constant that older transformers saved
                weights[f"{prefix}.{name.removeprefix('text_model.')}"] = tensor
    return filled(stage, _theirs, weights, source)


def _theirs(name: str) -> str:
    """The name in `weights` of our tensor `name`; that of the text encoder is transformers'."""
    part, _, rest = name.partition(".")
    return f"{part}.{diffusers_keys.text_model(rest)}" if part == "captions" else name


def _sampler(scheduler: Path) -> str:
    kind = files.read_json(scheduler / "scheduler_config.json").get("_class_name")
    return SAMPLERS.get(str(kind), str(SAMPLING["sampler"]))
