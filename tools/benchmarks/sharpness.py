"""PSNR and gradient energy of the upsamplers, against bicubic and Lanczos, on renderings and photographs.

python tools/benchmarks/sharpness.py --model mini --count 24
python tools/benchmarks/sharpness.py --model mini --count 8 --photographs     # those of scikit-image
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from unclip.diffusion.noise import SeededNoise
from unclip.images import centre_square, lanczos, open_picture, resize, to_tensor
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import sample
from unclip.pipeline import Pipeline
from unclip.stages.upsampler import Upsampler

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR of two images in [−1, 1], in dB."""
    return float(10 * torch.log10(4 / ((a.clamp(-1, 1) - b) ** 2).mean()))


def edges(image: Tensor) -> float:
    """Gradient energy: mean squared difference of neighbouring pixels."""
    return float(image.diff(dim=-1).square().mean() + image.diff(dim=-2).square().mean())


def renderings(size: int, count: int) -> dict[str, Tensor]:
    """Held-out renderings, [1, 3, size, size] each."""
    return {f"rendering {i}": to_tensor(draw(sample(77, i, held_out=True), size))[None] for i in range(count)}


def photographs(size: int) -> dict[str, Tensor]:
    """scikit-image's colour photographs as centre squares [1, 3, side, side] with side ≤ size."""
    import skimage.data

    found = {}
    for name in PHOTOGRAPHS:
        square = centre_square(open_picture(Path(skimage.data.__file__).parent / name))
        # Halving large photographs removes demosaicing and JPEG artefacts.
        side = min(square.width // (2 if square.width >= 800 else 1), size) // 64 * 64
        found[Path(name).stem] = resize(to_tensor(square)[None], side)
    return found


def compare(upsampler: Upsampler, pictures: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Downscale each image by the upsampler's factor and enlarge it with each method."""
    rows = {}
    for i, (name, high) in enumerate(pictures.items()):
        side = high.shape[-1]
        low = resize(high, side // upsampler.factor)
        with torch.inference_mode():
            *_, last = upsampler.sample(
                low, upsampler.config.sampling, SeededNoise([i], "sharpness"), size=side
            )
        ours, bicubic, smooth = last.x.clamp(-1, 1), resize(low, side), lanczos(low, side)
        rows[name] = {
            "psnr": psnr(ours, high),
            "psnr_bicubic": psnr(bicubic, high),
            "psnr_lanczos": psnr(smooth, high),
            "edges": edges(ours) / edges(high),
            "edges_bicubic": edges(bicubic) / edges(high),
        }
    return rows


def mean(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """The mean of each column."""
    return {key: sum(row[key] for row in rows.values()) / len(rows) for key in next(iter(rows.values()))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=24, help="held-out renderings")
    parser.add_argument("--photographs", action="store_true", help="also on photographs, one by one")
    parser.add_argument("--out", type=Path, help="also write the figures on renderings as JSON")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model, device="cpu")
    figures: dict[str, dict[str, float]] = {}
    print(
        f"{'':24}{'PSNR':>8}{'bicubic':>9}{'Lanczos':>9}{'edges':>8}{'bicubic':>9}   (edges: share of the "
        "gradient energy)"
    )
    for upsampler in pipe.upsamplers:
        name = f"upsampler-{upsampler.size}"
        figures[name] = mean(compare(upsampler, renderings(upsampler.size, args.count)))
        shown = {name: figures[name]}
        if args.photographs:
            photographed = compare(upsampler, photographs(upsampler.size))
            shown |= {f"  {each}": row for each, row in photographed.items()}
            shown["  all photographs"] = mean(photographed)
        for label, f in shown.items():
            psnrs = f"{f['psnr']:8.2f}{f['psnr_bicubic']:9.2f}{f['psnr_lanczos']:9.2f}"
            print(f"{label:24}{psnrs}{f['edges']:8.2f}{f['edges_bicubic']:9.2f}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
