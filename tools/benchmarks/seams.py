"""Seams of edits and outpaintings, without and with their correction, as a table.

python tools/benchmarks/seams.py --count 16 --pictures seams/

The step is the mean difference of neighbouring pixels across the mask's border (for outpaintings, across the
border of every window), in units of the same difference inside the painted part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from latents import SEED, sentence
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from unclip.images import grid
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import Scene, sample
from unclip.pipeline import Pipeline
from unclip.pipeline.masks import read_mask
from unclip.pipeline.membrane import join

Regions = NDArray[np.int64]  # [H, W]: 0 where kept, else the number of the edit or window that painted it


def without(made: Tensor, picture: Tensor, paint: Tensor) -> Tensor:
    """The painted pixels as the model made them."""
    return torch.where(paint.to(made.device), made.clamp(-1, 1), picture.to(made))


def half(side: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rectangle((side // 2, 0, side, side), fill=255)
    return mask


def brushed(side: int) -> Image.Image:
    """A stroke of a round, soft brush."""
    mask = Image.new("L", (4 * side, 4 * side), 0)
    for share in np.linspace(0, 1, 50):
        x, y, radius = 4 * side * (0.25 + share / 2), 4 * side * (0.3 - 0.1 * share), 0.4 * side
        ImageDraw.Draw(mask).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    soft = mask.resize((side, side), Image.Resampling.BILINEAR)
    return soft.point(lambda value: 255 if value else 0)  # as the page reads its brush


def seam(images: list[Image.Image], regions: Regions) -> float:
    """Step across the borders of the regions, in units of the step inside the painted ones."""
    across: list[float] = []
    inside: list[float] = []
    for axis in (0, 1):
        first, second = np.delete(regions, -1, axis), np.delete(regions, 0, axis)
        for image in images:
            steps = np.abs(np.diff(np.asarray(image).astype(float), axis=axis)).mean(axis=2)
            across += steps[first != second].tolist()
            inside += steps[(first == second) & (first > 0)].tolist()
    return float(np.mean(across) / np.mean(inside))


def edits(
    pipe: Pipeline, scenes: list[Scene], side: int, mask: Image.Image, repeats: int
) -> Iterator[tuple[Image.Image, Image.Image, Image.Image]]:
    """Renderings, their edits without the correction, and with it."""
    for i, scene in enumerate(scenes):
        image = draw(scene, side)
        made = []
        for composed in (without, join):
            with patch("unclip.pipeline.edit.join", composed):
                made += pipe.edit(
                    image, sentence(scene), mask, seed=i, size=side, repeats=repeats, watermark=False
                ).images
        yield image, made[0], made[1]


def outpaintings(
    pipe: Pipeline, scenes: list[Scene], side: int
) -> Iterator[tuple[Image.Image, Image.Image, Image.Image]]:
    """The middle of renderings of twice the side, extended by half the side to the left and the right."""
    for i, scene in enumerate(scenes):
        whole = draw(scene, 2 * side)
        wide = whole.crop((0, side // 2, 2 * side, side // 2 + side))
        image = wide.crop((side // 2, 0, side // 2 + side, side))
        made = []
        for composed in (without, join):
            with (
                patch("unclip.pipeline.edit.join", composed),
                patch("unclip.pipeline.outpaint.join", composed),
            ):
                made += pipe.outpaint(
                    image, sentence(scene), (2 * side, side), seed=i, repeats=1, watermark=False
                ).images
        yield wide, made[0], made[1]


def windows(side: int) -> Regions:
    """Regions of `outpaintings`: each window adds a strip of a quarter of the side."""
    strips = np.repeat([3, 1, 0, 0, 0, 0, 2, 4], side // 4)
    return np.broadcast_to(strips, (side, 2 * side)).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument(
        "--count", type=int, default=16, help="renderings per row; a quarter of it at 1024 px"
    )
    parser.add_argument("--pictures", type=Path, help="folder for contact sheets of what was compared")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model)
    scenes = [sample(SEED, i, held_out=True) for i in range(args.count)]
    print("| | renderings | without the correction | with it |\n| --- | ---: | ---: | ---: |")
    rows = [
        ("half, 64 px, 1 repeat", half(64), 1),
        ("half, 64 px, 4 repeats", half(64), 4),
        ("brush, 256 px", brushed(256), 1),
        ("half, 256 px", half(256), 1),
        ("brush, 1024 px", brushed(1024), 1),
    ]
    for name, mask, repeats in rows:
        side, paint = mask.width, read_mask(mask.convert("RGB"), mask)
        assert paint is not None
        some = scenes if side < 1024 else scenes[: -(-args.count // 4)]
        report(name, edits(pipe, some, side, mask, repeats), paint.numpy().astype(np.int64), args.pictures)
    for side in (64, 256):
        name = f"outpaint, {side} to {2 * side}x{side}"
        report(name, outpaintings(pipe, scenes, side), windows(side), args.pictures)
    picture, paint = torch.zeros(1, 3, 1024, 1024), torch.zeros(1024, 1024, dtype=torch.bool)
    paint[16:-16, 16:-16] = True
    started = time.process_time()
    join(picture + 0.1, picture, paint)
    print(f"\nthe correction of 1024 px, nearly all of it painted: {time.process_time() - started:.2f} CPU s")


def report(
    name: str,
    triples: Iterator[tuple[Image.Image, Image.Image, Image.Image]],
    regions: Regions,
    folder: Path | None,
) -> None:
    columns = [list(images) for images in zip(*triples, strict=True)]
    print(f"| {name} |", " | ".join(f"{seam(images, regions):.2f}" for images in columns), "|", flush=True)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        sheet = [image for row in zip(*columns, strict=True) for image in row]
        grid(sheet, columns=3).save(folder / f"{name.replace(' ', '-').replace(',', '')}.png")


if __name__ == "__main__":
    main()
