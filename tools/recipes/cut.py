"""Cut images into crops at their own resolution, each with `low.png`, the input of an upsampler in a pipeline.

With `--model`, the input is what the model's first upsampler makes of a partly noised, true image of its size
(SDEdit, Meng et al. 2021). So it has the upsampler's artefacts and still shows what the large image shows.
Without, it is the crop resized.

    python tools/recipes/cut.py "runs/mini/data/train-1024/*.tar" runs/mini/data/cut-1024 --model mini
    python tools/recipes/cut.py photos/train.tar runs/mini/data/cut-photos --each 4

Shards that exist are kept, so the same command resumes. Train on them with `data.crop=native`.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from unclip.data.sample import BadSample, picture
from unclip.data.tar import Sample, find_shards, read_shard, write_shard
from unclip.device import quick_in_bf16
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.trajectory import Trajectory
from unclip.images import resize, to_pil, to_tensor
from unclip.pipeline import Pipeline

FACTOR = 4
STRENGTH = (0.05, 0.4)  # share of the timesteps
STEPS = 10  # over the whole schedule
PER_SHARD = 50  # images, so that a stopped run repeats little


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="images; captions are not read")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--crop", type=int, default=256, help="side of a crop in pixels")
    parser.add_argument("--each", type=int, default=8, help="crops of an image")
    parser.add_argument("--model", help="reference of a model whose first upsampler draws the inputs")
    args = parser.parse_args()
    model = Pipeline.from_pretrained(args.model, device="cpu") if args.model else None
    args.out.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard in find_shards(args.shards):
        source = tqdm(read_shard(shard), desc=Path(shard).name, unit="image", mininterval=10)
        samples = iter(source)
        while group := list(islice(samples, PER_SHARD)):
            path = args.out / f"{number:06d}.tar"
            number += 1
            if not path.exists():
                write_shard(path, cut(group, model, args.crop, args.each, random.Random(path.name)))


def cut(
    samples: list[Sample], model: Pipeline | None, crop: int, each: int, rng: random.Random
) -> Iterator[Sample]:
    """Yield the crops of images; those smaller than a crop are left out."""
    for sample in samples:
        try:
            image = picture(sample)
        except BadSample as error:
            print(error)
            continue
        if min(image.size) < crop:
            continue
        whole = redrawn(to_tensor(image)[None], model, rng) if model else None
        for i in range(each):
            # At multiples of the factor, so that both crops show the same.
            x, y = (FACTOR * rng.randint(0, (side - crop) // FACTOR) for side in image.size)
            high = image.crop((x, y, x + crop, y + crop))
            if whole is None:
                low = to_pil(resize(to_tensor(high)[None], crop // FACTOR)[0])
            else:
                low = whole.crop([v // FACTOR for v in (x, y, x + crop, y + crop)])
            name = f"{sample['__key__']}-{i}"
            yield {"__key__": name, "txt": b"crop", "png": png(high), "low.png": png(low)}


@torch.inference_mode()
def redrawn(high: Tensor, model: Pipeline, rng: random.Random) -> Image.Image:
    """A square image [1, 3, H, H], reduced by the factor and redrawn by the model's first upsampler."""
    upsampler = model.upsamplers[0]
    true = resize(high, high.shape[-1] // FACTOR)
    low = resize(true, true.shape[-1] // upsampler.factor)
    walk = Trajectory(
        known=Known(true, torch.zeros_like(true[:, :1], dtype=torch.bool)), strength=rng.uniform(*STRENGTH)
    )
    options = upsampler.config.sampling.updated({"steps": STEPS})
    noise = SeededNoise([rng.getrandbits(62)])
    with torch.autocast("cpu", torch.bfloat16, enabled=quick_in_bf16(torch.device("cpu"))):
        *_, last = upsampler.sample(low, options, noise, size=true.shape[-1], trajectory=walk)
    return to_pil(last.x[0])


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


if __name__ == "__main__":
    main()
