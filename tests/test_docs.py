"""Code and commands of the README and the docs run or exist, on a tiny model in place of mini."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from tiny import build

from unclip import files
from unclip.cli import cli
from unclip.config import Config
from unclip.diffusion import samplers
from unclip.train.config import read_run

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundled models whose `mini` is tiny."""
    folder = tmp_path_factory.mktemp("models")
    build(folder / "mini")
    (folder / "judge").symlink_to(files.BUNDLED / "judge")
    return folder


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=label)
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


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=label)
def test_code_runs(page: Path, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BUNDLED", bundled)
    monkeypatch.setattr(samplers, "SAMPLERS", dict(samplers.SAMPLERS))  # the page adds one of its own
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "docs"})


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of a page that is shown but not run, in blocks and in running text, without its
    environment.
    """
    shown = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    shown += re.findall(r"`((?:OMP_NUM_THREADS=1 )?(?:unclip|accelerate|python|pytest|make) [^`\n]+)`", text)
    for line in shown:
        words = [word for word in shlex.split(line, comments=True) if word != "…"]
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words:
            yield words


def check_unclip(arguments: list[str]) -> None:
    command: click.Command = cli
    while (
        isinstance(command, click.Group)
        and arguments
        and not arguments[0].isupper()
        and arguments[0][0] != "-"
    ):
        name, *arguments = arguments
        assert name in command.commands, f"{command.name} has no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {
        "-h",
        "--help",
        "--version",
    }
    used = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{command.name}: {used - known}"
    if command.name == "train" and arguments and (ROOT / arguments[0]).is_file():
        read_run(ROOT / arguments[0], [word for word in arguments[1:] if re.match(r"[a-z_.]+=", word)])


def check_script(script: str, arguments: list[str]) -> None:
    assert (ROOT / script).is_file(), script
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in (word for word in arguments[: arguments.index("--") if "--" in arguments else None]):
        assert not re.match(r"--[a-z]", option) or f'"{option}"' in source, f"{script} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for words in commands(page):
        if "unclip" in words and (words[0] == "unclip" or "-m" in words):
            check_unclip(words[words.index("unclip") + 1 :])
        elif words[0] == "python" and words[1].startswith("tools/"):
            check_script(words[1], words[2:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        for path in (word for word in words if re.fullmatch(r"(tests|tools|configs)/[\w./-]+\.\w+", word)):
            assert (ROOT / path).exists(), path


def test_links_and_pictures_are_there() -> None:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        prose = re.sub(r"`[^`\n]+`", "code", prose)  # BETAS[name](times) is no link
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
            assert (page.parent / target).exists(), f"{label(page)}: {target}"


def test_the_package_names_the_documents_that_there_are() -> None:
    for module in (ROOT / "unclip").rglob("*.py"):
        for path in re.findall(r"\bdocs/[\w/.-]+\.md", module.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), f"{module.relative_to(ROOT)}: {path}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_architecture_names_the_packages_that_there_are() -> None:
    table = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `(unclip\.\w+)` \|", table, re.MULTILINE)
    folders = {path.name for path in (ROOT / "unclip").iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert {name.partition(".")[2] for name in names} == folders
    assert all(importlib.import_module(name) for name in names)


def test_every_page_is_in_the_navigation() -> None:
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    nav = str(yaml.safe_load("nav:\n" + lines))
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"'{page.relative_to(ROOT / 'docs')}'" in nav, page


def test_every_key_of_a_config_is_described() -> None:
    from unclip.stages.configs import CONFIGS
    from unclip.train.config import RunConfig
    from unclip.train.keys import meanings

    pending: list[type[Config]] = [RunConfig, *CONFIGS.values()]
    seen = set()
    while pending:
        config = pending.pop()
        if config not in seen:
            seen.add(config)
            assert set(config.model_fields) <= set(meanings(config)), config
            pending += [block for name in config.model_fields for block in config.blocks(name, None)]
    assert len(seen) > 10
