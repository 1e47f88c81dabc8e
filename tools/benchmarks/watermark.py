"""Robustness of the watermark on generated images and photographs.

    python tools/benchmarks/watermark.py --count 200 --model mini --size 256
    python tools/benchmarks/watermark.py --count 40 --parts

The photographs come with scikit-image (pip install scikit-image), without drawings and small images.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unclip import Pipeline
from unclip.images import mark
from unclip.menagerie.captions import caption
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import rng_for, sample
from unclip.provenance.watermark import detect

DRAWINGS = ("chessboard", "color", "horse", "logo", "phantom", "multipage", "no_time")
BATCH = 8


def encoded(image: Image.Image, format: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def brighter(image: Image.Image, factor: float) -> Image.Image:
    return image.point(lambda value: min(255, round(value * factor)))


def cropped(image: Image.Image, kept: float) -> Image.Image:
    width, height = round(image.width * kept), round(image.height * kept)
    left, top = (image.width - width) // 3, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


CHANGES = {
    "as it was made": lambda image: image,
    "JPEG 75": lambda image: encoded(image, "JPEG", 75),
    "JPEG 50": lambda image: encoded(image, "JPEG", 50),
    "WebP 80": lambda image: encoded(image, "WEBP", 80),
    "half size and back": lambda image: resized(resized(image, 0.5), 2).resize(image.size),
    "20 % brighter": lambda image: brighter(image, 1.2),
    "20 % darker": lambda image: brighter(image, 0.8),
    "10 % of each side cut off": lambda image: cropped(image, 0.9),
    "the same, then enlarged": lambda image: cropped(image, 0.9).resize(image.size, Image.Resampling.BICUBIC),
    "20 % cut off, JPEG 75": lambda image: encoded(cropped(image, 0.8), "JPEG", 75),
}


def generated(model: str, count: int, size: int) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Images of held-out captions, without and with the watermark."""
    pipe = Pipeline.from_pretrained(model)
    captions = [caption(sample(1, i, held_out=True), rng_for("watermark", 1, i)).text for i in range(count)]
    for start in range(0, count, BATCH):
        part = captions[start : start + BATCH]
        plain = pipe(part, seed=start, size=size, watermark=False).images
        yield from ((image, mark(image)) for image in plain)


def photographs() -> Iterator[tuple[Image.Image, Image.Image]]:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return
    for path in sorted((Path(spec.origin).parent / "data").iterdir()):
        if path.suffix not in (".png", ".jpg") or path.name.startswith(DRAWINGS):
            continue
        with Image.open(path) as image:
            if min(image.size) >= 256:
                yield image.convert("RGB"), mark(image.convert("RGB"))


def table(pictures: Iterator[tuple[Image.Image, Image.Image]], name: str) -> str:
    noise: list[float] = []
    unmarked: list[float] = []
    margins: dict[str, list[float]] = {change: [] for change in CHANGES}
    for plain, marked in pictures:
        noise.append(float(np.mean((np.asarray(plain).astype(float) - np.asarray(marked)) ** 2)))
        found = detect(plain)
        unmarked.append(found.score - found.threshold)
        for change, apply in CHANGES.items():
            found = detect(apply(marked))
            margins[change].append(found.score - found.threshold)
    quality = 10 * np.log10(255**2 / np.asarray(noise))
    lines = [
        f"{len(noise)} {name}: PSNR {quality.min():.1f} dB at least, {np.median(quality):.1f} dB in the "
        "median; "
        f"found in {sum(m > 0 for m in unmarked)} unmarked ones (the nearest {-max(unmarked):.1f} below the "
        "threshold).",
        "",
        "| change | found | least above the threshold | median |",
        "|---|---|---|---|",
    ]
    for change, above in margins.items():
        share = sum(m > 0 for m in above) / len(above)
        lines.append(f"| {change} | {share:.1%} | {min(above):+.1f} | {np.median(above):+.1f} |")
    return "\n".join(lines) + "\n"


def parts(count: int, size: int) -> str:
    """Detection rate when only a square share of each rendering is watermarked."""
    pictures = [draw(sample(5, i), size) for i in range(count)]
    lines = [f"| painted share of {count} renderings | found |", "|---|---|"]
    for share in (0.1, 0.25, 0.4, 0.6, 0.8, 1.0):
        side, found = round(size * share**0.5), 0
        for i, picture in enumerate(pictures):
            painted = torch.zeros(size, size, dtype=torch.bool)
            top, left = 37 * i % (size - side + 1), 61 * i % (size - side + 1)
            painted[top : top + side, left : left + side] = True
            found += detect(mark(picture, painted)).found
        lines.append(f"| {share:.0%} | {found / count:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--parts", action="store_true", help="how much must be painted, instead")
    options = parser.parse_args()
    if options.parts:
        print(parts(options.count, options.size))
        return
    if find_spec("skimage"):
        print(table(photographs(), "photographs of scikit-image"), flush=True)
    print(table(generated(options.model, options.count, options.size), f"pictures of {options.model}"))


if __name__ == "__main__":
    main()
