"""mkdocs hook: generates the reference from the package while the site is built, so that it cannot be out of
date.

A page asks for a part with one of these lines:

    <!-- cli: unclip.cli -->            every command with its options
    <!-- api: unclip -->                what the package exports
    <!-- modules: unclip.diffusion -->  every public module of a package
    <!-- config: run -->                the keys that every training config has
    <!-- config: stages -->             the keys of `stage`, for each kind
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator

import click
from griffe import Docstring, DocstringSectionAttributes
from pydantic.fields import FieldInfo

from unclip.config import Config
from unclip.stages.config import StageConfig

log = logging.getLogger("mkdocs.hooks.reference")

MARKER = re.compile(r"^<!-- (cli|api|modules|config): ([\w.]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces the markers of a page (mkdocs calls this)."""
    return MARKER.sub(lambda found: GENERATORS[found[1]](found[2]), markdown)


def cli(module: str) -> str:
    """A section for the program `cli` of a module and for each of its commands, as --help has them."""
    return "\n\n".join(_command(importlib.import_module(module).cli, "unclip", None, 2))


def _command(command: click.Command, name: str, parent: click.Context | None, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f"{'#' * level} {context.command_path}\n\n{help_text(command)}"
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```"
    records = [
        record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))
    ]
    rows = [
        f"| {names(record[0])} | {cell(record[1])} |"
        for record in records
        if record[1] and "--help" not in record[0]
    ]
    if rows:
        yield "\n".join(["| option | meaning |", "| --- | --- |", *rows])
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _command(command.commands[inner], inner, context, min(level + 1, 4))


def help_text(command: click.Command) -> str:
    """The help of a command as Markdown: what click leaves unwrapped (after a backspace) is a block of
    code.
    """
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(f"```sh\n{p[2:]}\n```" if p.startswith("\b\n") else p for p in paragraphs)


def names(text: str) -> str:
    """An option's names and value for a cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def api(package: str) -> str:
    """Directives for mkdocstrings, one for each name that the package exports; exceptions come last."""
    home = importlib.import_module(package)
    exported = {name: getattr(home, name) for name in home.__all__}
    order = sorted(exported, key=lambda name: (_is_error(exported[name]), name != "Pipeline", name))
    return "\n\n".join(line for name in order for line in _exported(f"{package}.{name}", exported[name]))


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def _exported(path: str, value: object) -> Iterator[str]:
    yield f"::: {path}"
    if inspect.isclass(
        value
    ):  # functions of other modules that are its methods, which mkdocstrings does not see
        methods = {name: item for name, item in vars(value).items() if inspect.isfunction(item)}
        for name, method in methods.items():
            if method.__qualname__ == name:
                yield f"::: {method.__module__}.{name}\n    options: {{heading_level: 3}}"


def modules(package: str) -> str:
    """Directives for mkdocstrings: the package, then each of its public modules."""
    home = importlib.import_module(package)
    names = sorted(
        module.name for module in pkgutil.iter_modules(home.__path__) if not module.name.startswith("_")
    )
    options = "    options: {show_root_full_path: true}"
    return "\n\n".join(
        f"::: {name}\n{options}" for name in [package, *(f"{package}.{name}" for name in names)]
    )


def config(part: str) -> str:
    """Tables of keys: of a run, or of every kind of stage."""
    if part == "run":
        from unclip.train.config import RunConfig

        return "\n\n".join(sections([("", RunConfig)], set()))
    return "\n\n".join(_stages())


def stage_kinds() -> dict[str, type[StageConfig]]:
    """The config of every kind of stage in the package."""
    import unclip.stages

    homes = (
        importlib.import_module(f"unclip.stages.{m.name}")
        for m in pkgutil.iter_modules(unclip.stages.__path__)
    )
    found = {home.__name__.rpartition(".")[2]: home.STAGE.Config for home in homes if hasattr(home, "STAGE")}
    return dict(sorted(found.items()))


def _stages() -> Iterator[str]:
    shown: set[type[Config]] = set()
    nested: list[tuple[str, type[Config]]] = []
    for kind, cls in stage_kinds().items():
        yield f"## `kind: {kind}` {{ #{anchor(cls)} }}\n\n{summary(cls)}\n\n{table(cls)}"
        shown.add(cls)
        nested += [("stage", inner) for inner in nested_configs(cls)]
    yield from sections(nested, shown)


def sections(pending: list[tuple[str, type[Config]]], shown: set[type[Config]]) -> Iterator[str]:
    """A section for each configuration class, and then for those that it nests; `stage` has a page part of
    its own.
    """
    while pending:
        key, cls = pending.pop(0)
        if cls in shown or cls is StageConfig:
            continue
        shown.add(cls)
        yield f"## {cls.__name__} {{ #{anchor(cls)} }}\n\n{summary(cls)}\n\n{table(cls)}"
        pending += [(key, inner) for inner in nested_configs(cls)]


def nested_configs(cls: type[Config]) -> list[type[Config]]:
    """The configuration classes that the fields of this one hold."""
    return [kind for field in cls.model_fields.values() for kind in _configs_in(field.annotation)]


def _configs_in(annotation: object) -> list[type[Config]]:
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _configs_in(part)]


def table(cls: type[Config]) -> str:
    """Key, type, default and meaning of each field."""
    said = meanings(cls)
    missing = [name for name in cls.model_fields if name not in said]
    if missing:
        log.warning("%s: its docstring does not describe %s", cls.__qualname__, ", ".join(missing))
    rows = [
        f"| `{name}` | {type_name(field)} | {default(field)} | {cell(said.get(name, ''))} |"
        for name, field in cls.model_fields.items()
    ]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def meanings(cls: type[Config]) -> dict[str, str]:
    """What the docstrings of a class and of its parents say of each attribute."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if parent.__doc__ and issubclass(parent, Config):
            for section in Docstring(inspect.cleandoc(parent.__doc__)).parse("google", warnings=False):
                if isinstance(section, DocstringSectionAttributes):
                    found |= {attribute.name: attribute.description for attribute in section.value}
    return found


def summary(cls: type[Config]) -> str:
    """The first paragraph of the class's docstring."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def type_name(field: FieldInfo) -> str:
    """A field's type as readers of YAML know it, with its bounds."""
    bounds = [f"{name} {value}" for item in field.metadata for name, value in _bounds(item)]
    return ", ".join([_name(field.annotation), *bounds])


def _bounds(item: object) -> Iterator[tuple[str, object]]:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "multiple of"}
    for attribute, sign in signs.items():
        if (value := getattr(item, attribute, None)) is not None:
            yield sign, value


def _name(annotation: object) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _name(parts[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_name(part) for part in parts))
    if origin in (tuple, list):
        inner = list(dict.fromkeys(_name(part) for part in parts if part is not Ellipsis))
        count = "" if Ellipsis in parts or origin is list else f"{len(parts)} "
        return f"list of {count}{' or '.join(inner)}"
    if origin is dict:
        return f"mapping of {_name(parts[0])} to {_name(parts[1])}"
    if annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return (
            "a stage, by its `kind`"
            if annotation is StageConfig
            else f"[{annotation.__name__}](#{anchor(annotation)})"
        )
    plain = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))  # type: ignore[call-overload, no-any-return]


def default(field: FieldInfo) -> str:
    """A field's default as YAML writes it; of a nested block, the keys that differ from that block's own
    defaults.
    """
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return (
            f"`{{{', '.join(f'{name}: {plain(item)}' for name, item in changed.items())}}}`"
            if changed
            else "its own"
        )
    return f"`{plain(value)}`"


def plain(value: object) -> str:
    """A value in YAML's flow style."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(plain, value))}]"
        case dict():
            return f"{{{', '.join(f'{name}: {plain(item)}' for name, item in value.items())}}}"
    return str(value)


def anchor(cls: type[Config]) -> str:
    """The id of a class's section."""
    return cls.__name__.lower()


def cell(text: str) -> str:
    """Text for a cell of a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text[:1].upper() + text[1:]


GENERATORS: dict[str, Callable[[str], str]] = {"cli": cli, "api": api, "modules": modules, "config": config}
