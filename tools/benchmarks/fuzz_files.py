"""Read damaged files, and run commands with odd arguments and in odd environments.

    python tools/benchmarks/fuzz_files.py --count 2000

Each case must end right, or in an error of one line with a non-zero exit status, leave nothing half-written,
and stay below the bounds of memory and time. Prints the outcomes per area; exits with 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from command_cases import arguments, environment
from file_cases import AREAS

MEMORY = 2 << 30  # bytes that an area may add to the process's peak
SECONDS = 20  # of one case

Area = Callable[[random.Random, Path], str]


class TooSlow(BaseException):
    """A case ran longer than the bound."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def run(area: Area, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run cases of an area; case i has the seed `seed` + i. Returns the outcomes, and the faults' traces."""
    outcomes: Counter[str] = Counter()
    faults = []
    before = _peak()
    for i in range(seed, seed + count):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            signal.signal(signal.SIGALRM, _alarm)
            signal.alarm(SECONDS)
            try:
                outcomes[area(random.Random(i), Path(folder))] += 1
            except (Exception, TooSlow) as error:
                outcomes["FAULT"] += 1
                faults.append(f"case {i}: {''.join(traceback.format_exception(error))}")
            finally:
                signal.alarm(0)
    if _peak() - before > MEMORY:
        outcomes["FAULT"] += 1
        faults.append(f"memory grew by {(_peak() - before) >> 20} MiB")
    return outcomes, faults


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _small_model(folder: Path) -> Path:
    """The random model of the tests."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    build: Callable[[Path], Path] = importlib.import_module("tiny").build
    return build(folder / "tiny")


def main() -> None:
    commands = partial(arguments, model=str(_small_model(Path(tempfile.mkdtemp()))))
    areas: dict[str, Area] = {**AREAS, "arguments": commands, "environment": environment}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="cases per area; environment has a 20th")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--area", action="append", choices=areas, help="only these; default: all")
    options = parser.parse_args()
    # libtiff and libpng write to the descriptor itself
    errors = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    bad = 0
    for name in options.area or areas:
        count = options.count if name != "environment" else max(1, options.count // 20)
        started = time.perf_counter()
        outcomes, faults = run(areas[name], count, options.seed)
        bad += len(faults)
        told = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(outcomes.items()))
        print(f"{name:12} {count:6,} cases in {time.perf_counter() - started:4.0f} s: {told}", flush=True)
        for fault in faults[:20]:
            print(fault, file=errors, flush=True)
    print(f"{bad} faults; peak memory {_peak() >> 20:,} MiB")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
