"""Make every figure of docs/explanation/lecture.md.

python tools/figures/lecture.py
python tools/figures/lecture.py --only swiss-roll
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lecture_diffusion import algorithms, heartbeat, mix, swiss_roll
from lecture_sdes import control, sdes
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from unclip.clip import encode_pictures
from unclip.evaluate.recognition import name_embeddings
from unclip.images import grid
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import Scene
from unclip.pipeline import Pipeline


def clip(args: argparse.Namespace) -> Figure:
    """The slide's matrix of cosines between images and captions."""
    encoder = Pipeline.from_pretrained(args.model).clip
    names = ["astronaut", "teddy bear", "panda", "shiba inu", "cat", "koala"]
    pictures = [portrait(name) for name in names]
    with torch.inference_mode():
        z_i = nn.functional.normalize(encode_pictures(encoder, pictures).float(), dim=1)
    cosines = z_i @ name_embeddings(encoder, names).T
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    panel = figure.subplots()
    panel.imshow(cosines.numpy())
    panel.set_xticks(range(6), [f"a {name}" for name in names], rotation=30, ha="right")
    panel.set_yticks(range(6), [f"picture: {name}" for name in names])
    for row, values in enumerate(cosines.tolist()):
        for column, value in enumerate(values):
            panel.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="white" if value < 0.4 else "black",
            )
    print(f"clip: {(cosines.argmax(1) == torch.arange(6)).sum()} of 6 called by their name")
    return figure


def prompts(args: argparse.Namespace) -> Image.Image:
    """The slide's grid: a subject per row, and an activity per column in each of three styles."""
    styles = ["pop art of", "a pencil drawing of", "a watercolour of"]
    captions = [
        f"{style} {subject} {activity} in space"
        for subject in ("an astronaut", "a teddy bear", "a panda")
        for style in styles
        for activity in ("riding a skateboard", "playing a guitar", "reading a book")
    ]
    made = Pipeline.from_pretrained(args.model).generate(
        captions, seeds=list(range(len(captions))), size=64, watermark=False
    )
    return grid([image.resize((96, 96), Image.Resampling.LANCZOS) for image in made.images], columns=9)


def between(args: argparse.Namespace) -> Image.Image:
    """The slide's interpolation: decoded slerps between two image embeddings."""
    pipe = Pipeline.from_pretrained(args.model)
    rows = []
    for left, right in (("astronaut", "teddy bear"), ("panda", "shiba inu")):
        ends = [portrait(name) for name in (left, right)]
        made = pipe.interpolate(ends, frames=7, seed=1, size=64, options={"decoder": {"steps": 10}})
        rows += [image.resize((96, 96), Image.Resampling.LANCZOS) for image in made.images]
    return grid(rows, columns=7)


def portrait(subject: str) -> Image.Image:
    """A rendering of a subject without clothing and activity."""
    nothing: dict[str, None] = dict.fromkeys(
        ("headwear", "headwear_colour", "garment", "garment_colour", "activity", "setting_colour")
    )
    return draw(Scene(subject=subject, setting="meadow", style="flat illustration", pose=1, **nothing), 64)


FIGURES: dict[str, Callable[[argparse.Namespace], Figure | Image.Image]] = {
    "swiss-roll": swiss_roll,
    "heartbeat": heartbeat,
    "algorithms": algorithms,
    "mix": mix,
    "sdes": sdes,
    "control": control,
    "clip": clip,
    "prompts": prompts,
    "between": between,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(FIGURES), help="one figure instead of all")
    parser.add_argument("--out", type=Path, default=Path("docs/images/lecture"))
    parser.add_argument("--model", default="mini", help="model of the last three figures")
    parser.add_argument(
        "--training",
        type=int,
        default=4000,
        help="training steps of the Swiss roll's networks; the others take fewer",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, make in FIGURES.items():
        if args.only in (None, name):
            start = time.process_time()
            made = make(args)
            path = args.out / f"{name}.webp"
            if isinstance(made, Figure):
                made.savefig(path, dpi=80, pil_kwargs={"quality": 85})
            else:
                made.save(path, quality=85)
            print(f"{path}: {time.process_time() - start:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
