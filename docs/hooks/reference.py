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
from collections.abc import Callable, Iterator

import click

from unclip.config import Config
from unclip.stages.config import StageConfig
from unclip.stages.configs import CONFIGS
from unclip.train.keys import default, meanings, sentence, type_name

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
        f"| {names(record[0])} | {cell(record[1].replace('[', BRACKET))} |"
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


def _stages() -> Iterator[str]:
    shown: set[type[Config]] = set()
    nested: list[tuple[str, type[Config]]] = []
    for kind, cls in sorted(CONFIGS.items()):
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
    return [kind for name in cls.model_fields for kind in cls.blocks(name, None)]


def table(cls: type[Config]) -> str:
    """Key, type, default and meaning of each field."""
    said = meanings(cls)
    missing = [name for name in cls.model_fields if name not in said]
    if missing:
        log.warning("%s: its docstring does not describe %s", cls.__qualname__, ", ".join(missing))
    rows = [
        f"| `{name}` | {type_name(field, link)} | {default(field)} | {cell(said.get(name, ''))} |"
        for name, field in cls.model_fields.items()
    ]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def summary(cls: type[Config]) -> str:
    """The first paragraph of the class's docstring."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def link(cls: type[Config]) -> str:
    """A link to the section of a nested block."""
    return "a stage, by its `kind`" if cls is StageConfig else f"[{cls.__name__}](#{anchor(cls)})"


def anchor(cls: type[Config]) -> str:
    """The id of a class's section."""
    return cls.__name__.lower()


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return sentence(text).replace("|", "\\|")


BRACKET = "\\["  # click's bounds and defaults in brackets are no links

GENERATORS: dict[str, Callable[[str], str]] = {"cli": cli, "api": api, "modules": modules, "config": config}
