"""`--size` of the commands: rectangles, their sheets and stages, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.errors import RequestError

FEW = ("--steps", "2", "--seed", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((96, 64)).convert("RGB").save("in.png")


def run(model: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, *FEW, "--model", str(model)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def size(path: str) -> tuple[int, int]:
    return Image.open(path).size


def test_a_picture_its_stages_and_its_settings_have_the_shape(tiny_model: Path) -> None:
    said = run(
        tiny_model, "generate", "a cat", "--size", "384x256", "--save-stages", "-o", "cat.png", "--json"
    )
    assert size("cat.png") == (384, 256) and size("cat-64.png") == (96, 64)
    assert json.loads(said)["settings"]["size"] == "384x256"


def test_sheets_strips_and_animations_have_the_shape(tiny_model: Path) -> None:
    run(tiny_model, "generate", "a cat", "-n", "2", "--grid", "--size", "96x64", "-o", "sheet.png")
    assert size("sheet.png") == (96, 2 * 64 + 4)
    extra = ("--strip", "strip.png", "--animation", "way.gif", "-o", "frames/")
    run(tiny_model, "interpolate", "in.png", "a cat", "--frames", "2", "--size", "96x64", *extra)
    assert size("strip.png") == (2 * 96 + 4, 64) and size("way.gif") == (96, 64)


def test_an_edit_takes_the_pictures_shape(tiny_model: Path) -> None:
    run(tiny_model, "edit", "in.png", "a fox", "--strength", "0.5", "--repeats", "1", "-o", "out.png")
    assert size("out.png") == (96, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a cat", "--size", "1000x768"], "--size 1000x768: tiny makes squares of 64, 256, 1024"),
        (["generate", "a cat", "--size", "wide"], "--size wide: write WIDTHxHEIGHT in pixels"),
        (["generate", "a cat", "--size", "0x64"], "--size 0x64: tiny makes pictures of 64, 256, 1024"),
        (["vary", "in.png", "--size", "64x"], "--size 64x: write WIDTHxHEIGHT"),
        (["edit", "in.png", "a fox", "--strength", "0.5", "--size", "64"], "crop it to the shape of 64 × 64"),
        (["outpaint", "in.png", "a fox", "--to", "1x2x3"], "--to 1x2x3: write WIDTHxHEIGHT"),
    ],
)
def test_what_is_no_size_is_refused(tiny_model: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, [*arguments, "--model", str(tiny_model)])
    assert isinstance(result.exception, RequestError) and message in str(result.exception)


def test_the_shell_completes_sizes() -> None:
    found = ShellComplete(cli, {}, "unclip", "_UNCLIP_COMPLETE").get_completions(["generate", "--size"], "10")
    assert {"1024", "1024x768", "1024x1536"} <= {one.value for one in found}


def test_info_lists_the_sizes(tiny_model: Path) -> None:
    told = CliRunner().invoke(cli, ["info", str(tiny_model)]).output
    assert "  256: 336x224, 320x240, 368x208 … in steps of 16" in told
    assert "sizes" not in CliRunner().invoke(cli, ["info", str(tiny_model / "prior")]).output
