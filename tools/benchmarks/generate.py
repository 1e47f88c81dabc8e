"""Latency, CPU time and peak memory of commands, each in a fresh process, as a table.

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


def measure(arguments: list[str], runs: int) -> tuple[float, float, float, float]:
    """Median and largest wall-clock seconds, median CPU seconds, and peak MiB, of `python -m unclip …`."""
    seconds, cpu, peak = [], [], 0
    for _ in range(runs):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "unclip", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        cpu.append(usage.ru_utime + usage.ru_stime)
        if status:
            raise SystemExit(f"unclip {' '.join(arguments)}: failed")
        peak = max(peak, usage.ru_maxrss)
    mib = peak / (1024 if sys.platform == "linux" else 1024**2)
    return statistics.median(seconds), max(seconds), statistics.median(cpu), mib


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="mini", help="model of the pictures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "{seed}.png")
        prompt = "a shiba inu wearing a beret"
        ending = ["--model", args.model, "-o", out, "--overwrite"]
        cases = {
            "unclip --help": ["--help"],
            "generate, 64 px": ["generate", prompt, "--size", "64", *ending],
            "generate, 256 px": ["generate", prompt, "--size", "256", *ending],
            "generate, 1024 px": ["generate", prompt, *ending],
        }
        print(
            f"| command | median s | largest s | CPU s | peak MiB |\n| --- | --- | --- | --- | --- |   "
            f"({os.cpu_count()} cores)"
        )
        for name, arguments in cases.items():
            median, largest, cpu, peak = measure(arguments, args.runs)
            print(f"| {name} | {median:.2f} | {largest:.2f} | {cpu:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
