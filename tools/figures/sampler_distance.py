"""Distance of few steps from many at equal noise, for each sampler, as a plot and a table.

python tools/figures/sampler_distance.py --count 4 --out docs/images/sampler-distance.webp
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import SAMPLERS, Step
from unclip.menagerie.captions import caption
from unclip.menagerie.scene import rng_for, sample
from unclip.pipeline import Pipeline
from unclip.stages.prior import Prior

matplotlib.use("Agg")
from matplotlib import pyplot

STEPS = (3, 5, 8, 12, 16, 25, 50)
MANY = 200  # steps of UniPC


class Walks:
    """The prior's and the decoder's sampling for the same captions and noise."""

    def __init__(self, pipe: Pipeline, captions: list[str]) -> None:
        text = pipe.clip.encode_text([*captions, ""])
        self.pipe, self.text, self.null = pipe, text.rows(None, -1), text.rows(-1, None).repeat(len(captions))
        self.z_i = self.end("prior", "unipc", MANY)

    def end(self, role: str, sampler: str, steps: int, shift: int = 0) -> Tensor:
        """The final sample, [B, ...]. `shift` selects other noise."""
        noise = SeededNoise([i + shift for i in range(len(self.text.embed))], role)
        *_, last = self._steps(role, {"sampler": sampler, "steps": steps, "eta": 0.0, "candidates": 1}, noise)
        return last.x.clamp(-1, 1) * 127.5 if role == "decoder" else last.x

    def _steps(self, role: str, changes: dict[str, object], noise: SeededNoise) -> Iterator[Step]:
        text: tuple[Text, Text] = self.text, self.null
        if role == "prior":
            assert isinstance(self.pipe.prior, Prior)
            return self.pipe.prior.sample(*text, self.pipe.prior.config.sampling.updated(changes), noise)
        decoder = self.pipe.decoder
        return decoder.sample(self.z_i, *text, decoder.config.sampling.updated(changes), noise)


def apart(role: str, a: Tensor, b: Tensor) -> float:
    """RMS difference of images in levels of 255 (decoder), or relative distance of z_i (prior)."""
    a, b = a.flatten(1), b.flatten(1)
    if role == "decoder":
        return float((a - b).square().mean(1).sqrt().mean())
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=4, help="held-out captions")
    parser.add_argument("--out", type=Path, required=True, help="the plot: .webp or .png")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model, device="cpu")
    captions = [caption(sample(77, i, held_out=True), rng_for("distance", i)).text for i in range(args.count)]
    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    with torch.inference_mode():
        walks = Walks(pipe, captions)
        for axis, role in zip(axes, ("prior", "decoder"), strict=True):
            many = walks.end(role, "unipc", MANY)
            scale = apart(role, walks.end(role, "unipc", 50, shift=1000), many)
            print(f"{role:10}" + "".join(f"{n:>9}" for n in STEPS) + f"   (other noise: {scale:.3f})")
            for name in sorted(SAMPLERS):
                row = [apart(role, walks.end(role, name, n), many) for n in STEPS]
                print(f"{name:10}" + "".join(f"{distance:>9.4f}" for distance in row), flush=True)
                axis.loglog(STEPS, row, marker="o", markersize=4, label=name)
            axis.axhline(scale, color="grey", linestyle=":", label="another seed")
            if role == "decoder":
                axis.axhline(1, color="lightgrey", linewidth=0.8)
            axis.set_xticks(STEPS, labels=[str(n) for n in STEPS])
            axis.minorticks_off()
            axis.set_xlabel("steps")
            axis.set_ylabel("of z_i, relative" if role == "prior" else "of the pictures, levels of 255 (RMS)")
            axis.set_title(f"{pipe.name}'s {role}: distance from {MANY} steps, equal noise", fontsize=10)
    axes[0].legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    Image.open(file).convert("RGB").save(args.out, quality=90)


if __name__ == "__main__":
    main()
