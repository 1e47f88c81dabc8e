"""The reference of every config key: type, default and meaning, read from the config classes.

`unclip train --keys` prints it; the documentation's tables are made of it. Does not import torch.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator

from pydantic.fields import FieldInfo

from unclip.config import Config
from unclip.stages import stage_config
from unclip.stages.configs import CONFIGS
from unclip.train.config import RunConfig

BLOCKS = (
    "A block that a config gives replaces the default block; keys that it leaves out have the defaults above."
)
WIDTH = 100  # characters per line of the printed reference
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "multiple of"}
PLAIN: dict[object, str] = {int: "integer", float: "number", str: "text", bool: "true or false"}


def described(kind: str | None) -> str:
    """Format the keys of a run, or those of `stage` for a kind of stage, two lines or more for each.

    Raises:
        ConfigError: no such kind of stage.
    """
    if kind is not None:
        return "\n".join([*_lines(stage_config(kind), "stage."), "", BLOCKS])
    kinds = f"The keys of stage depend on its kind: unclip train --keys {', '.join(sorted(CONFIGS))}"
    return "\n".join([*_lines(RunConfig, ""), "", kinds])


def _lines(cls: type[Config], prefix: str) -> Iterator[str]:
    said = meanings(cls)
    for name, field in cls.model_fields.items():
        nested = [] if prefix + name == "stage" else cls.blocks(name, None)
        first = "" if nested and field.is_required() else f", {_default_or_required(field)}"
        yield f"{prefix}{name}: {type_name(field, lambda _: 'block')}{first}".replace("`", "")
        yield textwrap.fill(sentence(said[name]), WIDTH, initial_indent="    ", subsequent_indent="    ")
        for block in nested:
            yield from _lines(block, f"{prefix}{name}.")


def _default_or_required(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"default {default(field)}"


def sentence(text: str) -> str:
    """Join the lines of a meaning and begin it with a capital letter."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def meanings(cls: type[Config]) -> dict[str, str]:
    """Read what the docstrings of a class and of its parents say of each attribute."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if parent.__doc__ and issubclass(parent, Config):
            section = inspect.cleandoc(parent.__doc__).partition("\nAttributes:\n")[2].partition("\n\n")[0]
            for name, text in re.findall(r"^ {4}(\w+): ((?:.*\n?)(?:^ {8}.*\n?)*)", section, re.MULTILINE):
                found[name] = text
    return found


def type_name(field: FieldInfo, block: Callable[[type[Config]], str]) -> str:
    """Name a field's type as readers of YAML know it, with its bounds.

    Args:
        block: name of a nested block.
    """
    return ", ".join([_name(field.annotation, block), *_bounds(field.metadata)])


def _bounds(metadata: typing.Iterable[object]) -> Iterator[str]:
    for item in metadata:
        for attribute, sign in SIGNS.items():
            if (value := getattr(item, attribute, None)) is not None:
                yield f"{sign} {value}"
        yield from _bounds(getattr(item, "metadata", ()))  # a Field inside Annotated


def _name(annotation: object, block: Callable[[type[Config]], str]) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return " ".join([_name(parts[0], block), *_bounds(parts[1:])])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_name(part, block) for part in parts))
    if origin in (tuple, list):
        inner = list(dict.fromkeys(_name(part, block) for part in parts if part is not Ellipsis))
        count = "" if Ellipsis in parts or origin is list else f"{len(parts)} "
        return f"list of {count}{' or '.join(inner)}"
    if origin is dict:
        return f"mapping of {_name(parts[0], block)} to {_name(parts[1], block)}"
    if annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return block(annotation)
    return PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: FieldInfo) -> str:
    """Write a field's default as YAML; of a block, the keys that differ from that block's defaults."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{_yaml(changed)}`" if changed else "its own"
    return f"`{_yaml(value)}`"


def _yaml(value: object) -> str:
    """Write a value in YAML's flow style."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            return f"{{{', '.join(f'{name}: {_yaml(item)}' for name, item in value.items())}}}"
    return str(value)
