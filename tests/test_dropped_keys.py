"""Keys that were dropped: files that were saved with them load, and values that had an effect are warned of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unclip.nn.unet import UNetConfig
from unclip.stages import load_stage
from unclip.stages.decoder import Decoder, DecoderConfig
from unclip.train.config import read_run

CONFIG = Path(__file__).parent.parent / "configs/mini/decoder.yaml"


@pytest.mark.parametrize(
    ("perceptual", "contrast", "shift", "warned"),
    [(0.0, 0.0, 1.0, []), (0.5, 0.05, 2.0, ["perceptual: 0.5", "contrast: 0.05", "timestep_shift: 2.0"])],
)
def test_dropped_keys_are_ignored(
    perceptual: float,
    contrast: float,
    shift: float,
    warned: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    why = " is ignored; the key was dropped, since it gained nothing in its trial (docs/benchmarks.md)"
    unet = UNetConfig(channels=32, multipliers=(1,), depth=1)
    config = DecoderConfig(size=16, embed=8, token_width=12, context_width=16, unet=unet)
    Decoder(config).save(tmp_path)
    path = tmp_path / "config.json"
    tree = json.loads(path.read_text())
    tree["perceptual"] = perceptual
    tree["diffusion"] |= {"contrast": contrast, "timestep_shift": shift}
    path.write_text(json.dumps(tree))
    assert load_stage(tmp_path).config == config
    assert caplog.messages == [key + why for key in warned]
    caplog.clear()
    dropped = {"perceptual": perceptual, "diffusion.contrast": contrast, "diffusion.timestep_shift": shift}
    assert read_run(CONFIG, [f"stage.{key}={value}" for key, value in dropped.items()]) == read_run(CONFIG)
    assert caplog.messages == [key + why for key in warned]
