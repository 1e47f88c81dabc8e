"""Quality of inversion, interpolation and text diffs on held-out renderings, as tables.

python tools/benchmarks/latents.py --count 16
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from unclip.images import to_pil
from unclip.menagerie.captions import WORDS
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import load_judge
from unclip.menagerie.scene import SETTINGS, STYLES, Scene, sample
from unclip.pipeline import Pipeline, SamplingOptions
from unclip.pipeline.call import Call
from unclip.pipeline.invert import latents, redraw

SEED = 77  # of a stream of scenes of its own
THETAS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=16, help="renderings per figure")
    parser.add_argument("--only", choices=["inversion", "ends", "diff"], help="one table instead of all")
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model)
    scenes = [sample(SEED, i, held_out=True) for i in range(args.count)]
    for name, table in (("inversion", inversion), ("ends", ends), ("diff", diffs)):
        if args.only in (None, name):
            table(pipe, scenes)


def inversion(pipe: Pipeline, scenes: list[Scene]) -> None:
    print("\n| steps | evaluations per step | mean PSNR, dB | worst |\n| ---: | ---: | ---: | ---: |")
    images = [draw(scene, pipe.decoder.size) for scene in scenes]
    for steps in (10, 20, 50, 100):
        for evaluations in (1, 2, 3):
            options = {"decoder": {"sampler": "ddim", "steps": steps, "guidance": 1.0}}
            call = Call(pipe, [0] * len(images), SamplingOptions(size=pipe.sizes[0], stages=options))
            with torch.inference_mode():
                found = latents(call, images, evaluations)
                made = redraw(call, found.image_embeds, found.noise)
            quality = [psnr(to_pil(x), image) for x, image in zip(made, images, strict=True)]
            print(f"| {steps} | {evaluations} | {np.mean(quality):.1f} | {min(quality):.1f} |", flush=True)


def ends(pipe: Pipeline, scenes: list[Scene]) -> None:
    """PSNR of an interpolation's two ends against the input images."""
    images = [draw(scene, pipe.decoder.size) for scene in scenes]
    quality = []
    for i, pair in enumerate(zip(images[::2], images[1::2], strict=True)):
        made = pipe.interpolate(pair, 2, seed=i, size=pipe.sizes[0], watermark=False).images
        quality += [psnr(a, b) for a, b in zip(made, pair, strict=True)]
    print(
        f"\nends of interpolations: {np.mean(quality):.1f} dB, the worst of {len(quality)} "
        f"{min(quality):.1f} dB"
    )


def diffs(pipe: Pipeline, scenes: list[Scene]) -> None:
    """Share of text diffs in which the judge reads the target attribute and the unchanged subject."""
    judge = load_judge()
    print("\n| changed | theta | target read | subject kept |\n| --- | ---: | ---: | ---: |")
    for key, values in (("setting", SETTINGS[1:]), ("style", STYLES)):
        read: dict[float, list[tuple[bool, bool]]] = {theta: [] for theta in THETAS}
        for i, scene in enumerate(scenes):
            target = random.Random(i).choice([v for v in values if v != getattr(scene, key)])
            changed = replace(
                scene, **{key: target}, **({"setting_colour": None} if key == "setting" else {})
            )
            options = SamplingOptions(seed=0, size=pipe.sizes[0], watermark=False)
            made = pipe.diff(draw(scene, 64), sentence(scene), sentence(changed), THETAS, options=options)
            for theta, seen in zip(THETAS, judge.read(made.images), strict=True):
                read[theta].append((seen[key] == target, seen["subject"] == scene.subject))
        for theta, pairs in read.items():
            hit, kept = np.mean(pairs, axis=0)
            print(f"| {key} | {theta} | {100 * hit:.0f} % | {100 * kept:.0f} % |", flush=True)


def sentence(scene: Scene) -> str:
    where = f"on a {scene.setting_colour} background" if scene.setting == "plain" else WORDS[scene.setting][0]
    wearing = f"wearing a {scene.headwear_colour} {scene.headwear}"
    return f"{WORDS[scene.style][0]} a {scene.subject} {wearing} {where}"


def psnr(a: Image.Image, b: Image.Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(a).astype(float) - np.asarray(b)) ** 2)))


if __name__ == "__main__":
    main()
