"""Sweeps on a model of random weights, whose images still depend on the sampling options."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from unclip.cli import cli
from unclip.errors import DataError, RequestError
from unclip.evaluate.metrics import Estimate
from unclip.evaluate.report import Score
from unclip.evaluate.sweep import Point
from unclip.evaluate.sweep_plot import plot


def run(model: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli,
        ["evaluate", "sweep", "--model", str(model), "--count", "2", "--out", str(out), *arguments],
        catch_exceptions=False,
    )


def test_every_combination_is_a_row_and_a_row_of_pictures(tiny_model: Path, tmp_path: Path) -> None:
    result = run(tiny_model, tmp_path / "a", "--steps", "1,2", "--guidance", "1,3", "--resamples", "10")
    assert result.exit_code == 0, result.output
    with (tmp_path / "a/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["sampler"], row["steps"], row["guidance"]) for row in rows] == [
        ("dpmpp_2m", "1", "1"),
        ("dpmpp_2m", "1", "3"),
        ("dpmpp_2m", "2", "1"),
        ("dpmpp_2m", "2", "3"),
    ]
    assert len({row["cmmd"] for row in rows}) == 4  # each was sampled in its own way
    for row in rows:
        assert float(row["cmmd_low"]) <= float(row["cmmd"]) <= float(row["cmmd_high"])
        assert 0 <= float(row["named_low"]) <= float(row["named"]) <= float(row["named_high"]) <= 100
        assert float(row["seconds"]) > 0
    with Image.open(tmp_path / "a/sheet.png") as sheet, Image.open(tmp_path / "a/plot.png") as drawn:
        assert sheet.width < sheet.height and drawn.width > 600  # 2 captions, 4 points; two columns of panels
    assert len(result.output.splitlines()) == 4
    again = run(tiny_model, tmp_path / "b", "--stage", "prior", "--sampler", "ddim,ddpm", "--resamples", "0")
    assert again.exit_code == 0, again.output
    with (tmp_path / "b/sweep.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["sampler"], second["sampler"]) == ("ddim", "ddpm")
    assert first["cmmd_low"] == first["cmmd"] == first["cmmd_high"]  # no interval was asked for


def test_prompts_and_pictures_of_ones_own(tiny_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for i in range(3):
        Image.new("RGB", (80 + i, 70), (80 * i, 9, 9)).save(mine / f"{i}.png")
        (mine / f"{i}.txt").write_text(f"red {i}")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na cow\n")

    def columns(name: str, *arguments: str) -> list[dict[str, str]]:
        result = run(tiny_model, tmp_path / name, *arguments, "--resamples", "5")
        assert result.exit_code == 0, result.output
        assert {path.name for path in (tmp_path / name).iterdir()} == {"sweep.csv", "sheet.png", "plot.png"}
        with (tmp_path / name / "sweep.csv").open() as file:
            return list(csv.DictReader(file))

    (alone,) = columns("alone", "--prompts", str(tmp_path / "prompts.txt"))
    assert "clip" in alone and not alone.keys() & {"cmmd", "named", "whole"}  # nothing of the menagerie
    (pictures,) = columns("pictures", "--prompts", str(mine))
    (against,) = columns("against", "--prompts", str(tmp_path / "prompts.txt"), "--reference", str(mine))
    assert float(pictures["cmmd"]) > 0 and float(against["cmmd"]) > 0
    assert alone["clip"] == against["clip"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reference", "nowhere"], "--reference needs --prompts"),
        (["--stage", "painter"], "no stage 'painter'; tiny has prior, decoder, upsampler-256"),
        (["--steps", "1,two"], "--steps 1,two: separate the values with commas"),
        (["--sampler", "eulr"], "no sampler 'eulr'"),
        (["--guidance", "-1"], "greater than or equal to 0"),
        (["--count", "1"], "--count must be at least 2"),
    ],
)
def test_what_cannot_be_is_one_line(
    tiny_model: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        run(tiny_model, tmp_path, *arguments)


def test_prompts_that_are_not_there_are_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        run(tiny_model, tmp_path, "--prompts", "nowhere")
    (tmp_path / "one.txt").write_text("a cat\n")
    with pytest.raises(RequestError, match="at least 2 captions"):
        run(tiny_model, tmp_path, "--prompts", str(tmp_path / "one.txt"))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    some = Estimate(1.0, 0.5, 1.5)
    point = Point("ddim", 5, 1.0, {"cmmd": some, "clip": some}, {"named": Score(1, 2)}, 0.1)
    with pytest.raises(RequestError, match=r"unclip\[lecture\]"):
        plot([point], tmp_path / "plot.png")


def test_the_model_card_measures_what_it_paints(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, work = tmp_path / "bundle", tmp_path / "work"
    shutil.copytree(tiny_model, bundle)
    work.mkdir()
    (work / "sharpness.json").write_text("{}")
    tool = str(Path(__file__).parent.parent / "tools/recipes/model_card.py")

    def measure(count: int) -> None:
        monkeypatch.setattr(
            sys, "argv", [tool, "--work", str(work), "--bundle", str(bundle), "--measure", str(count)]
        )
        runpy.run_path(tool, run_name="__main__")

    measure(5)
    measure(4)  # anew, but the truth to the caption stays that of more pictures
    assert json.loads((work / "quality.json").read_text())["count"] == 4
    card = (bundle / "README.md").read_text(encoding="utf-8")
    rows = {row.split(" | ")[0]: row.split(" | ")[1:] for row in card.splitlines() if row.startswith("| ")}
    for name in ("CMMD", "KID", "precision", "recall", "CLIP score"):
        painted, rendered = rows[f"| {name}"]
        assert "[" in painted and "[" in rendered
    assert float(rows["| CMMD"][0].split()[0]) > float(
        rows["| CMMD"][1].split()[0]
    )  # random weights paint no animals
    assert (
        "`unclip evaluate compose --count 5 --seed 0`" in card and "| FID" not in card
    )  # 5 pictures, 32 features
