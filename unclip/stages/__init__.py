"""The trainable links of the chain. The file's name is the stage's kind: `kind: prior` is
`unclip/stages/prior.py`.

A stage of your own needs no registration: `kind: my_package.my_stage` names its module.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import torch

from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json
from unclip.stages.base import Stage

_NOT_STAGES = {"base", "degradation"}


def stage_class(kind: str) -> type[Stage]:
    """The stage class of that kind: the module's STAGE."""
    module = kind if "." in kind and not kind.startswith(".") else f"{__name__}.{kind}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise  # the stage's own import is what failed
        found = None
    stage = getattr(found, "STAGE", None)
    if not (isinstance(stage, type) and issubclass(stage, Stage)):
        kinds = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_STAGES)
        raise ConfigError(f"no stage {kind!r}; there are {', '.join(kinds)}")
    return stage


def load_stage(folder: Path, *, dtype: torch.dtype | None = torch.float32) -> Stage:
    """A stage saved by `Stage.save`, of whatever kind its config.json says; `dtype` as in `load_weights`."""
    kind = read_json(folder / "config.json").get("kind")
    if not isinstance(kind, str):
        raise CheckpointError(f"{folder}/config.json: says no kind of stage")
    return stage_class(kind).load(folder, dtype=dtype)
