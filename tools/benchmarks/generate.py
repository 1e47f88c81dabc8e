"""Latency and peak memory of commands, each in a fresh process, as a table.

python tools/benchmarks/generate.py --runs 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(arguments: list[str], runs: int) -> tuple[float, float, float]:
    """Median and largest wall-clock seconds, and peak memory in MiB, of `python -m unclip …`."""
    seconds, peak = [], 0
    for _ in range(runs):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "unclip", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        if status:
            raise SystemExit(f"unclip {' '.join(arguments)}: failed")
        peak = max(peak, usage.ru_maxrss)
    return statistics.median(seconds), max(seconds), peak / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "{seed}.png")
        prompt = "a shiba inu wearing a beret"
        cases = {
            "unclip --help": ["--help"],
            "generate, 64 px": ["generate", prompt, "--size", "64", "-o", out, "--overwrite"],
            "generate, 256 px": ["generate", prompt, "--size", "256", "-o", out, "--overwrite"],
            "generate, 1024 px": ["generate", prompt, "-o", out, "--overwrite"],
        }
        print(
            f"| command | median s | largest s | peak MiB |\n| --- | --- | --- | --- |   ({os.cpu_count()} "
            "cores)"
        )
        for name, arguments in cases.items():
            median, largest, peak = measure(arguments, args.runs)
            print(f"| {name} | {median:.2f} | {largest:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
