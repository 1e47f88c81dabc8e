"""The README's and the docs' commands and code run, on a tiny model in place of mini."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from tiny import build

from unclip import files
from unclip.cli import cli
from unclip.diffusion import samplers

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundled models whose `mini` is tiny."""
    folder = tmp_path_factory.mktemp("models")
    build(folder / "mini")
    (folder / "judge").symlink_to(files.BUNDLED / "judge")
    return folder


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=lambda p: p.name)
def test_commands_run(page: Path, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BUNDLED", bundled)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()  # the reader's own
    Image.new("RGB", (80, 64), "red").save("pictures/cat.jpg")
    Path("pictures/cat.txt").write_text("a red cat")
    Path("prompts.txt").write_text("a cat\na dog\n")
    for line in "".join(blocks(page, "bash")).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "unclip"
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, line


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_code_runs(page: Path, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BUNDLED", bundled)
    monkeypatch.setattr(samplers, "SAMPLERS", dict(samplers.SAMPLERS))  # the page adds one of its own
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "docs"})


def test_links_and_pictures_are_there() -> None:
    for page in PAGES:
        prose = re.sub(r"`[^`\n]+`", "code", page.read_text(encoding="utf-8"))  # BETAS[name](times) is no link
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tree_names_what_is_there() -> None:
    tree = blocks(ROOT / "README.md", "")[-1]
    for name in re.findall(r"[├└]── (\S+)", tree):
        assert (ROOT / "unclip" / name).exists(), name
