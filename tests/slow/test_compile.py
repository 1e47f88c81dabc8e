"""torch.compile changes results by rounding only. Needs a C++ compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_train_keys import distance
from tiny_runs import everything

from unclip.train.loop import train


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "prior"])
def test_compiled_blocks_compute_the_same(kind: str, run_of: Any, tmp_path: Path) -> None:
    plain = train(run_of(kind, "train.steps=2"), tmp_path / "plain", progress=False)
    compiled = train(
        run_of(kind, "train.steps=2", "train.compile=true"), tmp_path / "compiled", progress=False
    )
    assert everything(plain).keys() == everything(compiled).keys()
    assert (
        distance(plain, compiled) <= 2 * 2 * 0.001
    )  # a step's length, where rounding turned a gradient's sign
