"""Text files of other people: encodings, marks, line ends, JSON, and names that are not UTF-8."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip.cli import cli, main
from unclip.cli.jobs import read_captions
from unclip.cli.serve_setup import api_keys
from unclip.config import read_yaml
from unclip.data.sample import BadSample, captions
from unclip.data.source import find_units
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.evaluate.pictures import read_prompts
from unclip.files import read_json, write_json
from unclip.images import save_picture
from unclip.text import decode, legible, lines, parse_json, read_text

CAFE = "a café, 狐"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_reader_of_text_reads_every_marked_encoding(encoding: str, end: str, tmp_path: Path) -> None:
    (path := tmp_path / "p.txt").write_bytes(f"{CAFE}{end}{end}a fox{end}".encode(encoding))
    assert read_prompts(str(path)) == read_captions([], path) == list(api_keys((), path)) == [CAFE, "a fox"]
    assert captions({"__key__": "a", "txt": CAFE.encode(encoding)}) == [CAFE]
    assert captions({"__key__": "a", "json": json.dumps({"caption": CAFE}).encode(encoding)}) == [CAFE]
    (table := tmp_path / "t.csv").write_bytes(f"path,caption{end}a.png,{CAFE!r}{end}".encode(encoding))
    assert [Path(entry.path).name for entry in find_units(str(table), 9)[0].entries] == ["a.png"]
    (config := tmp_path / "c.yaml").write_bytes(f"name: {CAFE}{end}".encode(encoding))
    assert read_yaml(config) == {"name": CAFE}
    config.write_bytes(json.dumps({"name": CAFE}, ensure_ascii=False).encode(encoding))
    assert read_json(config) == {"name": CAFE}


def test_captions_of_old_windows_are_read_and_binary_files_are_not() -> None:
    sample = {"__key__": "a", "txt": "a café – “quoted”".encode("cp1252")}
    assert captions(sample) == ["a café – “quoted”"]
    assert decode(b"\x81caf\xe9", legacy=True) == "\x81café"
    for data in (b"\x89PNG\r\n\x1a\n", b"a\0b", "a cat".encode("utf-16-le"), b"\xff\xfea"):
        with pytest.raises(ValueError, match="not .*text"):
            decode(data, legacy=True)


@pytest.mark.parametrize("data", ["a café".encode("latin-1"), b"a \0 cat", b"\xff\xfea"])
def test_a_file_that_is_no_text_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "p.txt").write_bytes(data)
    for read, error in (
        (read_prompts, RequestError),
        (lambda name: read_captions([], Path(name)), RequestError),
        (lambda name: api_keys((), Path(name)), RequestError),
        (lambda name: read_yaml(Path(name)), ConfigError),
        (lambda name: read_json(Path(name)), CheckpointError),
    ):
        with pytest.raises(error, match="cannot be read.*not .*text"):
            read(str(path))


@pytest.mark.parametrize("character", "\u2028\u2029\x85\v\f\x1c")
def test_only_line_ends_end_a_line(character: str, tmp_path: Path) -> None:
    (path := tmp_path / "p.txt").write_text(f"a fox{character}in snow\na cat\n", encoding="utf-8")
    assert read_captions([], path) == read_prompts(str(path)) == [f"a fox{character}in snow", "a cat"]
    assert lines("") == [] and lines("\n") == [""] and lines("a\r\n\rb") == ["a", "", "b"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2022, ["2022"]),
        (0.5, ["0.5"]),
        ("  a cat\n", ["a cat"]),
        (["a cat", None, 7, ""], ["a cat", "7"]),
        (None, ["of the text file"]),
        ([], ["of the text file"]),
        (float("nan"), ["of the text file"]),
        ("half \ud83d of a pair", ["half \ufffd of a pair"]),
    ],
)
@pytest.mark.parametrize("key", ["caption", "captions"])
def test_captions_of_the_json(key: str, value: object, expected: list[str]) -> None:
    sample = {"__key__": "a", "json": json.dumps({key: value}).encode(), "txt": b"of the text file"}
    assert captions(sample) == expected


@pytest.mark.parametrize("value", [True, {"en": "a cat"}, [["a cat"]], [{"raw": "a cat"}]])
@pytest.mark.parametrize("key", ["caption", "captions"])
def test_other_values_are_unreadable_captions_that_name_the_sample(key: str, value: object) -> None:
    sample = {"__key__": "one/a", "json": json.dumps({key: value}).encode(), "txt": b"of the text file"}
    with pytest.raises(BadSample, match="one/a: unreadable caption") as caught:
        captions(sample)
    assert caught.value.reason == "unreadable caption"


def test_deep_json_and_odd_yaml_are_errors_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)
    (path := tmp_path / "c").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        read_json(path)
    for text in ("[" * 5000, "a: 2022-99-99", "a: !!int ''", "a: !!timestamp x", "? [1]\n: 2", "a: \x1b"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not YAML") as caught:
            read_yaml(path)
        assert "\n" not in str(caught.value)


def test_names_that_are_not_utf_8_are_kept_in_json_and_legible_in_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "record.json", {"path": name, "prompt": CAFE})
    content = (tmp_path / "record.json").read_text(encoding="utf-8")
    assert CAFE in content and json.loads(content) == {"path": name, "prompt": CAFE}
    assert legible(f"狐/{name}") == "狐/café" and legible(CAFE) == CAFE and legible("\ud800") == "\ufffd"


def test_a_file_that_is_not_there_is_said_in_the_readers_own_error(tmp_path: Path) -> None:
    for error in (RequestError, ConfigError):
        with pytest.raises(error, match="nowhere: no such file"):
            read_text(tmp_path / "nowhere", error)
        with pytest.raises(error, match="cannot be read"):
            read_text(tmp_path, error)


def run(encoding: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and error of the command line on a terminal of some encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["unclip", *words])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as caught:
            main()
        for stream in streams:
            stream.flush()
    assert isinstance(caught.value.code, int)
    return caught.value.code, streams[0].buffer.getvalue(), streams[1].buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "cp437", "latin-1", "utf-16"])
def test_help_and_errors_print_on_any_terminal(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (("--help",), *((name, "--help") for name in cli.commands)):
        code, out, err = run(encoding, monkeypatch, *words)
        assert (code, err) == (0, b"") and "Usage: " in out.decode(encoding)
    code, _, err = run(encoding, monkeypatch, "info", str(tmp_path / "狐 é \udce9.png"))
    assert code == 1 and "no such file" in err.decode(encoding)


def test_a_name_that_is_not_utf_8_is_printed_as_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    _, _, err = run("utf-8", monkeypatch, "info", name)
    assert err == b"error: " + os.fsencode(name) + b": no such file\n"
    assert b"caf?.png: no such file" in run("cp1252", monkeypatch, "info", name)[2]


def test_json_loses_no_letter_on_any_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(Image.new("RGB", (8, 8)), path := tmp_path / "a.png", settings={"prompt": "狐 🦊"})
    for encoding in ("cp437", "utf-8"):
        _, out, _ = run(encoding, monkeypatch, "info", "--json", str(path))
        assert json.loads(out.decode(encoding)) == {"prompt": "狐 🦊"}
