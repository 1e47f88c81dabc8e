"""Read the CLIP of a pipeline of diffusers: text encoder, tokenizer and optional image encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from unclip import files
from unclip.errors import CheckpointError
from unclip.models.convert import diffusers_keys
from unclip.models.convert.diffusers_configs import CLIPTextModelWithProjection, read_config
from unclip.models.convert.weights import filled, read_component
from unclip.stages.base import Stage


def check_clip(stage: Stage, source: Path) -> None:
    """Check that a stage has the widths of the CLIP in a pipeline's folder.

    Raises:
        CheckpointError: it was trained with another CLIP.
    """
    path = source / "text_encoder" / "config.json"
    theirs = read_config(CLIPTextModelWithProjection, path)
    for key, found in (("embed", theirs.projection_dim), ("token_width", theirs.hidden_size)):
        wanted = getattr(stage.config, key, found)
        if wanted != found:
            raise CheckpointError(
                f"{path}: is not the CLIP that the {stage.role} was trained with; its {key} is {found}, "
                f"the {stage.role} reads {wanted}"
            )


def copy_clip(source: Path, out: Path, *, pictures: bool) -> str:
    """Convert a pipeline's CLIP into a new folder and return its identity.

    The identity is the text encoder's: both of Karlo's repositories have it, only one has the image encoder.

    Args:
        pictures: also copy the image encoder.
    """
    from unclip.clip.converted import TextTower, TextTowerConfig  # heavy; not needed for a single stage
    from unclip.clip.hf import save_tokenizer
    from unclip.clip.identity import weights_identity

    text, pixels = source / "text_encoder", source / "image_encoder"
    theirs = read_config(CLIPTextModelWithProjection, text / "config.json")
    weights = read_component(text)
    identity = weights_identity("clip", weights)
    weights.pop("text_model.embeddings.position_ids", None)  # a constant that older transformers saved
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
    save_tokenizer(source / "tokenizer", out / "tokenizer.json")
    if pictures:
        (out / "image_encoder").mkdir()
        files.write_json(out / "image_encoder" / "config.json", files.read_json(pixels / "config.json"))
        for part in ("feature_extractor", "image_processor"):  # Karlo's name, Kandinsky's
            if (preprocess := source / part / "preprocessor_config.json").is_file():
                shutil.copyfile(preprocess, out / "image_encoder" / preprocess.name)
        images = {name: tensor.contiguous() for name, tensor in read_component(pixels).items()}
        files.write_weights(images, out / "image_encoder" / "model.safetensors")
    files.write_json(out / "config.json", {"kind": "clip", "identity": identity})
    return identity
