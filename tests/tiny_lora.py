"""Random LoRA adapters of the tiny model's stages, and pictures with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unclip.files import read_weights, write_json, write_weights
from unclip.nn.lora import lora_tensors
from unclip.pipeline import Pipeline
from unclip.stages import load_stage
from unclip.stages.config import LoraConfig
from unclip.stages.lora import add_adapter, base_identity, save_trained

PROMPT = "a corgi in space"


def make(folder: Path, base: Path, rank: int = 4, std: float = 0.1, seed: int = 0) -> Path:
    """Writes a random adapter of a saved stage, with alpha = 2 · rank."""
    stage = load_stage(base)
    lora = LoraConfig(rank=rank, alpha=2 * rank, base=base_identity(stage))
    stage.config = stage.config.model_copy(update={"lora": lora})
    add_adapter(stage)
    generator = torch.Generator().manual_seed(seed)
    for tensor in lora_tensors(stage.state_dict()).values():
        tensor.normal_(std=std, generator=generator)
    folder.mkdir(parents=True)
    save_trained(stage, folder)
    return folder


def load(model: Path, *lora: str | Path, **options: Any) -> Pipeline:
    return Pipeline.from_pretrained(str(model), device="cpu", lora=lora, **options)


def picture(pipe: Pipeline) -> bytes:
    return pipe.generate(PROMPT, seed=3, size=256).images[0].tobytes()


def as_peft(source: Path, folder: Path) -> Path:
    """peft's folder: names below the network, behind peft's own prefix."""
    folder.mkdir()
    tensors = read_weights(source / "model.safetensors")
    renamed = {f"base_model.model.{name.removeprefix('network.')}": t for name, t in tensors.items()}
    write_weights(renamed, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    return folder
