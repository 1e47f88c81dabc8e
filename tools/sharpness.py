"""PSNR and gradient energy of the upsamplers against bicubic, on held-out renderings.

python tools/sharpness.py --model mini --count 24
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from unclip.diffusion.noise import Noise
from unclip.images import resize, to_tensor
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import sample
from unclip.pipeline import Pipeline


def psnr(a: Tensor, b: Tensor) -> float:
    """Of two pictures in [−1, 1], in dB."""
    return float(10 * torch.log10(4 / ((a.clamp(-1, 1) - b) ** 2).mean()))


def edges(image: Tensor) -> float:
    """Mean squared difference of neighbouring pixels: what an enlarged blur lacks."""
    return float(image.diff(dim=-1).square().mean() + image.diff(dim=-2).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=24, help="held-out renderings")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model, device="cpu")
    figures: dict[str, dict[str, float]] = {}
    for upsampler in pipe.upsamplers:
        rows = []
        for i in range(args.count):
            high = to_tensor(draw(sample(77, i, held_out=True), upsampler.size))[None]
            low = resize(high, upsampler.size // upsampler.factor)
            bicubic = resize(low, upsampler.size)
            with torch.inference_mode():
                *_, last = upsampler.sample(low, upsampler.config.sampling, Noise([i], "sharpness"))
            ours = last.x.clamp(-1, 1)
            rows.append(
                (psnr(ours, high), psnr(bicubic, high), edges(ours) / edges(high), edges(bicubic) / edges(high))
            )
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        names = ("psnr", "psnr_bicubic", "edges", "edges_bicubic")
        figures[f"upsampler-{upsampler.size}"] = dict(zip(names, means, strict=True))
    print(
        f"{'':16}{'PSNR':>8}{'bicubic':>9}{'edges':>8}{'bicubic':>9}   (edges: share of the rendering's gradient energy)"
    )
    for name, f in figures.items():
        print(f"{name:16}{f['psnr']:8.2f}{f['psnr_bicubic']:9.2f}{f['edges']:8.2f}{f['edges_bicubic']:9.2f}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
