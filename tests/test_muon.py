"""Muon, the optimizer of `optim.kind: muon`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same_bits
from torch import nn

from unclip.errors import ConfigError
from unclip.files import read_weights
from unclip.train.loop import train
from unclip.train.optimizers import Muon, orthogonalised


def test_singular_values_move_to_one() -> None:
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16), (16, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.max() < 1.3 and values.median() > 0.6


def test_the_update_is_torchs_muon() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 48, bias=False)
    start, gradients = layer.weight.detach().clone(), torch.randn(3, 48, 24)
    oracle = torch.optim.Muon(
        [layer.weight], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        oracle.step()
    expected = layer.weight.detach().clone()
    again = nn.Module()
    again.layer = nn.Linear(24, 48, bias=False)
    again.layer.weight.data.copy_(start)
    ours = Muon(again, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    for gradient in gradients:
        again.layer.weight.grad = gradient.clone()
        ours.step()
    # torch iterates in bfloat16.
    torch.testing.assert_close(again.layer.weight - start, expected - start, rtol=0.1, atol=1e-3)


def test_a_resumed_run_with_muon_has_the_same_bits(run_of: Any, tmp_path: Path) -> None:
    run = run_of("decoder", "optim.kind=muon")
    whole = train(run, tmp_path / "whole", progress=False)
    train(run_of("decoder", "optim.kind=muon", "train.steps=2"), tmp_path / "parts", progress=False)
    assert_same_bits(whole, train(run, tmp_path / "parts", progress=False))
    state = read_weights(whole / "state/optimizer.safetensors")
    names = {name.partition(".")[2] for name in state}
    assert names == {"step", "exp_avg", "exp_avg_sq", "momentum"}
    for kind, folder in (("adamw", "whole"), ("muon", "adamw")):
        if folder == "adamw":
            train(run_of("decoder", "train.steps=2"), tmp_path / folder, progress=False)
        with pytest.raises(ConfigError, match=r"cannot resume with another optim\.kind"):
            train(run_of("decoder", f"optim.kind={kind}", "train.steps=6"), tmp_path / folder, progress=False)
