"""Make the bundled model `mini`: data, stages, bundle, figures and model card.

Resumable: finished steps are skipped, and training resumes at its last checkpoint.

    python tools/recipes/make_mini.py --work runs/mini                # everything
    python tools/recipes/make_mini.py --work runs/mini --minutes 60   # at most an hour; run again to resume
    python tools/recipes/make_mini.py --work runs/trial --trial       # all steps, small; keeps the bundle
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
TOOLS = ROOT / "tools"
CONFIGS = ROOT / "configs/mini"
BUNDLE = ROOT / "unclip/bundled/mini"
LIMIT = 40 * 2**20  # bytes

# name: (number of images, side in pixels, seed, siblings)
SETS = {
    "train-64": (60_000, 64, 0, 1),
    "siblings-64": (30_000, 64, 5, 25),
    "train-256": (4_000, 256, 1, 1),
    "train-1024": (1_000, 1024, 2, 1),
}
CLIP_STEPS = 2200  # of tools/recipes/teach_clip.py
# The inpainting decoder is initialised from the plain decoder and replaces it.
STAGES = ("prior", "decoder", "inpaint", "upsampler-256", "upsampler-1024")
# sizes of a trial
TRIAL_PICTURES = 50
TRIAL_CLIP_STEPS = 4
TRIAL = ("train.steps=4", "data.batch=8", "data.calibration=32")
TRIAL_COUNT = 4
SPECTRUM_COUNT = 32  # captions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs/mini", help="folder of data and runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--minutes", type=float, help="stop the training after this long, resumably")
    parser.add_argument(
        "--further", action="store_true", help="start from the bundle as it is, and keep its CLIP"
    )
    parser.add_argument("--photos", type=Path, help="shards of photographs, for the second upsampler")
    parser.add_argument("--count", type=int, default=512, help="held-out captions of the final figures")
    parser.add_argument(
        "--trial", action="store_true", help="do all in small, with the bundle in the work folder"
    )
    args = parser.parse_args()
    work: Path = args.work.absolute()  # the commands run in the checkout
    bundle = work / "bundle" if args.trial else BUNDLE
    draw_data(work, args.jobs, trial=args.trial)
    train_stages(work, args.minutes, args.photos, further=args.further, trial=args.trial)
    # The bundle is replaced as a whole, so copy a CLIP that is kept.
    if args.further:
        shutil.copytree(BUNDLE / "clip", work / "clip", dirs_exist_ok=True)
    measured = ("--clip", work / "clip", "--count", 64 if args.trial else 512)
    unclip("calibrate", work / "prior", work / "data/train-64/*.tar", *measured)
    runs = [work / stage for stage in ("clip", *STAGES) if stage != "decoder"]
    unclip("assemble", *runs, "-o", bundle, "--name", "mini", "--half", "--world", "menagerie", "--overwrite")
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    if size > LIMIT:
        sys.exit(f"the bundle has {size:,} bytes, {size - LIMIT:,} over the limit")
    print(f"bundle: {size / 2**20:.1f} MiB")
    count = min(args.count, TRIAL_COUNT) if args.trial else args.count
    for name, condition in (("compose", "both"), ("caption", "caption"), ("embedding", "embedding")):
        options = ("--count", count, "--condition", condition, "--out", work / name)
        unclip("evaluate", "compose", "--model", bundle, *options)
    few = TRIAL_COUNT if args.trial else SPECTRUM_COUNT
    unclip("evaluate", "spectrum", "--model", bundle, "--count", few, "--out", work / "spectrum.md")
    sharp = ("--count", TRIAL_COUNT) if args.trial else ()
    run(
        [TOOLS / "benchmarks/sharpness.py", "--model", bundle, *sharp, "--out", work / "sharpness.json"], None
    )
    run([TOOLS / "recipes/model_card.py", "--work", work, "--bundle", bundle], None)


def draw_data(work: Path, jobs: int, *, trial: bool) -> None:
    """Render the training sets that are missing."""
    for name, (count, size, seed, siblings) in SETS.items():
        options = {
            "--out": work / "data" / name,
            "--count": min(count, TRIAL_PICTURES) if trial else count,
            "--size": size,
            "--seed": seed,
            "--siblings": siblings,
            "--jobs": jobs,
        }
        unclip("data", "menagerie", *(part for option in options.items() for part in option))


def train_stages(
    work: Path, minutes: float | None, photos: Path | None, *, further: bool, trial: bool
) -> None:
    """Train the CLIP, then each stage, until `minutes` are over."""
    left = None if minutes is None else minutes * 60
    if not further:
        command = [TOOLS / "recipes/teach_clip.py", CONFIGS / "clip.yaml", "--out", work / "clip"]
        shards = [f"--shards={work}/data/train-64/*.tar", f"--siblings={work}/data/siblings-64/*.tar"]
        left = run([*command, *shards, "--steps", TRIAL_CLIP_STEPS if trial else CLIP_STEPS], left)
    for stage in STAGES:
        overrides = [f"data.shards={shards_of(stage, work, photos)}", *(TRIAL if trial else ())]
        if stage in ("prior", "decoder", "inpaint"):
            overrides.append(f"clip={BUNDLE if further else work}/clip")
        if further:
            if stage == "decoder":
                continue
            overrides.append(f"init={BUNDLE}/{stage.replace('inpaint', 'decoder')}")
        elif stage == "inpaint":
            overrides.append(f"init={work / 'decoder'}")
        if stage == "upsampler-256":
            left = redraw(work, left, further=further)
            overrides.append("stage.redrawn=0.5")
        if stage == "upsampler-1024":
            left = cut(work, left, photos, further=further)
            overrides += ["stage.redrawn=0.5", "data.crop=native"]
        config = CONFIGS / f"{stage}.yaml"
        left = run(["-m", "unclip", "train", config, "--out", work / stage, *overrides], left)


def redraw(work: Path, left: float | None, *, further: bool) -> float | None:
    """Add the decoder's own pictures to the training set of the first upsampler."""
    model = work / "redrawing"
    home, decoder = (BUNDLE, "decoder") if further else (work, "inpaint")
    stages = [home / stage for stage in ("clip", "prior", decoder)]
    unclip("assemble", *stages, "-o", model, "--overwrite")
    shards, out = work / "data/train-256/*.tar", work / "data/redrawn-256"
    return run([TOOLS / "recipes/redraw.py", shards, out, "--model", model], left)


def cut(work: Path, left: float | None, photos: Path | None, *, further: bool) -> float | None:
    """Make the crops for the second upsampler: of renderings, redrawn by the first, and of photographs."""
    model = work / "cutting"
    decoder = BUNDLE / "decoder" if further else work / "inpaint"
    clip = BUNDLE / "clip" if further else work / "clip"
    stages = [clip, work / "prior", decoder, work / "upsampler-256"]
    unclip("assemble", *stages, "-o", model, "--overwrite")
    recipe, data = TOOLS / "recipes/cut.py", work / "data"
    left = run([recipe, data / "train-1024/*.tar", data / "cut-1024", "--model", model], left)
    return run([recipe, photos, data / "cut-photos", "--each", 4], left) if photos else left


def shards_of(stage: str, work: Path, photos: Path | None) -> str:
    """The training sets of a stage, as `data.shards` takes them."""
    sets = {"upsampler-256": "redrawn-256", "upsampler-1024": "cut-1024"}
    shards = f"{work}/data/{sets.get(stage, '{train-64,siblings-64}')}/*.tar"
    if stage == "upsampler-1024" and photos:
        return f"{{{shards}: 1, {work}/data/cut-photos/*.tar: 1}}"
    return shards


def run(command: list[object], left: float | None) -> float | None:
    """Run one Python program, for at most `left` seconds. Returns the seconds left."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)
    try:
        code = process.wait(left)
    except subprocess.TimeoutExpired:
        process.terminate()  # the trainer saves a checkpoint and ends
        process.wait()
        sys.exit("out of time; run the same command again to resume")
    if code:
        sys.exit(code)
    return None if left is None else left - (time.monotonic() - started)


def unclip(*arguments: object) -> None:
    """Run one command of this checkout."""
    subprocess.run([sys.executable, "-m", "unclip", *map(str, arguments)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
