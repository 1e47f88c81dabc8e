"""`unclip info` and `verify` of odd pictures and damaged runs: an answer, or one line."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from odd_files import BASE, with_chunk

from unclip.cli import cli
from unclip.errors import RequestError
from unclip.provenance.verify import verify
from unclip.serve.pictures import LENIENT, read_upload

ODD = {
    "text": with_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2 << 20))),
    "profile": with_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 << 20))),
    "deep": with_chunk(b"iTXt", b"unclip\0\0\0\0\0" + b"[" * 200_000),
    "nested": with_chunk(b"iTXt", b"unclip\0\0\0\0\0" + b'{"a":[' * 480 + b"]}" * 480),
    "number": with_chunk(b"iTXt", b'unclip\0\0\0\0\0{"a":' + b"1" * 5000 + b"}"),
    "exif": with_chunk(b"eXIf", b"garbage"),
    "empty": b"",
}


@pytest.mark.parametrize("name", ODD)
def test_info_and_verify_of_odd_files_are_one_line(name: str, tmp_path: Path) -> None:
    (path := tmp_path / f"{name}.png").write_bytes(ODD[name])
    for words in (["info", str(path)], ["info", "--json", str(path)], ["verify", str(path)]):
        done = CliRunner().invoke(cli, words)
        assert done.exception is None or isinstance(done.exception, RequestError), done.exc_info
        assert "\n" not in str(done.exception)
    with pytest.raises(RequestError, match=f"{name}.png"):
        CliRunner().invoke(cli, ["info", str(path)], catch_exceptions=False)


def test_verify_reads_pictures_whose_exif_is_damaged(tmp_path: Path) -> None:
    (path := tmp_path / "a.png").write_bytes(ODD["exif"])
    assert verify(path).watermark is not None
    assert read_upload(ODD["exif"], "image", LENIENT).size == BASE.size


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.yaml", "name: x\n"),
        ("run.yaml", "name: x\ntrain: 1\nstage: {kind: prior}\n"),
        ("run.yaml", "train: {steps: many}\n"),
        ("run.yaml", "["),
        ("metrics.jsonl", '[1]\n{"step": "x"}\n'),
        ("environment.json", "[]"),
        ("step-00000001/progress.json", "["),
    ],
)
def test_info_of_a_damaged_run_is_one_line(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x\nstage: {kind: prior}\ntrain: {steps: 10}\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    done = CliRunner().invoke(cli, ["info", str(tmp_path)])
    assert type(done.exception).__name__ in ("ConfigError", "CheckpointError")
    assert str(tmp_path) in str(done.exception) and "\n" not in str(done.exception)


def test_metrics_that_a_crash_cut_off_are_still_shown(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x\nstage: {kind: prior}\ntrain: {steps: 10}\n")
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 3, "loss": 1.5}\n{"step": 4, "lo\xe9\0\0\0\0')
    assert "step: 3 of 10\n" in CliRunner().invoke(cli, ["info", str(tmp_path)]).output
