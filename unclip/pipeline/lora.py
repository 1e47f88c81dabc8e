"""Load LoRA adapters into a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from unclip.models.lora import fit, merge, read_adapter, warn_of_base
from unclip.models.scaled import ScaledReference, check_scale

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline


class LoadedLora(NamedTuple):
    """An adapter of a pipeline, as the settings of its pictures name it.

    Attributes:
        name: its name with a hash of its weights.
        stage: role of the stage that it changes.
        scale: factor of the change.
    """

    name: str
    stage: str
    scale: float


def load_lora(pipeline: Pipeline, lora: str | Path, scale: float | None = None) -> None:
    """Add a LoRA adapter to the stage that it was trained for. Several add up, and cannot be removed.

    Args:
        lora: a run of `unclip train` with `stage.lora`, one of its checkpoints, a .safetensors file or peft's
            folder; also "PATH:SCALE".
        scale: factor of the change. Default: that of `lora`, or 1.

    Raises:
        CheckpointError: no adapter there, or one of another stage, shape or CLIP.
        RequestError: the scale is not a number.
    """
    ref, own = ScaledReference.parse(str(lora))
    scale = own if scale is None else check_scale(float(scale), ref)
    adapter = read_adapter(ref)
    role, change = fit(adapter, pipeline.stages, pipeline.name)
    stage = pipeline.stages[role]
    offloaded = stage in pipeline.changes
    exact = offloaded or pipeline.dtype in (None, torch.float32)
    if exact and all(loaded.stage != role for loaded in pipeline.loras):
        warn_of_base(adapter, stage, pipeline.name)
    if role == "decoder":
        pipeline.use_in_decoder(change, scale)
    if offloaded:
        pipeline.changes[stage].append((change, scale))
    else:
        with torch.inference_mode(False):
            merge(stage, change, scale)
    pipeline.loras = (*pipeline.loras, LoadedLora(adapter.identity, role, scale))
