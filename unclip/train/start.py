"""The stage of a run as it begins: random, from a saved one, or a frozen one with an adapter."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import torch

from unclip.config import override_key
from unclip.errors import ConfigError
from unclip.files import read_json
from unclip.models.index import UNDISTILLED
from unclip.models.resolve import resolve, role_of
from unclip.stages import load_stage, stage_class
from unclip.stages.base import Stage
from unclip.stages.lora import add_adapter, base_identity
from unclip.train.checkpoint import flat
from unclip.train.config import RunConfig

log = logging.getLogger(__name__)


def new_stage(config: RunConfig) -> Stage:
    """Build the stage of a run: with random weights, or a saved stage, frozen, with a new adapter.

    Raises:
        ConfigError: the stage to adapt is of another kind, shape or CLIP.
        CheckpointError: there is no such stage.
    """
    kind, lora = stage_class(config.stage.kind), config.stage.lora
    if lora is None:
        return kind(config.stage)
    assert config.init is not None
    found = load_stage(_saved(config.init, kind, config.stage.model_dump()))
    with torch.device("meta"):
        stage = kind(config.stage)
    _check_kind(found, stage, config.init)
    if found.config.clip not in (None, config.stage.clip):
        raise ConfigError(
            f"{config.init}: was trained with CLIP {found.config.clip}, not with {config.stage.clip}; an adapter "
            "cannot change that"
        )
    try:
        stage.load_state_dict(found.state_dict(), assign=True)
    except RuntimeError as error:
        raise _another_shape(found, stage, config.init, error) from None
    known = lora.model_copy(update={"base": base_identity(stage)})
    stage.config = config.stage.model_copy(update={"lora": known})
    return add_adapter(stage)


def base_config(init: str, given: dict[str, Any]) -> dict[str, Any]:
    """Read the config of the saved stage that an adapter is trained for.

    Args:
        init: reference of the stage, or of a model with a stage of the same role.
        given: the run's own keys of `stage`.

    Raises:
        CheckpointError: there is no such stage.
        ConfigError: the run's own keys name no kind of stage, or another one.
    """
    kind = stage_class(str(given.get("kind")))
    folder = _saved(init, kind, given)
    tree = read_json(folder / "config.json")
    tree.pop("identity", None)  # of a CLIP's own weights
    if tree.get("kind") != given.get("kind"):
        raise ConfigError(f"{folder}: is a {tree.get('kind')}, not a {given.get('kind')}")
    return tree


def _saved(ref: str, kind: type[Stage], config: dict[str, Any]) -> Path:
    """The folder of a saved stage, or of the stage of the same role in a model: of two decoders, the undistilled."""
    model, role = resolve(ref), role_of(kind, config.get("size"))
    if role == "decoder" and UNDISTILLED in model.roles:
        role = UNDISTILLED
    return model.stage(role or str(config.get("kind")))


def start_from(stage: Stage, source: str | Path, clip: str | None = None) -> bool:
    """Initialise a stage with the weights of a saved one, adapted by `Stage.adapt_state_dict`.

    Args:
        source: reference of the saved stage, or of a model with a stage of the same role.
        clip: reference of this run's CLIP.

    Returns:
        Whether the weights were trained with another CLIP; the stage must then be calibrated again.

    Raises:
        ConfigError: the saved stage is of another kind or shape.
    """
    folder = _saved(str(source), type(stage), stage.config.model_dump())
    found = load_stage(folder)
    _check_kind(found, stage, folder)
    try:
        stage.load_state_dict(stage.adapt_state_dict(found.state_dict()))
    except RuntimeError as error:
        raise _another_shape(found, stage, folder, error) from None
    same = (None, stage.config.clip, clip)  # earlier versions stored the reference instead of the identity
    another = found.config.clip not in same
    if another:
        log.warning(
            "%s: was trained with CLIP %s; training goes on with %s",
            folder,
            found.config.clip,
            stage.config.clip,
        )
    return another


def _check_kind(found: Stage, stage: Stage, where: str | Path) -> None:
    if type(found) is not type(stage):
        raise ConfigError(f"{where}: is a {found.config.kind}, not a {stage.config.kind}")


def _another_shape(found: Stage, stage: Stage, where: str | Path, error: RuntimeError) -> ConfigError:
    differ = shape_keys(found, stage) or [str(error).splitlines()[-1].strip()]
    return ConfigError(f"{where}: has another shape than this run's stage: {'; '.join(differ)}")


def shape_keys(found: Stage, stage: Stage) -> list[str]:
    """Find the config keys that give two stages of one kind different tensor shapes; with both values.

    Each differing key is tried alone: the stage is built on the meta device with the other's value.
    """
    tree = stage.config.model_dump(mode="json")
    there, here = (dict(flat(one.config.model_dump(mode="json"), "stage")) for one in (found, stage))
    wanted = {name: tensor.shape for name, tensor in stage.state_dict().items()}

    def fits(key: str) -> bool:
        changed = {"stage": copy.deepcopy(tree)}
        try:
            override_key(changed, f"{key}={json.dumps(there.get(key))}")
            with torch.device("meta"):
                state = type(stage)(stage.Config.model_validate(changed["stage"])).state_dict()
        except (ValueError, ConfigError):  # not valid alone: belongs to another key that differs
            return False
        return {name: tensor.shape for name, tensor in stage.adapt_state_dict(state).items()} == wanted

    differ = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    return [f"{key} is {there.get(key)} there, {here.get(key)} here" for key in differ if not fits(key)]
