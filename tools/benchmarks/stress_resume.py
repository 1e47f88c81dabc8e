"""Kill a training run at random moments, and check that it ends in the same bits as an unkilled run.

Half of the kills (SIGKILL) happen while a checkpoint is being written.

    python tools/benchmarks/stress_resume.py --kills 50 --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from unclip.menagerie.shards import write_shards
from unclip.train.checkpoint import read_progress, step_folders
from unclip.train.config import RunConfig
from unclip.train.loop import train

ENDLESS = 10**6  # steps: how long the run is meant to be while it is killed
TRIED, AFTER = 12, 12  # steps by which a step's time is measured; steps made after the last kill
LONGEST_WRITE = 0.02  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0, help="of the loader")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        stress(Path(work), options.kills, options.workers, random.Random(options.seed))


def stress(work: Path, kills: int, workers: int, rng: random.Random) -> None:
    """Train with kills and, for the same number of steps, without; compare the checkpoints."""
    list(write_shards(work / "shards", count=40, size=64))
    shards, whole, run = f"{work}/shards/*.tar", work / "whole", work / "killed"
    start = lasted(spawn(tiny_run(shards, 1, workers), work / "first"))
    step = max(0.0, lasted(spawn(tiny_run(shards, 1 + TRIED, workers), work / "second")) - start) / TRIED
    endless = tiny_run(shards, ENDLESS, workers)
    writing, newest = 0, ""
    for kill in range(1, kills + 1):
        left = unfinished(run)
        process = spawn(endless, run)
        pause(rng.uniform(0, start + 6 * step), run)
        if rng.random() < 0.5 and wait_for_write(run, left, process):
            time.sleep(rng.uniform(0, LONGEST_WRITE))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(
                f"kill {kill}: the run had ended by itself, with exit code "
                f"{os.waitstatus_to_exitcode(status)}"
            )
        writing += bool(unfinished(run) - left)
        before, newest = newest, max((folder.name for folder in step_folders(run)), default="")
        if newest < before:
            sys.exit(f"kill {kill}: {before} is lost")
        print(f"kill {kill}: {newest or 'no checkpoint yet'}", file=sys.stderr)
    made = read_progress(step_folders(run)[-1]).step if newest else 0
    config = tiny_run(shards, made + AFTER, workers)
    for folder in (run, whole):
        lasted(spawn(config, folder))
    differ = differences(step_folders(whole)[-1], step_folders(run)[-1])
    if differ:
        sys.exit(f"after {kills} kills these files differ: {', '.join(differ)}")
    print(
        json.dumps(
            {"kills": kills, "while writing": writing, "workers": workers, "steps": made, "then": AFTER}
        )
    )
    print("the same bits as the run that was never killed")


def tiny_run(shards: str, steps: int, workers: int) -> RunConfig:
    """An upsampler with dropout and corrupted inputs, saved every third step."""
    tree: dict[str, Any] = {
        "name": "stress",
        "stage": {
            "kind": "upsampler",
            "size": 64,
            "crop_fraction": 0.25,
            "degradation": "bsr",
            "unet": {"channels": 32, "multipliers": [1], "depth": 1, "dropout": 0.1},
        },
        "data": {"shards": shards, "batch": 2, "workers": workers, "shuffle": 10},
        "optim": {"lr": 0.001, "warmup": 10},
        "train": {"steps": steps, "precision": "no", "save_every": 3, "sample_every": 0, "ema": [0.99, 0.9]},
    }
    return RunConfig.model_validate(tree)


def spawn(config: RunConfig, run: Path) -> int:
    """Train in a forked process, which inherits all imports and no random state."""
    process = os.fork()
    if not process:
        try:
            train(config, run, progress=False)
        except BaseException as error:
            print(f"the run failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return process


def lasted(process: int) -> float:
    """Wait for a successful exit. Returns the seconds."""
    started = time.monotonic()
    _, status = os.waitpid(process, 0)
    if status:
        sys.exit("a run could not end")
    return time.monotonic() - started


def pause(seconds: float, run: Path) -> None:
    """Sleep, but at most until the run has saved two checkpoints, since timings vary on a busy machine."""
    deadline, old = time.monotonic() + seconds, step_folders(run)
    while time.monotonic() < deadline and len(set(step_folders(run)) - set(old)) < 2:
        time.sleep(0.002)


def unfinished(run: Path) -> set[tuple[str, int]]:
    """Checkpoints being written, or left unfinished by a kill until the next run removes them."""
    found = set()
    for path in run.glob(".step-*.tmp"):
        with suppress(FileNotFoundError):  # renamed in the meantime
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def wait_for_write(run: Path, left: set[tuple[str, int]], process: int) -> bool:
    """Wait until a new checkpoint is being written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not os.waitid(
        os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        if unfinished(run) - left:
            return True
        time.sleep(0.0005)
    return False


def differences(a: Path, b: Path) -> list[str]:
    """Names of files that differ between two checkpoints."""
    names = {
        str(path.relative_to(folder)) for folder in (a, b) for path in folder.rglob("*") if path.is_file()
    }
    same = {name for name in names if all((folder / name).is_file() for folder in (a, b))}
    return sorted(
        name for name in names if name not in same or (a / name).read_bytes() != (b / name).read_bytes()
    )


if __name__ == "__main__":
    main()
