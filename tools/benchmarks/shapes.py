"""Truth of pictures of several shapes to held-out captions, as `unclip evaluate compose` has it for squares.

The judge reads squares: of each picture it reads the whole, squeezed into a square, and the middle square.

python tools/benchmarks/shapes.py --model mini --count 128 --sizes 64 72x48 64x48 48x64 112x64 --out shapes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from unclip.evaluate.report import ALL_NAMED, COMPOSITION
from unclip.images import centre_square, grid
from unclip.menagerie.compose import compose, held_out_captions
from unclip.menagerie.judge.model import SIZE, load_judge
from unclip.pipeline import Pipeline, SamplingOptions

BATCH = 24
SHOWN = 24  # pictures on a sheet


def squeezed(picture: Image.Image) -> Image.Image:
    """The whole picture as a square."""
    return picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def middle(picture: Image.Image) -> Image.Image:
    """The middle square."""
    return squeezed(centre_square(picture))


def reader(views: Iterator[Image.Image]) -> Callable[[list[str], list[int]], list[Image.Image]]:
    """A painter of pictures that are there already."""
    return lambda texts, seeds: list(islice(views, len(texts)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--sizes", nargs="+", default=["64", "72x48", "64x48", "48x64", "112x64", "64x112"])
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for a contact sheet of each size")
    given = parser.parse_args()
    pipe, judge = Pipeline.from_pretrained(given.model, device="cpu"), load_judge()
    asked = held_out_captions(given.count, given.seed)
    for size in given.sizes:
        pictures: list[Image.Image] = []
        for part in (asked[i : i + BATCH] for i in range(0, given.count, BATCH)):
            texts, seeds = [one.text for one in part], [one.seed for one in part]
            options = SamplingOptions(size=size, preset=given.preset, watermark=False)
            pictures += pipe.generate(texts, seeds=seeds, options=options).images
        for name, view in (("whole", squeezed), ("middle", middle)):
            report = compose(reader(map(view, pictures)), judge, count=given.count, seed=given.seed)
            rates = {key: report.scores[key].rate for key in ("subject", "headwear", COMPOSITION, ALL_NAMED)}
            print(json.dumps({"size": size, "judge reads": name, **rates}), flush=True)
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            grid(pictures[:SHOWN], columns=6).save(given.out / f"{size}.png")


if __name__ == "__main__":
    main()
