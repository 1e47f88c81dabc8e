"""What a run says about its data before it trains."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import tree

from unclip.data.tar import write_shard
from unclip.train.config import RunConfig
from unclip.train.loop import train
from unclip.train.notices import shorter_sides


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of ten pictures: four of 48 pixels and one that is damaged, the others of 64."""
    for shard in range(2):
        samples = []
        for i in range(10):
            file = io.BytesIO()
            Image.new("RGB", (80, 48 if i < 2 else 64), (i, shard, 0)).save(file, "PNG")
            content = file.getvalue() if i < 9 or shard else b"broken"
            samples.append({"__key__": f"{i}", "png": content, "txt": b"a cat"})
        write_shard(tmp_path / f"data/{shard}.tar", samples)
    return tmp_path / "data"


def test_pictures_below_an_upsamplers_size_and_other_data_are_warned_of(
    shards: Path, tmp_path: Path, tiny_clip_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(pattern: str, steps: int) -> str:
        caplog.clear()
        config = tree("upsampler", str(shards / pattern), tiny_clip_folder, steps=steps, save_every=1)
        train(RunConfig.model_validate(config), tmp_path / "run", progress=False)
        return caplog.text

    said = run("*.tar", 1)
    assert "of 19 pictures looked at, 21% are smaller than the stage's 64 pixels" in said
    assert "data.shards was" not in said
    assert "data.shards was" not in run("*.tar", 2)
    assert f"data.shards was {shards}/*.tar, is {shards}/1.tar" in run("1.tar", 3)


def test_sides_are_read_from_shards_all_over_the_set(tmp_path: Path) -> None:
    for i in range(20):
        file = io.BytesIO()
        Image.new("RGB", (100 + i, 300)).save(file, "PNG")
        write_shard(tmp_path / f"{i:02d}.tar", [{"__key__": "a", "png": file.getvalue()}])
    sides = shorter_sides([str(tmp_path / f"{i:02d}.tar") for i in range(20)])
    assert sides == list(range(100, 120, 3))
    assert shorter_sides([str(tmp_path / "gone.tar")]) == []
    for i in range(40):
        Image.new("RGB", (300, 50 + i)).save(tmp_path / f"{i}.png")
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / f"{i}.png").rename(tmp_path / f"pictures/{i}.png")
    assert len(set(shorter_sides([str(tmp_path / "pictures")]))) == 32
