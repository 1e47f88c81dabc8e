"""Fixtures that several test files share: small, random, on the CPU, offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from unclip.clip import Clip
    from unclip.train.config import RunConfig

# One thread: the networks are tiny, and pytest-xdist gives each core a process. The processes that tests
# start inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP of 0.3 M parameters, as the clip stage saves it. Never write into it."""
    from unclip.clip.openclip import Architecture  # slow to import, and half the tests need no CLIP
    from unclip.stages.clip import ClipConfig, ClipStage

    architecture = Architecture(
        embed=32,
        image_size=32,
        patch=8,
        vision_width=64,
        vision_depth=2,
        text_width=64,
        text_depth=2,
        head=32,
        merges=500,
        context=48,
    )
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClipStage(ClipConfig(name="tiny-clip", architecture=architecture)).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_folder: Path) -> Clip:
    """That CLIP, loaded. Shared: never move it."""
    from unclip.models.resolve import load_clip

    return load_clip(str(tiny_clip_folder))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete random model that makes pictures of 64, 256 and 1024 pixels. Never write into it."""
    import tiny

    with torch.random.fork_rng():
        return tiny.build(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def train_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty menagerie pictures of 64 pixels."""
    from unclip.menagerie.shards import write_shards

    folder = tmp_path_factory.mktemp("train-shards")
    list(write_shards(folder, count=40, size=64))
    return str(folder / "*.tar")


@pytest.fixture
def run_of(tmp_path: Path, train_shards: str, tiny_clip_folder: Path) -> Callable[..., RunConfig]:
    """Makes a stage's tiny run of its kind and overrides."""
    import tiny_runs
    import yaml

    from unclip.train.config import read_run

    def read(kind: str, *overrides: str) -> RunConfig:
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(tiny_runs.tree(kind, train_shards, tiny_clip_folder)))
        return read_run(path, overrides)

    return read
