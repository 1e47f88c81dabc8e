"""Import every module of unclip with the base dependencies only.

A module that needs an extra must raise an error that names it.

Run it where only the base dependencies are installed, as `.ci/minimal` does: `python
tests/minimal_imports.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import unclip

# Rooms that exist for an extra, and the packages of it that they may ask for.
EXTRAS = {
    "unclip.menagerie": {"skia"},
    "unclip.serve": {"fastapi", "gradio", "prometheus_client", "python_multipart", "starlette", "uvicorn"},
}


def wanted(name: str) -> set[str]:
    """The packages that the module may ask for."""
    return {
        package
        for room, packages in EXTRAS.items()
        if f"{name}.".startswith(f"{room}.")
        for package in packages
    }


def main() -> int:
    """Returns the number of modules that cannot be imported."""
    broken = 0
    names = [
        found.name
        for found in pkgutil.walk_packages(unclip.__path__, "unclip.")
        if found.name != "unclip.__main__"
    ]
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in wanted(name):
                broken += 1
                print(f"{name}: {error}", file=sys.stderr)
    print(f"{len(names) - broken} of {len(names)} modules import")
    return broken


if __name__ == "__main__":
    sys.exit(bool(main()))
