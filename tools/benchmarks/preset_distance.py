"""Distance from the many-step picture: Karlo's default settings beside `--steps fast`, from equal noise.

The settings are Karlo's; the model that draws is mini, whose weights are here.

    python tools/benchmarks/preset_distance.py
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch

from unclip.images import to_tensor
from unclip.pipeline import Pipeline
from unclip.pipeline.presets import EXPERT, PRESETS

PROMPTS = (
    "a shiba inu wearing a beret",
    "a fox in a red scarf reading a book",
    "an owl with a top hat in the snow",
    "a robot in a green cap on the beach",
)
ROLES = ("prior", "decoder", "upsampler-256")
FAST = PRESETS["fast"]
SETTINGS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "25 + 25 + 7 of ddpm, Karlo's default": ({"steps": 25}, {"steps": 25}, {"steps": 7}),
    "fast, with 7 of ddpm": (FAST["prior"], FAST["decoder"], {"steps": 7}),
    "fast": (FAST["prior"], FAST["decoder"], FAST[EXPERT]),
}
MANY = {"sampler": "unipc", "steps": 100}


def draw(pipe: Pipeline, settings: tuple[Mapping[str, Any], ...], seed: int) -> torch.Tensor:
    """Pictures [N, 3, 256, 256] of all prompts."""
    stages = {role: {"sampler": "ddpm", **one} for role, one in zip(ROLES, settings, strict=True)}
    stages["prior"]["candidates"] = 1
    made = pipe(PROMPTS, seed=seed, size=256, options=stages, watermark=False)
    return torch.stack([to_tensor(image) for image in made.images])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """RMS difference in levels of 255, mean over the pictures."""
    return float((127.5 * (a - b)).square().flatten(1).mean(1).sqrt().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args()
    pipe = Pipeline.from_pretrained("mini", dtype=torch.float32)
    many = draw(pipe, (MANY, MANY, MANY), seed=3)
    print("| Settings | RMS difference from 100 steps of each stage, levels of 255 |\n|---|---|")
    for name, settings in SETTINGS.items():
        print(f"| {name} | {apart(draw(pipe, settings, seed=3), many):.1f} |", flush=True)
    print(f"| another seed | {apart(draw(pipe, (MANY, MANY, MANY), seed=99), many):.1f} |")


if __name__ == "__main__":
    main()
