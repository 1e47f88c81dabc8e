"""The server under strain, as tools/benchmarks/strain_serve.py measures it, with a tiny model and small counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs unclip[serve]")


@pytest.fixture
def strain(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools/benchmarks")
    return importlib.import_module("strain_serve")


@pytest.mark.slow
def test_slow_connections_hinder_nobody_and_are_forgotten(strain: Any, tiny_model: Path) -> None:
    assert strain.slow_connections(strain.Load(str(tiny_model), 2), 100, 3)


@pytest.mark.slow
def test_polite_clients_wait_little_longer_beside_a_greedy_one(strain: Any, tiny_model: Path) -> None:
    assert strain.greedy_client(strain.Load(str(tiny_model), 2), 10, 2)


@pytest.mark.slow
def test_nothing_is_left_of_servers_that_were_told_to_end(strain: Any, tiny_model: Path) -> None:
    assert strain.starts(strain.Load(str(tiny_model), 2), 3)
