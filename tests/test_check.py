"""Checking of shards: each fault is found and counted, and valid samples are measured."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.data.check import check, spread
from unclip.data.tar import find_shards, write_shard
from unclip.errors import RequestError


def png(width: int, height: int, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> str:
    write_shard(
        tmp_path / "a.tar",
        [
            {"__key__": "0", "png": png(80, 64), "txt": b"four"},
            {"__key__": "1", "png": png(80, 64), "json": b'{"captions": ["one", "three"]}'},
            {"__key__": "2", "png": png(80, 64)[:60], "txt": b"cut off"},
            {"__key__": "3", "png": png(32, 32)},
            {"__key__": "../../4", "png": png(32, 32), "txt": b"elsewhere"},
        ],
    )
    write_shard(tmp_path / "b.tar", [{"__key__": "5", "png": png(100, 200, "blue"), "txt": b"six six"}])
    (tmp_path / "c.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:1000])
    return str(tmp_path / "*.tar")


def test_every_fault_is_counted_by_shard_and_the_rest_measured(shards: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check(find_shards(shards), lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    a, c = str(tmp_path / "a.tar"), str(tmp_path / "c.tar")
    assert report.to_dict() == {
        "shards": 3,
        "samples": 3,
        "unreadable": [
            {"shard": a, "reason": "no caption", "samples": 1},
            {"shard": a, "reason": "unreadable picture", "samples": 1},
            {"shard": a, "reason": "unsafe name", "samples": 1},
            {"shard": c, "reason": "shard is damaged", "samples": 1},
        ],
        "shorter_side": {"least": 64, "median": 64, "most": 100},
        "caption_characters": {"least": 3, "median": 4.5, "most": 7},
        "captions_per_sample": {"least": 1, "median": 1, "most": 2},
        "duplicates": 1,
    }
    assert f"{a}: sample 2: unreadable picture" in report.table() and "4 cannot be used" in report.table()


def test_spread_of_nothing_is_nothing() -> None:
    assert spread(Counter()) == {}
    assert spread(Counter({3: 1, 1: 2})) == {"least": 1, "median": 1, "most": 3}


def test_the_command_prints_a_table_or_json(shards: str) -> None:
    table = CliRunner().invoke(cli, ["data", "check", shards])
    assert table.exit_code == 0 and table.output.startswith("3 samples in 3 shards, 1 duplicates\n")
    done = CliRunner().invoke(cli, ["data", "check", shards, "--json"])
    assert json.loads(done.output)["samples"] == 3


def test_the_command_fails_where_nothing_can_be_used(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [{"__key__": "0", "txt": b"no picture"}])
    done = CliRunner().invoke(cli, ["data", "check", str(tmp_path / "a.tar")])
    assert isinstance(done.exception, RequestError) and "no picture" in done.output


def test_captions_that_are_too_long_for_a_clip_are_counted_by_its_tokens(
    tmp_path: Path, tiny_clip_folder: Path
) -> None:
    texts = ["a cat", "a cat and " * 30, "狐" * 20]  # the last one is short in letters alone
    about = json.dumps({"captions": texts}).encode()
    write_shard(tmp_path / "a.tar", [{"__key__": "0", "png": png(64, 64), "json": about}])
    command = ["data", "check", str(tmp_path / "a.tar"), "--clip", str(tiny_clip_folder)]
    assert "2 of 3 captions are longer than the CLIP's 48 tokens" in CliRunner().invoke(cli, command).output
    told = json.loads(CliRunner().invoke(cli, [*command, "--json"]).output)
    assert (told["clip_context"], told["captions_over_context"]) == (48, 2)
    assert "tokens" not in CliRunner().invoke(cli, command[:3]).output
