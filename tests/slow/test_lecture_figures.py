"""Every command of docs/explanation/lecture.md makes its figure."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_lecture import COMMANDS, run


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    run(tmp_path, monkeypatch, "--model", str(tiny_model))
    assert len(list(tmp_path.glob("*.webp"))) == len(COMMANDS)
