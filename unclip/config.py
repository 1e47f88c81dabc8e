"""The strict base of every configuration, and the reader of YAML files and `key=value` overrides.

Each configuration class is in the module that it configures, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from unclip.errors import ConfigError
from unclip.text import read_text


class Config(BaseModel):
    """An immutable configuration; unknown keys are errors, so that typos do not pass silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def parse(kind: type[C], tree: object, where: str) -> C:
    """Validates a tree of plain values.

    Args:
        where: name of the source, for messages.

    Raises:
        ConfigError: names the source and the key.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: expected a mapping of keys to values, found {type(tree).__name__}")
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{where}: {lines}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a YAML file as a tree and applies `a.b=value` overrides, whose values are YAML."""
    text = read_text(path, ConfigError)
    try:
        tree = yaml.safe_load(text)
    except Exception as error:  # PyYAML's constructors raise ValueError, KeyError, RecursionError …
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split()) or 'damaged'})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values")
    for override in overrides:
        override_key(tree, override)
    return tree


def override_key(tree: dict[str, Any], override: str) -> None:
    """Applies one `a.b=value` override to the tree, in place."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: overrides are written key.sub=value")
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{override!r}: {parent} is a value, it has no keys below it")
        tree = child
    try:
        tree[leaf] = yaml.safe_load(value)
    except Exception:  # as in `read_yaml`
        raise ConfigError(f"{override!r}: {value!r} is not a YAML value") from None
