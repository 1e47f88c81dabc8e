"""Fixtures that several test files share: small, random, on the CPU, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from unclip.clip import Clip


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP of 0.3 M parameters, as the clip stage saves it. Never write into it."""
    from unclip.clip.openclip import Architecture  # slow to import, and half the tests need no CLIP
    from unclip.stages.clip import ClipConfig, ClipStage

    architecture = Architecture(
        embed=32, image_size=32, patch=8, vision_width=64, vision_depth=2, text_width=64, text_depth=2, head=32,
        merges=500, context=48,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClipStage(ClipConfig(name="tiny-clip", architecture=architecture)).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_folder: Path) -> Clip:
    """That CLIP, loaded. Shared: never move it."""
    from unclip.clip import load_clip

    return load_clip(str(tiny_clip_folder))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete random model that makes pictures of 64, 256 and 1024 pixels. Never write into it."""
    import tiny

    with torch.random.fork_rng():
        return tiny.build(tmp_path_factory.mktemp("model") / "tiny")
