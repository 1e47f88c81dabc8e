"""docs/explanation/lecture.md against the code: names, quoted lines and commands of figures."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unclip.diffusion.schedule import Schedule

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/explanation/lecture.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`([^`]+)` · \[`([\w.]+)`\]\(\.\./\.\./([\w./]+)\)", PAGE)
COMMANDS = re.findall(r"`python tools/figures/lecture\.py --only ([\w-]+)`", PAGE)


def resolve(dotted: str) -> Any:
    """The object of that name, found by importing what can be and reading the rest."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return inspect.unwrap(found)  # of no_grad
    raise AssertionError(dotted)


def test_the_page_quotes_something() -> None:
    assert len(QUOTED) > 25 and len(QUOTED) == PAGE.count("](../../unclip/")


@pytest.mark.parametrize(("line", "name", "path"), QUOTED)
def test_each_formula_is_the_line_of_code_it_says(line: str, name: str, path: str) -> None:
    found = resolve(name)
    assert Path(inspect.getfile(found)) == ROOT / path
    assert line in [code.strip() for code in inspect.getsource(found).splitlines()]


def test_every_figure_has_its_command_and_every_command_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools/figures")
    tool = runpy.run_path(str(ROOT / "tools/figures/lecture.py"))
    assert sorted(set(COMMANDS)) == sorted(tool["FIGURES"])
    assert sorted(re.findall(r"images/lecture/([\w-]+)\.webp", PAGE)) == sorted(tool["FIGURES"])


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools/figures")
    monkeypatch.setattr(sys, "argv", ["lecture.py", "--training", "2", "--out", str(tmp_path), *arguments])
    runpy.run_path(str(ROOT / "tools/figures/lecture.py"), run_name="__main__")


def test_the_mixs_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, monkeypatch, "--only", "mix")
    with Image.open(tmp_path / "mix.webp") as figure:
        assert figure.width > 200
    assert "keeps 0.710 of the norm, slerp 1.001" in capsys.readouterr().out
    assert "keeps 0.710 of the norm, slerp 1.001" in " ".join(PAGE.split())


def test_the_slides_factor_of_the_error_is_beta() -> None:
    tables = Schedule.named("linear")
    (alpha, sigma), (alpha_s, _) = tables.at(500), tables.at(499)
    beta = 1 - (alpha / alpha_s) ** 2
    x0, eps = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-1.2, dtype=torch.float64)
    x = alpha * x0 + sigma * eps
    q = tables.posterior(500, 499)
    mean = q.x_weight * x + q.x0_weight * x0
    torch.testing.assert_close(mean, (x - beta / sigma * eps) / (1 - beta) ** 0.5)
    assert ((x - (1 - beta) / sigma * eps) / (1 - beta) ** 0.5 - mean).abs() > 0.5  # as the slide has it
