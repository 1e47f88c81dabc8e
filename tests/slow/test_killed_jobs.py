"""A job of many prompts under `accelerate launch`, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_jobs import _prompts, generate, pictures, write_prompts  # noqa: F401

from unclip.cli.jobs import RECORD

LONG = 40  # prompts, for jobs that are killed on the way


def launch(model: Path, processes: int, out: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        "-m",
        "unclip",
        "generate",
        "--prompts-file",
        "prompts.txt",
        "-o",
        f"{out}/",
        "--model",
        str(model),
        "--size",
        "256",
        "-q",
    ]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": root}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_are_killed_and_go_on_as_one_would_have_drawn(tiny_model: Path, generate: Any) -> None:  # noqa: F811
    write_prompts(LONG)
    two = launch(tiny_model, 2, "two")
    deadline = time.monotonic() + 180
    while len(pictures("two")) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(two.pid, 9)
    two.wait()
    stamps = {path: path.stat().st_mtime_ns for path in Path("two").glob("*.png")}
    assert 0 < len(stamps) < LONG, "killed too late to show anything"
    two = launch(tiny_model, 2, "two")
    said, complaints = two.communicate(timeout=300)
    assert two.returncode == 0, complaints[-3000:]
    assert len(said.split()) == LONG - len(stamps) and "Traceback" not in complaints
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    seed = json.loads(Path("two", RECORD).read_text())["seed"]
    generate("--size", "256", "--seed", str(seed))
    one, both = pictures("out"), pictures("two")
    assert one.keys() == both.keys() and len(one) == LONG
    assert max(np.abs(one[name] - both[name]).max() for name in one) <= 1
