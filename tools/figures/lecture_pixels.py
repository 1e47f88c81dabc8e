"""Figures of a DDPM: samples, interpolation in x_T and progressive generation (Ho et al. 2020, §4.3–4.4).

    python tools/figures/lecture_pixels.py runs/ddpm-digits docs/images/lecture

The slide interpolates two latents as (1 − λ) x + λ x′. At λ = ½ the norm is 0.71 of that of training noise;
slerp keeps it. The figure shows both, and the script prints the norms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import ddim, ddpm
from unclip.images import grid, save_png, to_pil
from unclip.models.resolve import resolve
from unclip.pipeline.slerp import slerp
from unclip.stages.pixels import Pixels

FRAMES, STEPS, SCALE = 9, 50, 6


def sheet(images: Tensor, columns: int, scale: int) -> Image.Image:
    side = scale * images.shape[-1]
    tiles = [
        to_pil(image.expand(3, -1, -1)).resize((side, side), Image.Resampling.NEAREST) for image in images
    ]
    return grid(tiles, columns=columns)


@torch.inference_mode()
def main(run: Path, out: Path) -> None:
    stage = Pixels.load(resolve(str(run)).stage("pixels"))
    schedule = stage.diffusion.schedule
    times = schedule.grid(STEPS)
    shape = (stage.channels, stage.size, stage.size)

    labels = [i % 10 for i in range(60)]
    options = stage.config.sampling.updated({"steps": STEPS, "sampler": "ddim"})
    (drawn,) = stage.draw(labels, range(60), options, batch=60)
    save_png(sheet(drawn, 10, SCALE), out / "digits-samples.png")

    a, b = SeededNoise([1, 2], "pixels")(torch.empty(2, *shape))[:, None]
    thetas = [i / (FRAMES - 1) for i in range(FRAMES)]
    straight = torch.cat([(1 - theta) * a + theta * b for theta in thetas])
    arc = torch.cat([slerp(a, b, theta) for theta in thetas])
    for name, way in (("straight", straight), ("slerp", arc)):
        lengths = way.flatten(1).norm(dim=1) / way[0].numel() ** 0.5
        print(f"{name}: length of x_T by pixel {' '.join(f'{one:.2f}' for one in lengths.tolist())}")
    same = stage.condition(torch.full((2 * FRAMES,), 3))
    *_, last = ddim(
        stage.diffusion.denoiser(stage.network, same),
        torch.cat([straight, arc]),
        schedule,
        times,
        torch.randn_like,
    )
    save_png(sheet(last.x, FRAMES, SCALE), out / "digits-interpolation.png")

    noise = SeededNoise(range(5), "pixels")
    x = noise(torch.empty(5, *shape))
    denoise = stage.diffusion.denoiser(stage.network, stage.condition(torch.arange(5)))
    walk = [step.x0 for step in ddpm(denoise, x, schedule, times, noise)]
    shown = torch.stack([walk[i] for i in range(0, STEPS, 7)], dim=1).flatten(0, 1)
    save_png(sheet(shown, len(range(0, STEPS, 7)), SCALE), out / "digits-progressive.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run of a pixels stage")
    parser.add_argument("out", type=Path, help="folder of the figures")
    args = parser.parse_args()
    main(args.run, args.out)
