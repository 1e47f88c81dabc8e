"""Runs that train in a second: the smallest stage of each kind, and comparison of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.files import read_weights

UNET = {
    "channels": 32,
    "multipliers": [1, 1],
    "depth": 1,
    "attention": [1],
    "middle_attention": True,
    "head_channels": 32,
}
UPSAMPLER_UNET = {"channels": 32, "multipliers": [1], "depth": 1}
STAGES: dict[str, dict[str, Any]] = {
    "clip": {
        "kind": "clip",
        "name": "test",
        "architecture": {
            "embed": 32,
            "image_size": 32,
            "patch": 8,
            "vision_width": 32,
            "vision_depth": 1,
            "text_width": 32,
            "text_depth": 1,
            "head": 16,
            "merges": 500,
            "context": 48,
        },
    },
    "prior": {
        "kind": "prior",
        "embed": 32,
        "token_width": 64,
        "context": 48,
        "width": 32,
        "depth": 1,
        "heads": 2,
    },
    "decoder": {
        "kind": "decoder",
        "size": 32,
        "embed": 32,
        "token_width": 64,
        "context_width": 32,
        "unet": UNET,
        "diffusion": {"predict": "v", "variance": "learned", "objective": "hybrid"},
        "sampling": {"steps": 2, "sampler": "ddim"},
    },
    "upsampler": {
        "kind": "upsampler",
        "size": 64,
        "crop_fraction": 0.5,
        "degradation": "bsr",
        "unet": UPSAMPLER_UNET,
        "diffusion": {"predict": "v"},
        "sampling": {"steps": 2, "sampler": "ddim"},
    },
}


def tree(kind: str, shards: str, clip: Path, **train_options: Any) -> dict[str, Any]:
    """A stage's run, as YAML holds it."""
    return {
        "name": kind,
        "clip": str(clip) if kind in ("prior", "decoder") else None,
        "stage": STAGES[kind],
        "data": {"shards": shards, "batch": 4, "workers": 0, "shuffle": 10, "calibration": 8},
        "optim": {"lr": 0.001, "warmup": 2},
        "train": {
            "steps": 4,
            "precision": "no",
            "save_every": 2,
            "sample_every": 0,
            "keep": 5,
            **train_options,
        },
    }


def everything(folder: Path) -> dict[str, Tensor]:
    """All that a checkpoint holds: averaged and live weights, the optimizer, the generators."""
    return {
        f"{file}:{name}": tensor
        for file in ("model.safetensors", "state/weights.safetensors", "state/optimizer.safetensors")
        for name, tensor in read_weights(folder / file).items()
    }


def assert_same_bits(a: Path, b: Path) -> None:
    ours, theirs = everything(a), everything(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, first {different[0]}"
    assert json.loads((a / "progress.json").read_text()) == json.loads((b / "progress.json").read_text())
    assert (a / "config.json").read_text() == (b / "config.json").read_text()
