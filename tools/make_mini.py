"""Makes the bundled model `mini` from nothing: data, stages, bundle, figures, model card.

Unattended and resumable: every step is skipped when its result is there, and training resumes at its last checkpoint.

    python tools/make_mini.py --work runs/mini                  # everything
    python tools/make_mini.py --work runs/mini --minutes 60     # stop training after an hour; call again to go on
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "unclip/models/mini"
LIMIT = 32 * 2**20  # bytes

# name of the set: (pictures, their side in pixels, seed of the stream, siblings in a row)
SETS = {
    "train-64": (60_000, 64, 0, 1),
    "siblings-64": (30_000, 64, 5, 25),
    "train-256": (6_000, 256, 1, 1),
    "train-1024": (1_000, 1024, 2, 1),
}
STAGES = ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/mini", help="folder of data and runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that draw")
    parser.add_argument("--minutes", type=float, help="stop the training after this long, resumably")
    parser.add_argument("--further", action="store_true", help="start from the bundle as it is, and keep its CLIP")
    parser.add_argument("--count", type=int, default=512, help="held-out captions of the final figures")
    args = parser.parse_args()
    work: Path = args.work
    for name, (count, size, seed, siblings) in SETS.items():
        unclip("data", "menagerie", "--out", work / "data" / name, "--count", count, "--size", size, "--seed", seed,
               "--siblings", siblings, "--jobs", args.jobs)  # fmt: skip
    left = None if args.minutes is None else args.minutes * 60
    for stage in STAGES:
        overrides = [f"data.shards={work}/data/{data_of(stage)}/*.tar"]
        if stage in ("prior", "decoder"):
            overrides.append(f"clip={BUNDLE if args.further else work}/clip")
        if args.further:
            if stage == "clip":
                continue
            overrides.append(f"init={BUNDLE}/{stage}")
        left = train(stage, work / stage, overrides, left)
    # The bundle is replaced whole, so a CLIP that is kept is set aside first.
    if args.further:
        shutil.copytree(BUNDLE / "clip", work / "clip", dirs_exist_ok=True)
    runs = [work / stage for stage in STAGES]
    unclip("assemble", *runs, "-o", BUNDLE, "--name", "mini", "--half", "--world", "menagerie", "--overwrite")
    size = sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file())
    if size > LIMIT:
        sys.exit(f"the bundle has {size:,} bytes, {size - LIMIT:,} too many")
    print(f"bundle: {size / 2**20:.1f} MiB")
    unclip("evaluate", "compose", "--model", BUNDLE, "--count", args.count, "--out", work / "compose")
    subprocess.run(
        [sys.executable, ROOT / "tools/sharpness.py", "--model", BUNDLE, "--out", work / "sharpness.json"], check=True
    )
    subprocess.run([sys.executable, ROOT / "tools/model_card.py", "--work", work, "--bundle", BUNDLE], check=True)


def data_of(stage: str) -> str:
    """The sets a stage is trained on, as a pattern of folders."""
    sets = {"clip": "{train-64,siblings-64}", "upsampler-256": "train-256", "upsampler-1024": "train-1024"}
    return sets.get(stage, "train-64")


def train(stage: str, run: Path, overrides: list[str], left: float | None) -> float | None:
    """Trains until done or out of time; returns the time left."""
    import time

    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "unclip",
        "train",
        str(ROOT / f"configs/mini/{stage}.yaml"),
        "--out",
        str(run),
        *overrides,
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        code = process.wait(left)
    except subprocess.TimeoutExpired:
        process.terminate()  # the trainer writes a checkpoint and ends
        process.wait()
        sys.exit(f"out of time in {stage}; the same call goes on from its checkpoint")
    if code:
        sys.exit(code)
    return None if left is None else left - (time.monotonic() - started)


def unclip(*arguments: object) -> None:
    """Runs one command of this checkout."""
    subprocess.run([sys.executable, "-m", "unclip", *map(str, arguments)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
