"""Fixtures that several test files share: small, random, on the CPU, offline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unclip.clip import Clip, load_clip
from unclip.clip.openclip import Architecture
from unclip.stages.clip import ClipConfig, ClipStage

TINY_CLIP = Architecture(
    embed=32, image_size=32, patch=8, vision_width=64, vision_depth=2, text_width=64, text_depth=2, head=32,
    merges=500, context=48,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP of 0.3 M parameters, as the clip stage saves it. Never write into it."""
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClipStage(ClipConfig(name="tiny-clip", architecture=TINY_CLIP)).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_folder: Path) -> Clip:
    """That CLIP, loaded. Shared: never move it."""
    return load_clip(str(tiny_clip_folder))
