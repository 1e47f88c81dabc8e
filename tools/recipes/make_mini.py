"""Makes the bundled model `mini` from nothing: data, stages, bundle, figures, model card.

Unattended and resumable: every step is skipped when its result is there, and a stage's training resumes at
its last checkpoint (only the words, a quarter of an hour, start again).

    python tools/recipes/make_mini.py --work runs/mini                  # everything
    python tools/recipes/make_mini.py --work runs/mini --minutes 60     # stop training after an hour; call
    again to go on python tools/recipes/make_mini.py --work runs/trial --trial         # every step in small:
    some minutes, and no bundle replaced
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).resolve().parent
CONFIGS = ROOT / "configs/mini"
BUNDLE = ROOT / "unclip/bundled/mini"
LIMIT = 32 * 2**20  # bytes

# name of the set: (pictures, their side in pixels, seed of the stream, siblings in a row)
SETS = {
    "train-64": (60_000, 64, 0, 1),
    "siblings-64": (30_000, 64, 5, 25),
    "train-256": (6_000, 256, 1, 1),
    "train-1024": (1_000, 1024, 2, 1),
}
# Words, then sentences: pictures that the CLIP sees against single phrases before its stage proper.
WORDS = 500_000
# The inpainting decoder goes on from the plain one and takes its place.
STAGES = ("clip", "prior", "decoder", "inpaint", "upsampler-256", "upsampler-1024")
# What a trial has of pictures, words, steps and captions.
TRIAL_PICTURES = 50
TRIAL_WORDS = 512
TRIAL = ("train.steps=4", "data.batch=8", "data.calibration=32")
TRIAL_COUNT = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/mini", help="folder of data and runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that draw")
    parser.add_argument("--minutes", type=float, help="stop the training after this long, resumably")
    parser.add_argument(
        "--further", action="store_true", help="start from the bundle as it is, and keep its CLIP"
    )
    parser.add_argument("--count", type=int, default=512, help="held-out captions of the final figures")
    parser.add_argument(
        "--trial", action="store_true", help="do all in small, with the bundle in the work folder"
    )
    args = parser.parse_args()
    work: Path = args.work.absolute()  # the programs below run in the checkout
    bundle = work / "bundle" if args.trial else BUNDLE
    for name, (count, size, seed, siblings) in SETS.items():
        drawn = min(count, TRIAL_PICTURES) if args.trial else count
        unclip(
            "data",
            "menagerie",
            "--out",
            work / "data" / name,
            "--count",
            drawn,
            "--size",
            size,
            "--seed",
            seed,
            "--siblings",
            siblings,
            "--jobs",
            args.jobs,
        )
    left = None if args.minutes is None else args.minutes * 60
    words = work / "words"
    if not args.further and not words.exists():
        shards = f"{work}/data/{data_of('clip')}/*.tar"
        images = TRIAL_WORDS if args.trial else WORDS
        left = run(
            [TOOLS / "teach_words.py", CONFIGS / "clip.yaml", shards, "--out", words, "--images", images],
            left,
        )
    for stage in STAGES:
        overrides = [f"data.shards={work}/data/{data_of(stage)}/*.tar", *(TRIAL if args.trial else ())]
        if stage in ("prior", "decoder", "inpaint"):
            overrides.append(f"clip={BUNDLE if args.further else work}/clip")
        if args.further:
            if stage in ("clip", "decoder"):
                continue
            overrides.append(f"init={BUNDLE}/{stage.replace('inpaint', 'decoder')}")
        elif stage in ("clip", "inpaint"):
            overrides.append(f"init={words if stage == 'clip' else work / 'decoder'}")
        config = CONFIGS / f"{stage}.yaml"
        left = run(["-m", "unclip", "train", config, "--out", work / stage, *overrides], left)
    # The bundle is replaced whole, so a CLIP that is kept is set aside first.
    if args.further:
        shutil.copytree(BUNDLE / "clip", work / "clip", dirs_exist_ok=True)
    runs = [work / stage for stage in STAGES if stage != "decoder"]
    unclip("assemble", *runs, "-o", bundle, "--name", "mini", "--half", "--world", "menagerie", "--overwrite")
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    if size > LIMIT:
        sys.exit(f"the bundle has {size:,} bytes, {size - LIMIT:,} too many")
    print(f"bundle: {size / 2**20:.1f} MiB")
    count = min(args.count, TRIAL_COUNT) if args.trial else args.count
    unclip("evaluate", "compose", "--model", bundle, "--count", count, "--out", work / "compose")
    sharp = ("--count", TRIAL_COUNT) if args.trial else ()
    run([TOOLS / "sharpness.py", "--model", bundle, *sharp, "--out", work / "sharpness.json"], None)
    run([TOOLS / "model_card.py", "--work", work, "--bundle", bundle], None)


def data_of(stage: str) -> str:
    """The sets a stage is trained on, as a pattern of folders."""
    sets = {"upsampler-256": "train-256", "upsampler-1024": "train-1024"}
    return sets.get(stage, "{train-64,siblings-64}")


def run(command: list[object], left: float | None) -> float | None:
    """Runs one Python program until it is done or out of time; returns the time left."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)
    try:
        code = process.wait(left)
    except subprocess.TimeoutExpired:
        process.terminate()  # the trainer writes a checkpoint and ends
        process.wait()
        sys.exit("out of time; the same call goes on from the newest checkpoint")
    if code:
        sys.exit(code)
    return None if left is None else left - (time.monotonic() - started)


def unclip(*arguments: object) -> None:
    """Runs one command of this checkout."""
    subprocess.run([sys.executable, "-m", "unclip", *map(str, arguments)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
