"""Read stages from diffusers' folders: unCLIP pipelines and their single components."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip import files
from unclip.errors import CheckpointError
from unclip.models.convert import diffusers_configs, diffusers_keys, latent
from unclip.models.convert.weights import filled, read_component
from unclip.stages.base import Stage
from unclip.stages.config import parse_checkpoint
from unclip.stages.decoder import Decoder
from unclip.stages.prior import Prior
from unclip.stages.upsampler import Upsampler

PIPELINES = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline")
# Components beside a network that its conversion may read.
COMPONENTS = (
    "decoder",
    "decoder_scheduler",
    "text_proj",
    "super_res_first",
    "super_res_last",
    "super_res_scheduler",
    "text_encoder",
    "tokenizer",
    "image_encoder",
    "feature_extractor",
)

# Clamp of the prior's x0 in Karlo's own code and in Kandinsky's; diffusers' config of Karlo has 5.
PRIOR_CLAMP = 10.0

# Karlo's sampling settings, which are the defaults of diffusers' unCLIP pipelines.
SAMPLING = {
    "prior": {"steps": 25, "guidance": 4.0},
    "decoder": {"steps": 25, "guidance": 8.0},
    "upsampler": {"steps": 7},
}


def read_prior(folder: Path, scheduler: Path | None = None, *, parity: bool = False) -> Prior:
    """Read a PriorTransformer.

    Args:
        scheduler: folder of its UnCLIPScheduler. Default: Karlo's and Kandinsky's diffusion process.
        parity: clamp x0 as the scheduler's config says; Karlo's own code clamps at ±10.
    """
    theirs = diffusers_configs.read_config(diffusers_configs.PriorTransformer, folder / "config.json")
    diffusion: dict[str, Any] = _diffusion(scheduler, parity=parity) if scheduler else {"predict": "x0"}
    if not (parity and scheduler):
        diffusion["clamp"] = PRIOR_CLAMP
    config = parse_checkpoint(
        Prior.Config,
        folder,
        {
            "embed": theirs.embedding_dim,
            "token_width": theirs.embedding_dim,
            "context": theirs.num_embeddings,
            "width": theirs.num_attention_heads * theirs.attention_head_dim,
            "depth": theirs.num_layers,
            "heads": theirs.num_attention_heads,
            "text_drop": 0.2,
            "diffusion": diffusion,
            "sampling": SAMPLING["prior"],
        },
    )
    with torch.device("meta"):
        stage = Prior(config)
    return filled(stage, diffusers_keys.prior, _prefixed("prior", folder), folder)


def read_stage(folder: Path, *, parity: bool = False) -> Stage:
    """Read the stage of one of a pipeline's networks, given the network's folder.

    A PriorTransformer is a whole prior; the other parts of decoder and upsampler are read from the folders
    beside it.

    Args:
        parity: see `read_prior`.
    """
    kind = files.read_json(folder / "config.json").get("_class_name")
    if kind == "UNet2DConditionModel":
        return read_decoder(folder.absolute().parent)
    if kind == "UNet2DModel":
        return read_upsampler(folder.absolute().parent)
    return read_prior(folder, parity=parity)


def is_prior(folder: Path) -> bool:
    """Whether the folder holds a PriorTransformer."""
    config = folder / "config.json"
    return config.is_file() and files.read_json(config).get("_class_name") == "PriorTransformer"


def read_decoder(source: Path) -> Decoder:
    """Read the decoder: a pipeline's UNet2DConditionModel and UnCLIPTextProjModel."""
    folder, projection, scheduler = source / "decoder", source / "text_proj", source / "decoder_scheduler"
    theirs = diffusers_configs.read_config(diffusers_configs.UNet2DConditionModel, folder / "config.json")
    condition = diffusers_configs.read_config(
        diffusers_configs.UnCLIPTextProjModel, projection / "config.json"
    )
    attention = [i for i, kind in enumerate(theirs.down_block_types) if kind.startswith("SimpleCrossAttn")]
    mirrored = [
        len(theirs.up_block_types) - 1 - i
        for i, kind in enumerate(theirs.up_block_types)
        if "CrossAttn" in kind
    ]
    if attention != sorted(mirrored):
        raise CheckpointError(f"{folder}/config.json: attends at other resolutions going up than going down")
    diffusion = _diffusion(scheduler)
    if (diffusion["variance"] == "learned") != (theirs.out_channels == 6):
        raise CheckpointError(
            f"{scheduler}: its variance_type does not fit the decoder's {theirs.out_channels} channels"
        )
    config = parse_checkpoint(
        Decoder.Config,
        folder,
        {
            "size": theirs.sample_size,
            "embed": condition.clip_embeddings_dim,
            "token_width": condition.clip_embeddings_dim,
            "context_width": condition.cross_attention_dim,
            "unet": {
                **_unet(theirs, folder),
                "attention": attention,
                "middle_attention": True,
                "head_channels": theirs.attention_head_dim,
            },
            "text_drop": 0.3,
            "diffusion": diffusion,
            "sampling": SAMPLING["decoder"],
        },
    )
    with torch.device("meta"):
        stage = Decoder(config)
    weights = {**_prefixed("decoder", folder), **_prefixed("text_proj", projection)}
    return filled(stage, diffusers_keys.decoder, weights, folder)


def read_upsampler(source: Path) -> Upsampler:
    """Read the upsampler: a pipeline's two UNet2DModels of one shape, the second for the last step."""
    first, last = source / "super_res_first", source / "super_res_last"
    low = diffusers_configs.read_config(
        diffusers_configs.UNet2DConditionModel, source / "decoder" / "config.json"
    ).sample_size
    theirs = diffusers_configs.read_config(diffusers_configs.UNet2DModel, first / "config.json")
    expert = diffusers_configs.read_config(diffusers_configs.UNet2DModel, last / "config.json")
    if expert.model_copy(update={"sample_size": theirs.sample_size}) != theirs:
        raise CheckpointError(f"{last}/config.json: another architecture than {first.name}'s")
    if theirs.sample_size is None or low is None or theirs.sample_size % low:
        raise CheckpointError(
            f"{first}/config.json: sample_size {theirs.sample_size} is no multiple of {low}"
        )
    config = parse_checkpoint(
        Upsampler.Config,
        first,
        {
            "size": theirs.sample_size,
            "factor": theirs.sample_size // low,
            "unet": _unet(theirs, first),
            "catmull_rom": True,
            "expert": True,
            "diffusion": _diffusion(source / "super_res_scheduler"),
            "sampling": SAMPLING["upsampler"],
        },
    )
    with torch.device("meta"):
        stage = Upsampler(config)
    weights = {**_prefixed(first.name, first), **_prefixed(last.name, last)}
    return filled(stage, diffusers_keys.upsampler, weights, source)


def copy_clip(source: Path, out: Path, *, pictures: bool, names: Mapping[str, str] | None = None) -> str:
    """Convert a pipeline's CLIP into a new folder and return its identity.

    The identity is the text encoder's: both of Karlo's repositories have it, only one has the image encoder.

    Args:
        pictures: also copy the image encoder.
        names: folders of the parts that have other names than in Karlo's pipelines.
    """
    from unclip.clip.converted import TextTower, TextTowerConfig  # heavy; not needed for a single stage
    from unclip.clip.hf import save_tokenizer
    from unclip.clip.identity import weights_identity

    part = {
        name: source / name for name in ("text_encoder", "image_encoder", "tokenizer", "feature_extractor")
    }
    part |= {name: source / folder for name, folder in (names or {}).items()}
    text, pixels = part["text_encoder"], part["image_encoder"]
    weights = read_component(text)
    identity = weights_identity("clip", weights)
    weights.pop("text_model.embeddings.position_ids", None)  # a constant that older transformers saved
    theirs = diffusers_configs.read_config(
        diffusers_configs.CLIPTextModelWithProjection, text / "config.json"
    )
    config = TextTowerConfig(
        width=theirs.hidden_size,
        depth=theirs.num_hidden_layers,
        heads=theirs.num_attention_heads,
        vocabulary=theirs.vocab_size,
        context=theirs.max_position_embeddings,
        embed=theirs.projection_dim,
        activation=theirs.hidden_act,
        mlp_width=theirs.intermediate_size,
    )
    with torch.device("meta"):
        tower = TextTower(config)
    (out / "text_encoder").mkdir(parents=True)
    files.write_json(out / "text_encoder" / "config.json", config.model_dump(mode="json"))
    files.save_weights(
        filled(tower, diffusers_keys.text_tower, weights, text), out / "text_encoder" / "model.safetensors"
    )
    save_tokenizer(part["tokenizer"], out / "tokenizer.json")
    if pictures:
        copy_image_encoder(pixels, part["feature_extractor"], out)
    files.write_json(out / "config.json", {"kind": "clip", "identity": identity})
    return identity


def copy_image_encoder(encoder: Path, extractor: Path, out: Path) -> None:
    """Copy an image encoder, with its preprocessing, into the folder of a CLIP."""
    (out / "image_encoder").mkdir()
    files.write_json(out / "image_encoder" / "config.json", files.read_json(encoder / "config.json"))
    if (preprocess := extractor / "preprocessor_config.json").is_file():
        shutil.copyfile(preprocess, out / "image_encoder" / preprocess.name)
    images = {name: tensor.contiguous() for name, tensor in read_component(encoder).items()}
    files.write_weights(images, out / "image_encoder" / "model.safetensors")


def _prefixed(part: str, folder: Path) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in read_component(folder).items()}


def _diffusion(folder: Path, *, parity: bool = False) -> dict[str, Any]:
    path = folder / "scheduler_config.json"
    if files.read_json(path).get("_class_name") == "DDPMScheduler":  # of Karlo's prior in Stable unCLIP
        return latent.read_diffusion(folder, learned=False, parity=parity)
    theirs = diffusers_configs.read_config(diffusers_configs.UnCLIPScheduler, path)
    learned = theirs.variance_type == "learned_range"
    return {
        "schedule": "cosine",
        "times": theirs.num_train_timesteps,
        "predict": {"sample": "x0", "epsilon": "eps"}[theirs.prediction_type],
        "variance": "learned" if learned else "fixed_small",
        "objective": "hybrid" if learned else "simple",
        "clamp": theirs.clip_sample_range if theirs.clip_sample else None,
    }


def _unet(theirs: diffusers_configs.UNet, folder: Path) -> dict[str, Any]:
    base, *_ = widths = theirs.block_out_channels
    if base < 1 or any(width % base for width in widths):
        raise CheckpointError(
            f"{folder}/config.json: block_out_channels {widths} are no multiples of the first"
        )
    return {
        "channels": base,
        "multipliers": [width // base for width in widths],
        "depth": theirs.layers_per_block,
        "scale_shift": theirs.resnet_time_scale_shift == "scale_shift",
        "dropout": theirs.dropout,
    }
