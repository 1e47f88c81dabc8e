"""Read LoRA adapters (Hu et al. 2021) and add them to the weights of the stages that they were trained for.

Read are our own folders, peft's (`adapter_config.json`) and single .safetensors files in peft's or diffusers'
layout, with the layers named as in our stages.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.clip.identity import weights_identity
from unclip.config import parse
from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json, read_weights
from unclip.models.resolve import resolve, role_of
from unclip.models.scaled import ScaledReference
from unclip.stages import LORA, stage_class
from unclip.stages.base import Stage
from unclip.stages.lora import AdapterConfig, base_identity

log = logging.getLogger(__name__)

PEFT = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"

# LAYER.lora_A.weight, LAYER.lora_A.default.weight (peft), LAYER.lora.down.weight, LAYER.lora_down.weight
_FACTOR = re.compile(r"(.+?)\.lora(?:_([AB])(?:\.default)?|[._](down|up))\.weight")
_OUTER = ("", "base_model.model.", "unet.", "prior.")  # prefixes of other programs
_INNER = ("", "network.", "network.unet.")  # our modules around the network that they adapt


class LowRank(NamedTuple):
    """The change of one layer: scaling · B A, for A [rank, inputs] and B [outputs, rank]."""

    a: Tensor
    b: Tensor
    scaling: float


Change = Mapping[str, LowRank]  # by the layer's name in the stage


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read.

    Attributes:
        where: path, for messages.
        identity: name with a hash of the tensors.
        config: what it says of its stage. None for another program's.
        layers: change of each layer.
    """

    where: Path
    identity: str
    config: AdapterConfig | None
    layers: Change


def is_adapter(ref: str) -> bool:
    """Whether a reference names an adapter, and not a stage or a model."""
    path = Path(ref)
    if path.suffix == ".safetensors" or (path / PEFT).is_file():
        return True
    return path.exists() and resolve(ref).kind == LORA


def read_adapter(ref: str) -> Adapter:
    """Read an adapter: a run, one of its checkpoints, peft's folder, a .safetensors file, a Hub id.

    Raises:
        CheckpointError: no adapter there, or a damaged one.
    """
    path, config, scaling = Path(ref), None, None
    if path.is_file():
        folder, weights = path.parent, path
    elif (path / PEFT).is_file():
        folder, weights = path, path / PEFT_WEIGHTS
    else:
        found = resolve(ref)
        if found.kind != LORA:
            raise CheckpointError(f"{ref}: is a {found.kind or 'whole model'}, not a LoRA adapter")
        folder, weights = found.folder, found.folder / "model.safetensors"
    if weights.name == "model.safetensors" and (folder / "config.json").is_file():
        config = _own_config(folder)
        scaling = config.scaling
    elif weights.name == PEFT_WEIGHTS and (folder / PEFT).is_file():
        scaling = _peft_scaling(folder / PEFT)
    tensors = read_weights(weights)
    folder = folder.absolute()
    name = weights.stem if path.is_file() else (folder.parent if folder.name[:5] == "step-" else folder).name
    return Adapter(weights, weights_identity(name, tensors), config, _layers(weights, tensors, scaling))


def _own_config(folder: Path) -> AdapterConfig:
    path = folder / "config.json"
    tree = read_json(path)
    if tree.get("kind") != LORA:
        raise CheckpointError(f"{folder}: is a {tree.get('kind')}, not a LoRA adapter")
    try:
        return parse(AdapterConfig, tree, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _peft_scaling(path: Path) -> float:
    tree = read_json(path)
    for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if tree.get(key):
            raise CheckpointError(f"{path}: has {key}, which is not plain LoRA and not read")
    try:
        return float(tree["lora_alpha"]) / int(tree["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise CheckpointError(f"{path}: r and lora_alpha must be numbers above 0") from None


def _layers(path: Path, tensors: Mapping[str, Tensor], scaling: float | None) -> Change:
    """Pair the factors of each layer.

    Args:
        scaling: alpha / rank. None to take each layer's tensor `alpha`, or else the rank, as alpha.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: tensor {name} holds values that are not numbers")
        if name.endswith(".alpha"):
            continue
        found = _FACTOR.fullmatch(name)
        if found is None:
            raise CheckpointError(f"{path}: is no LoRA adapter (tensor {name})")
        side = {"down": "A", "up": "B"}.get(found[3], found[2])
        factors.setdefault(found[1], {})[side] = tensor.flatten(1) if tensor.ndim > 1 else tensor
    layers = {}
    for layer, pair in factors.items():
        shapes = {side: tuple(tensor.shape) for side, tensor in pair.items()}
        if (
            len(pair) < 2
            or pair["A"].ndim != 2
            or pair["B"].ndim != 2
            or len(pair["A"]) != pair["B"].shape[1]
        ):
            raise CheckpointError(f"{path}: A and B of layer {layer} do not fit each other ({shapes})")
        rank = len(pair["A"])
        if rank == 0:
            raise CheckpointError(f"{path}: layer {layer} has rank 0")
        alpha = float(tensors.get(f"{layer}.alpha", rank))
        layers[layer] = LowRank(pair["A"], pair["B"], alpha / rank if scaling is None else scaling)
    if not layers:
        raise CheckpointError(f"{path}: is no LoRA adapter: it holds no tensors")
    return layers


def fit(adapter: Adapter, stages: Mapping[str, Stage], model: str) -> tuple[str, Change]:
    """Find the stage that an adapter is for.

    Args:
        stages: the model's stages by role.
        model: the model's name, for messages.

    Returns:
        The stage's role, and the changes under the names of its layers.

    Raises:
        CheckpointError: it is for a stage that the model lacks, or one of another shape or CLIP.
    """
    if adapter.config is None:
        return _fit_by_names(adapter, stages, model)
    theirs = adapter.config.stage
    role = role_of(stage_class(theirs.kind), getattr(theirs, "size", None)) or theirs.kind
    stage = stages.get(role)
    if stage is None or stage.config.kind != theirs.kind:
        there = ", ".join(
            one if stages[one].config.kind in one else stages[one].config.kind for one in stages
        )
        wanted = role if theirs.kind in role else theirs.kind
        raise CheckpointError(f"{adapter.where}: is an adapter of a {wanted}; {model} has {there}")
    if None not in (theirs.clip, stage.config.clip) and theirs.clip != stage.config.clip:
        raise CheckpointError(
            f"{adapter.where}: was trained for CLIP {theirs.clip}, the {role} of {model} for {stage.config.clip}"
        )
    if problem := _misfit(adapter.layers, stage):
        raise CheckpointError(f"{adapter.where}: does not fit the {role} of {model}: {problem}")
    return role, adapter.layers


def warn_of_base(adapter: Adapter, stage: Stage, model: str) -> None:
    """Warn if a stage is not the one that an adapter was trained on. Call it before any is added."""
    base = adapter.config and adapter.config.base
    if base is not None and (ours := base_identity(stage)) != base:
        log.warning("%s: was trained on %s; %s has other weights, %s", adapter.where, base, model, ours)


def _fit_by_names(adapter: Adapter, stages: Mapping[str, Stage], model: str) -> tuple[str, Change]:
    problems = []
    for outer, inner, (role, stage) in itertools.product(_OUTER, _INNER, stages.items()):
        if all(name.startswith(outer) for name in adapter.layers):
            renamed = {f"{inner}{name.removeprefix(outer)}": one for name, one in adapter.layers.items()}
            problem = _misfit(renamed, stage)
            if problem is None:
                return role, renamed
            if "no layer" not in problem:
                problems.append(f"{role}: {problem}")
    first = next(iter(adapter.layers))
    why = problems[0] if problems else f"layer {first}"
    raise CheckpointError(f"{adapter.where}: fits no stage of {model} ({why})")


def _misfit(layers: Change, stage: Stage) -> str | None:
    """Say why changes do not fit a stage; None if they do."""
    state = stage.state_dict()
    for name, low in layers.items():
        weight = state.get(f"{name}.weight")
        if weight is None:
            return f"it has no layer {name}"
        shape, theirs = tuple(weight.shape), (len(low.b), low.a.shape[1])
        if shape[:2] != theirs or weight.numel() != low.b.shape[0] * low.a.shape[1]:
            return f"{name} is {' × '.join(map(str, shape))}, the adapter's {' × '.join(map(str, theirs))}"
    return None


def changed(name: str, weight: Tensor, changes: Iterable[tuple[Change, float]]) -> Tensor:
    """Return the tensor `name` of a stage's state dict with changes and their scales added.

    A tensor that changes is computed, and returned, in float32 or more; any other is returned as it is.
    """
    layer = name.removesuffix(".weight")
    for change, scale in changes:
        if layer in change and name.endswith(".weight"):
            a, b, scaling = change[layer]
            weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
            product = b.to(weight) @ a.to(weight)
            weight = weight + scale * scaling * product.view(weight.shape)
    return weight


@torch.no_grad()
def merge(stage: Stage, change: Change, scale: float) -> None:
    """Add a change to the weights of a stage, in place."""
    for layer in change:
        parameter: Any = stage.get_parameter(f"{layer}.weight")
        new = changed(f"{layer}.weight", parameter, [(change, scale)])
        parameter.data = new.to(
            parameter.dtype
        )  # not written into: the weights may be mapped from their file


def fit_all(loras: Iterable[str], stages: Mapping[str, Stage], model: str) -> list[tuple[str, Change, float]]:
    """Find the stages that adapters, "PATH" or "PATH:SCALE", are for; arguments as in `fit`.

    Returns:
        For each adapter the stage's role, its changes, and their scale.
    """
    found, adapted = [], set()
    for ref, scale in map(ScaledReference.parse, loras):
        adapter = read_adapter(ref)
        role, change = fit(adapter, stages, model)
        if role not in adapted:
            warn_of_base(adapter, stages[role], model)
        adapted.add(role)
        found.append((role, change, scale))
    return found
