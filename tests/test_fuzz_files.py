"""A short run of the fuzz of files, arguments and environments; `tools/benchmarks/fuzz_files.py` is the long one.

Pictures and EXIF are mutated in test_mutated_pictures.py.
"""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import command_cases
import file_cases
import fuzz_files
import pytest

from unclip.cli import cli
from unclip.data.sample import BadSample, label
from unclip.errors import RequestError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's; pytest undoes our own filter


@pytest.mark.parametrize(
    ("area", "count"),
    [("PNG chunks", 80), ("captions", 500), ("tables", 150), ("tars", 60), ("configs", 100)],
)
def test_odd_files_are_read_or_refused_in_one_line(area: str, count: int) -> None:
    outcomes, faults = fuzz_files.run(file_cases.AREAS[area], count, 0)
    assert not faults, faults[0]
    assert outcomes["read"] and outcomes["refused"]  # the cases are neither all sound nor all hopeless


def test_odd_arguments_are_obeyed_or_refused_in_one_line(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commands = partial(command_cases.arguments, model=str(tiny_model))
    outcomes, faults = fuzz_files.run(commands, 30, 0)
    assert not faults, faults[0]
    assert outcomes["refused"]


def test_odd_environments_change_nothing(tmp_path: Path) -> None:
    _, faults = fuzz_files.run(command_cases.environment, 4, 0)
    assert not faults, faults[0]


def test_an_output_on_a_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "unclip", "info"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


def test_the_fuzz_finds_faults() -> None:
    def area(rng: random.Random, folder: Path) -> str:
        if rng.random() < 0.5:
            raise KeyError("escaped")
        return "read"

    outcomes, faults = fuzz_files.run(area, 50, 0)
    assert len(faults) == outcomes["FAULT"] > 10 and "escaped" in faults[0]


def test_a_refused_label_is_not_repeated_in_full() -> None:
    with pytest.raises(BadSample) as caught:
        label({"__key__": "a", "json": b'{"label": "' + b"a" * 5000 + b'"}'})
    assert len(str(caught.value)) < 200


def test_a_menagerie_without_end_is_refused(tmp_path: Path) -> None:
    command = ["data", "menagerie", "--out", str(tmp_path / "out"), "--count", "9" * 30]
    with pytest.raises(RequestError, match="--count must be at most 100,000,000"):
        cli.main(command, standalone_mode=False)
    assert not (tmp_path / "out").exists()
