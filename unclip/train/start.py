"""Start a run from a saved stage, and explain why two stages do not fit."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import torch

from unclip.config import override_key
from unclip.errors import ConfigError
from unclip.models.index import UNDISTILLED
from unclip.models.resolve import resolve, role_of
from unclip.stages import load_stage
from unclip.stages.base import Stage
from unclip.train.checkpoint import flat

log = logging.getLogger(__name__)


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
    model, role = resolve(str(source)), role_of(type(stage), getattr(stage.config, "size", None))
    if role == "decoder" and UNDISTILLED in model.roles:
        role = UNDISTILLED
    folder = model.stage(role or stage.config.kind)
    found = load_stage(folder)
    if type(found) is not type(stage):
        raise ConfigError(f"{folder}: is a {found.config.kind}, not a {stage.config.kind}")
    try:
        stage.load_state_dict(stage.adapt_state_dict(found.state_dict()))
    except RuntimeError as error:
        differ = shape_keys(found, stage) or [str(error).splitlines()[-1].strip()]
        raise ConfigError(f"{folder}: has another shape than this run's stage: {'; '.join(differ)}") from None
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
