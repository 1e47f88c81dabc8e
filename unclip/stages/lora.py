"""Adapters of stages: what `stage.lora` trains of a stage, and how it is saved.

An adapter's folder holds config.json (`kind: lora`, rank, alpha, the base's identity and config) and
model.safetensors with `LAYER.lora_A.weight` [rank, inputs] and `LAYER.lora_B.weight` [outputs, rank].
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor

from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_weights, write_json, write_weights
from unclip.nn.lora import add_lora, lora_tensors, projections
from unclip.stages import LORA, stage_config
from unclip.stages.base import Stage
from unclip.stages.config import LoraConfig, StageConfig

S = TypeVar("S", bound=Stage)

_SAMPLED = 1024  # values of each tensor that identify a base: training changes all tensors


def _stage_config(value: Any) -> Any:
    return stage_config(str(value.get("kind"))).model_validate(value) if isinstance(value, dict) else value


class AdapterConfig(LoraConfig):
    """Content of an adapter's config.json.

    Attributes:
        stage: config of the stage that it adapts.
    """

    kind: Literal["lora"] = LORA
    stage: Annotated[SerializeAsAny[StageConfig], BeforeValidator(_stage_config)]


def base_identity(stage: Stage) -> str:
    """Name a stage's weights: its kind and 12 hex digits of a SHA-256 over the first values of each tensor.

    It is the same for every dtype that holds the values exactly, and takes a fraction of a second for a billion
    parameters.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(stage.state_dict().items()):
        values = tensor.detach().flatten()[:_SAMPLED].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + values.numpy().tobytes())
    return f"{stage.config.kind}@{digest.hexdigest()[:12]}"


def add_adapter(stage: S) -> S:
    """Add the adapter of `stage.config.lora`, if any, to a stage, and freeze everything else.

    Raises:
        ConfigError: the stage has no layer to adapt, or none that is larger than the adapter.
    """
    lora = stage.config.lora
    if lora is not None:
        widest = max((min(layer.weight.shape[:2]) for _, layer in projections(stage)), default=0)
        if lora.rank >= widest:
            raise ConfigError(
                f"stage.lora.rank {lora.rank}: must be below {widest}, the width of the stage's widest projection"
            )
        add_lora(stage, lora.rank, lora.scaling)
    return stage


def twin_of(stage: S) -> S:
    """Build a stage of the same config, adapter included, on the meta device."""
    with torch.device("meta"):
        return add_adapter(type(stage)(stage.config))


def trained_state(stage: Stage) -> dict[str, Tensor]:
    """The state dict of what is trained: of an adapter A and B only, otherwise of the whole stage."""
    state = stage.state_dict()
    return state if stage.config.lora is None else lora_tensors(state)


def save_trained(stage: Stage, folder: Path) -> None:
    """Write what was trained into an existing folder: the stage, or its adapter."""
    if stage.config.lora is None:
        return stage.save(folder)
    own = stage.config.model_copy(update={"lora": None})
    config = AdapterConfig(**stage.config.lora.model_dump(), stage=own)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    weights = {name: tensor.cpu().contiguous() for name, tensor in trained_state(stage).items()}
    write_weights(weights, folder / "model.safetensors")


def saved_stage(tree: dict[str, Any]) -> dict[str, Any]:
    """The config of the stage that a checkpoint was trained from, with its `lora`, from its config.json."""
    if tree.get("kind") != LORA or not isinstance(tree.get("stage"), dict):
        return tree
    return {**tree["stage"], "lora": {key: tree.get(key) for key in LoraConfig.model_fields}}


def load_trained(stage: Stage, path: Path) -> None:
    """Load the tensors of a stage's adapter.

    Raises:
        CheckpointError: the file belongs to another adapter.
    """
    state, wanted = read_weights(path), trained_state(stage)
    wrong = [name for name in sorted(state.keys() | wanted.keys()) if not _same_shape(name, state, wanted)]
    if wrong:
        raise CheckpointError(f"{path}: tensor {wrong[0]} is of another adapter than its config.json")
    stage.load_state_dict(state, strict=False)


def _same_shape(name: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return name in state and name in wanted and state[name].shape == wanted[name].shape
