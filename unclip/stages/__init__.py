"""The trainable stages; the name of a stage's module is its kind: `kind: prior` is `unclip/stages/prior.py`.

Stages outside this package need no registration: `kind: my_package.my_stage` names the module.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard

from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json
from unclip.stages.configs import CONFIGS

if TYPE_CHECKING:
    from unclip.stages.base import Stage
    from unclip.stages.config import StageConfig

LORA: Literal["lora"] = "lora"  # kind of a saved adapter, which is not a stage
_NOT_STAGES = {
    "base",
    "batch",
    "caption_encoder",
    "config",
    "configs",
    "decoder_base",
    "decoder_latent",
    "degradation",
    "diffusion",
    "embedding_noise",
    "latent_configs",
    LORA,
    "prior_base",
    "prior_configs",
}


def stage_class(kind: str) -> type[Stage]:
    """The stage class of the given kind: the `STAGE` of its module.

    Raises:
        ConfigError: no such stage.
    """
    module = kind if "." in kind and not kind.startswith(".") else f"{__name__}.{kind}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise  # the stage's own import is what failed
        found = None
    stage = getattr(found, "STAGE", None)
    if not _is_stage(stage):
        kinds = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_STAGES)
        raise ConfigError(f"no stage {kind!r}; there are {', '.join(kinds)}")
    return stage


def stage_config(kind: str) -> type[StageConfig]:
    """The config class of a kind of stage. Does not import torch for the stages of this package.

    Raises:
        ConfigError: no such stage.
    """
    return CONFIGS.get(kind) or stage_class(kind).Config


def _is_stage(found: object) -> TypeGuard[type[Stage]]:
    if found is None:
        return False
    from unclip.stages.base import Stage  # imports torch, which checking a config does not need

    return isinstance(found, type) and issubclass(found, Stage)


def load_stage(folder: Path, *, keep_dtype: bool = False) -> Stage:
    """Loads a stage of any kind that `Stage.save` wrote; `keep_dtype` as in `load_weights`."""
    kind = read_json(folder / "config.json").get("kind")
    if not isinstance(kind, str):
        raise CheckpointError(f"{folder}/config.json: names no kind of stage")
    if kind == LORA:
        raise CheckpointError(
            f"{folder}: is a LoRA adapter, not a stage; load it with its model by --lora, or merge it by "
            "`unclip assemble`"
        )
    return stage_class(kind).load(folder, keep_dtype=keep_dtype)
