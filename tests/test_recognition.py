"""Recognition by CLIP: zero-shot by names, and linear probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from unclip.cli import cli
from unclip.clip import Clip, Text
from unclip.errors import DataError, RequestError
from unclip.evaluate.pictures import PictureFiles
from unclip.evaluate.recognition import name_embeddings, probe, zeroshot
from unclip.menagerie.probe import probe_scenes, read_scenes
from unclip.menagerie.scene import HELD_OUT, VALUES, sample

NAMES = ["ant", "bee", "cow", "dog", "elk", "fox", "gnu"]


class Dictionary:
    """A text tower to which a caption is the sum of its words' axes: one for each name, and a loud one for
    "loud".
    """

    def encode_text(self, captions: list[str]) -> Text:
        axes = [
            [float(name in said.split()) for name in NAMES] + [9.0 * ("loud" in said)] for said in captions
        ]
        embed, ids = torch.tensor(axes), torch.zeros(len(captions), 1)
        return Text(captions, ids, ids.bool(), embed, embed[:, None])


@pytest.fixture
def dictionary() -> Clip:
    made: Any = Dictionary()
    return made


def axis(*indices: int) -> Tensor:
    return torch.eye(len(NAMES) + 1)[list(indices)]


def test_the_nearest_name_wins_and_top_five_counts_the_others(dictionary: Clip) -> None:
    features = axis(0, 1, 2, 3, 4, 5, 6)
    features[0] += (
        2 * axis(1)[0] - 0.5 * axis(5)[0] - 0.6 * axis(6)[0]
    )  # the ant looks like a bee: second choice
    features[6] = -axis(6)[0] + 0.1  # the gnu like anything but a gnu
    found = zeroshot(features, NAMES, dictionary)
    assert found.top[1].right == 5 and found.top[5].right == 6 and found.top[1].of == 7
    assert [name for name, score in found.classes.items() if not score.right] == ["ant", "gnu"]
    assert found.chance == {1: 1 / 7, 5: 5 / 7} and "(chance 14.3 %)" in found.table()
    assert found.warnings == ("1 pictures of a class; below 20 its interval is wide",)
    assert json.loads(json.dumps(found.to_dict()))["top"]["1"]["right"] == 5


def test_an_ensemble_is_the_mean_of_unit_embeddings(dictionary: Clip) -> None:
    found = name_embeddings(dictionary, ["ant"], ["{}", "loud {}"])[0]
    one, other = axis(0)[0], axis(0)[0] + 9 * axis(7)[0]
    mean = (one + other / other.norm()) / 2  # the loud one's length does not count
    torch.testing.assert_close(found, mean / mean.norm())
    with pytest.raises(RequestError, match="has no {} where the class goes"):
        name_embeddings(dictionary, ["ant"], ["a photo"])


def test_a_probe_reads_what_is_linear_and_not_what_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    linear = ["yes" if v > 0 else "no" for v in (x[:, 1] - 2 * x[:, 4]).tolist()]
    parity = ["odd" if v < 0 else "even" for v in (x[:, 0] * x[:, 1]).tolist()]
    read = probe(x[:300], linear[:300], x[300:], linear[300:])
    assert read.top[1].rate is not None and read.top[1].rate > 0.95 and list(read.top) == [1]
    missed = probe(x[:300], parity[:300], x[300:], parity[300:])
    assert missed.top[1].rate is not None and missed.top[1].rate < 0.65


def test_scenes_are_probed_by_attribute_and_held_out_pairs_apart() -> None:
    """Features that say everything, but call every hat of a held-out pair by another name."""
    trained = [sample(0, i).attributes() for i in range(500)]
    tested = [sample(1, i, held_out=i % 2 == 0).attributes() for i in range(40)]
    axes = [(key, value) for key, values in VALUES.items() for value in (*values, None)]

    def features(scenes: list[dict[str, str | None]]) -> Tensor:
        rows = []
        for scene in scenes:
            hidden = (scene["subject"], scene["headwear"]) in HELD_OUT
            seen = (
                {**scene, "headwear": "cap" if scene["headwear"] != "cap" else "crown"} if hidden else scene
            )
            rows.append([float(seen[key] == value) for key, value in axes])
        return torch.tensor(rows)

    found = probe_scenes(features(trained), trained, features(tested), tested)
    assert list(found.scores) == list(VALUES)
    apart = found.scores["headwear"]
    assert apart["training pairs"].of == apart["held-out pairs"].of == 20
    assert apart["training pairs"].rate == 1 and apart["held-out pairs"].rate == 0
    assert all(
        score.rate == 1 for key in ("subject", "garment", "style") for score in found.scores[key].values()
    )
    assert json.loads(json.dumps(found.to_dict()))["attributes"]["headwear"]["held-out pairs"]["right"] == 0
    assert "| headwear | 100.0 %" in found.markdown() and found.table().splitlines()[0].startswith(
        "attribute"
    )


def test_what_cannot_be_recognised_is_said(dictionary: Clip) -> None:
    with pytest.raises(RequestError, match=r"all of one class \(ant\)"):
        zeroshot(axis(0, 0), ["ant", "ant"], dictionary)
    with pytest.raises(RequestError, match="2 pictures and 1 labels"):
        zeroshot(axis(0, 1), ["ant"], dictionary)
    with pytest.raises(RequestError, match="'cow' is among the test classes"):
        probe(axis(0, 1), ["ant", "bee"], axis(0, 2), ["ant", "cow"])


def test_classes_are_folders_or_what_the_json_says(train_shards: str, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), name).save(tmp_path / "p" / name / "1.png")
    assert PictureFiles.at(str(tmp_path / "p")).labels(None) == ["blue", "red"]
    with pytest.raises(DataError, match="--label names the key"):
        PictureFiles.at(train_shards).labels(None)
    with pytest.raises(DataError, match=r"its JSON has no 'scene\.colour'"):
        PictureFiles.at(train_shards).labels("scene.colour")
    arguments = ["--label", "scene.subject", "--json", "--no-cache", "--device", "cpu"]
    done = CliRunner().invoke(cli, ["evaluate", "zeroshot", train_shards, *arguments], catch_exceptions=False)
    assert json.loads(done.stdout)["top"]["1"]["rate"] > 0.7  # mini's CLIP knows the menagerie
    arguments += ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(
        cli, ["evaluate", "probe", train_shards, train_shards, *arguments], catch_exceptions=False
    )
    told = json.loads(done.stdout)
    assert told["top"]["1"]["rate"] > 0.9
    assert json.loads((tmp_path / "out/report.json").read_text()) == told
    assert "| top 1 | " in (tmp_path / "out/report.md").read_text()
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width > 64
    assert all(scene.keys() >= VALUES.keys() for scene in read_scenes(PictureFiles.at(train_shards)))
    with pytest.raises(DataError, match="its JSON has no 'scene'"):
        read_scenes(PictureFiles.at(str(tmp_path / "p")))
