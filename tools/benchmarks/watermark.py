"""Robustness of the watermark on generated images and photographs.

    python tools/benchmarks/watermark.py --count 200 --model mini --size 256
    python tools/benchmarks/watermark.py --count 40 --parts
    python tools/benchmarks/watermark.py --count 20 --moved --photographs FOLDER
    python tools/benchmarks/watermark.py --count 200 --unmarked --photographs FOLDER

Without a folder, the photographs are those of scikit-image (pip install scikit-image), without drawings and
small images. `--moved` takes renderings of 256, 512 and 1024 px, and photographs, every third of them square.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

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


def lines(window: Image.Image, box: tuple[int, int, int, int], rng: np.random.Generator, ink: str) -> None:
    """Lines of small letters in a box (left, top, right, bottom)."""
    for top in range(box[1], box[3] - 12, 16):
        letters = rng.integers(97, 123, max(0, (box[2] - box[0]) // 7), dtype=np.uint8)
        words = "".join(chr(letter) if letter % 6 else " " for letter in letters)
        ImageDraw.Draw(window).text((box[0], top), words, fill=ink)


def screenshot(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A window, light or dark, with a bar, text and the image at 0.5 to 2 of its size, as a JPEG."""
    shown = resized(image, min(rng.uniform(0.5, 2), 640 / image.height, 900 / image.width))
    dark = int(rng.integers(2))
    size, ink = (max(shown.width + 200, 600), shown.height + 150), ("#282828", "#dcdcdc")[dark]
    window = Image.new("RGB", size, ("#fafafa", "#1e1f22")[dark])
    left, top = int(rng.integers(20, window.width - shown.width - 19)), int(rng.integers(50, 111))
    window.paste(("#e1e3e6", "#3c3e42")[dark], (0, 0, window.width, 36))
    window.paste(shown, (left, top))
    lines(window, (12, 10, window.width - 12, 36), rng, ink)
    lines(window, (10, 50, left - 10, window.height - 10), rng, ink)
    lines(window, (left, top + shown.height + 8, window.width - 10, window.height), rng, ink)
    return encoded(window, "JPEG", 80)


def captioned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A bar with text above, below, or both, of 8 to 20 % of the height."""
    bars = rng.uniform(0.08, 0.2, 2) * ((1, 0), (0, 1), (1, 1))[rng.integers(3)]
    above, below = (round(image.height * bar) for bar in bars)
    framed = Image.new("RGB", (image.width, image.height + above + below), "white")
    framed.paste(image, (0, above))
    lines(framed, (10, 4, image.width - 10, above), rng, "black")
    lines(framed, (10, above + image.height + 4, image.width - 10, framed.height), rng, "black")
    return framed


def wide(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part with the aspect ratio 16:9 and the full width."""
    height = min(image.height, round(image.width * 9 / 16))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((0, top, image.width, top + height))


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC, expand=bool(rng.integers(2)))


Change = Callable[[Image.Image, np.random.Generator], Image.Image]
MOVED: dict[str, Change] = {
    "window screenshot, JPEG 80": screenshot,
    "20 % off each side": lambda image, rng: cropped(image, 0.6),
    "20 % off each side, JPEG 75": lambda image, rng: encoded(cropped(image, 0.6), "JPEG", 75),
    "16:9 part": wide,
    "caption bars": captioned,
    "mirrored": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "rotated by 3°": lambda image, rng: image.rotate((-3, 3)[rng.integers(2)], Image.Resampling.BICUBIC),
    "rotated by up to 3°, corners kept or cut": turned,
}

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


def moved(count: int, folder: Path) -> str:
    """Detection rate, and CPU seconds of a detection, after each of MOVED."""
    sources = {
        "renderings": [draw(sample(31, i, held_out=True), (256, 512, 1024)[i % 3]) for i in range(count)],
        "photographs": list(from_folder(folder, count)),
    }
    rows = [f"| change | {count} renderings | {count} photographs | CPU s, mean |", "|---|---|---|---|"]
    for change, apply in MOVED.items():
        rng, found, seconds = np.random.default_rng(5), [], 0.0
        for images in sources.values():
            changed = [apply(mark(image), rng) for image in images]
            begun = time.process_time()
            found.append(sum(detect(image).found for image in changed))
            seconds += time.process_time() - begun
        rows.append(f"| {change} | {found[0]} | {found[1]} | {seconds / 2 / count:.2f} |")
    return "\n".join(rows)


def unmarked(count: int, folder: Path) -> str:
    """Detections in images that carry no mark; the highest score, in units above the threshold."""
    images = [draw(sample(32, i), 256) for i in range(count)]
    margins = []
    for image in [*images, *from_folder(folder, count)]:
        found = detect(image)
        margins.append(found.score - found.threshold)
    return f"{len(margins)} unmarked: found in {sum(m > 0 for m in margins)}, nearest {max(margins):+.2f}"


def from_folder(folder: Path, count: int) -> Iterator[Image.Image]:
    """Photographs evenly spread over a folder, every third one cropped square."""
    paths = sorted(folder.rglob("*.jpg"))
    for i, path in enumerate(paths[:: max(1, len(paths) // count)][:count]):
        with Image.open(path) as file:
            image = file.convert("RGB")
        side = min(image.size)
        yield image if i % 3 else image.crop((0, 0, side, side))


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
    parser.add_argument("--moved", action="store_true", help="screenshots, crops, rotations, instead")
    parser.add_argument("--unmarked", action="store_true", help="false positives, instead")
    parser.add_argument("--photographs", type=Path, help="folder of JPEGs for --moved and --unmarked")
    options = parser.parse_args()
    if options.moved or options.unmarked:
        assert options.photographs, "--photographs FOLDER is needed"
        print((moved if options.moved else unmarked)(options.count, options.photographs))
        return
    if options.parts:
        print(parts(options.count, options.size))
        return
    if find_spec("skimage"):
        print(table(photographs(), "photographs of scikit-image"), flush=True)
    print(table(generated(options.model, options.count, options.size), f"pictures of {options.model}"))


if __name__ == "__main__":
    main()
