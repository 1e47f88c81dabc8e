"""The strict base of every configuration, and the reader of YAML files and `key=value` overrides.

Each configuration class is in a module `config` beside what it configures, not here. Those of training do not
import torch, so that mistakes are found at once.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from unclip.errors import ConfigError
from unclip.text import read_text

log = logging.getLogger(__name__)


class Config(BaseModel):
    """An immutable configuration; unknown keys are errors, so that typos do not pass silently.

    Attributes:
        dropped_keys: keys of earlier versions, which are ignored, with the values that had no effect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    dropped_keys: ClassVar[dict[str, float]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_dropped_keys(cls, tree: Any) -> Any:
        """Ignores dropped keys, in saved files and others, and warns of values that had an effect."""
        if not isinstance(tree, dict):
            return tree
        for key, neutral in cls.dropped_keys.items():
            if tree.get(key, neutral) != neutral:
                log.warning(
                    "%s: %r is ignored; the key was dropped, since it gained nothing in its trial "
                    "(docs/benchmarks.md)",
                    key,
                    tree[key],
                )
        return {key: value for key, value in tree.items() if key not in cls.dropped_keys}

    @classmethod
    def blocks(cls, key: str, value: object) -> list[type[Config]]:
        """Return the config classes of the block under a key; none for a plain value.

        Args:
            value: content of the block, if the class depends on it.
        """
        return list(_configs_in(cls.model_fields[key].annotation))


class WrongValue(ValueError):
    """A value that cannot be right, raised by a validator that sees several keys.

    Attributes:
        key: the key to name, relative to the config that is validated.
        problem: what is wrong with it.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key, self.problem = key, problem


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
        lines = "; ".join(_described(kind, tree, dict(problem)) for problem in error.errors())
        raise ConfigError(f"{where}: {lines}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _configs_in(annotation: object) -> Iterator[type[Config]]:
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        yield annotation
    for part in get_args(annotation):
        yield from _configs_in(part)


def _described(kind: type[Config], tree: dict[str, Any], problem: dict[str, Any]) -> str:
    """Format one of pydantic's errors as `key.sub: problem`."""
    path = _path(tree, problem)
    if problem["type"] == "extra_forbidden":
        return f"{path}: no such key; {_suggestion(path, list(_keys(kind, tree)))}"
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, WrongValue):
        return f"{f'{path}.' if path else ''}{cause}"
    value = problem["input"]
    given = f", not {value!r}" if isinstance(value, int | float | str) and cause is None else ""
    return f"{path}: {cause or problem['msg']}{given}"


def _path(tree: Any, problem: Mapping[str, Any]) -> str:
    """The key of an error, without the parts that name a branch of a union."""
    parts = []
    for part in problem["loc"]:
        if part in (range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()):
            tree = tree[part]
            parts.append(str(part))
    if problem["type"] == "missing":
        parts.append(str(problem["loc"][-1]))
    return ".".join(parts)


def _keys(kind: type[Config], tree: object, prefix: str = "") -> Iterator[str]:
    """All keys that a config may have, as dotted paths."""
    for name in kind.model_fields:
        yield prefix + name
        value = tree.get(name) if isinstance(tree, dict) else None
        for block in kind.blocks(name, value):
            yield from _keys(block, value, f"{prefix}{name}.")


def _suggestion(path: str, keys: Sequence[str]) -> str:
    """Say which key was probably meant: a similar one beside it, or one of the same name elsewhere."""
    block, _, name = path.rpartition(".")
    beside = [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == block]
    if near := get_close_matches(name, beside, n=1, cutoff=0.7):
        return f"did you mean {f'{block}.' if block else ''}{near[0]}?"
    names = list(dict.fromkeys(key.rpartition(".")[2] for key in keys))
    elsewhere = get_close_matches(name, names, n=1, cutoff=0.65)
    if elsewhere:
        same = [key for key in keys if key.rpartition(".")[2] == elsewhere[0]]

        def rank(key: str) -> tuple[bool, int, float]:
            return (
                key.partition(".")[0] != path.partition(".")[0] or not block,
                key.count("."),
                -SequenceMatcher(None, key, path).ratio(),
            )

        return f"did you mean {min(same, key=rank)}?"
    return f"the keys of {block or 'a run'} are {', '.join(beside)}"


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
