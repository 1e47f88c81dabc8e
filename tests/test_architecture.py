"""Rules of the code base: import levels, sizes of files, and what `unclip --help` loads."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unclip

PACKAGE = Path(unclip.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 450  # lines

# Each imports from those above it, or from its own folder.
LEVELS = [
    {"errors", "version"},
    {"pictures", "text"},
    {"locks"},
    {"config", "files", "provenance"},
    {"cache", "device", "diffusion", "embeddings", "images", "nn", "vocabulary"},
    {"clip"},
    {"stages"},
    {"models"},
    {"data", "pipeline"},
    {"evaluate", "serve", "train"},
    {"menagerie"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def unit(path: Path) -> str:
    """The file or folder right below the package that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[str]:
    """The package's own units that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "unclip":
                first = rest.partition(".")[0]
                yield first if first in LEVEL else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_lower_levels(path: Path) -> None:
    own = unit(path)
    wrong = {
        name for name in imported(ast.parse(path.read_text())) if name != own and LEVEL[name] >= LEVEL[own]
    }
    assert not wrong, f"{own} imports {sorted(wrong)}"


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not too_long, f"over {LONGEST} lines: {too_long}"


def test_the_command_line_starts_light() -> None:
    heavy = {"torch", "numpy", "pydantic", "PIL", "yaml", "skia", "transformers", "open_clip"}
    code = f"import sys, unclip.cli; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names_are_sorted_and_importable() -> None:
    assert unclip.__all__ == sorted(unclip.__all__)
    assert set(unclip.__all__) <= set(dir(unclip))
    for name in unclip.__all__:
        assert getattr(importlib.import_module("unclip"), name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        unclip.nothing_of_the_kind  # noqa: B018


def test_nothing_but_the_menagerie_imports_it_at_the_top() -> None:
    for path in MODULES:
        if unit(path) != "menagerie":
            tops = [
                node
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            assert "menagerie" not in imported(ast.Module(tops, [])), path
