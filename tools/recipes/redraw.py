"""Add to each sample the image as the decoder draws it, the input that an upsampler gets in a pipeline.

The true image is resized to the decoder's size, noised to a random share of the timesteps and denoised by the
decoder, given the image's z_i and caption (SDEdit, Meng et al. 2021). So the small image has the decoder's
artefacts and still shows what the large one shows. An upsampler with `stage.redrawn` trains on both.

    python tools/recipes/redraw.py "runs/mini/data/train-256/*.tar" runs/mini/data/redrawn-256 --model mini

Shards that exist are kept, so the same command resumes.
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
from tqdm import tqdm

from unclip.clip import encode_pictures
from unclip.data.sample import captions, picture
from unclip.data.tar import Sample, find_shards, read_shard, write_shard
from unclip.device import quick_in_bf16
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.trajectory import Trajectory
from unclip.images import to_pil, to_tensor
from unclip.pipeline import Pipeline

BATCH = 32
STRENGTH = (0.1, 0.6)  # share of the timesteps
STEPS = 10  # over the whole schedule


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="captioned images")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--model", default="mini", help="reference of a model with a decoder")
    args = parser.parse_args()
    model = Pipeline.from_pretrained(args.model, device="cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    for shard in tqdm(find_shards(args.shards)):
        path = args.out / Path(shard).name
        if not path.exists():
            write_shard(path, redrawn(shard, model))


@torch.inference_mode()
def redrawn(shard: str, model: Pipeline) -> Iterator[Sample]:
    """Yield the samples of a shard with their `low.png`."""
    rng = random.Random(shard)
    source = read_shard(shard)
    while samples := list(islice(source, BATCH)):
        images = [picture(sample) for sample in samples]
        texts = [rng.choice(captions(sample)) for sample in samples]
        for sample, low in zip(samples, redraw(images, texts, model, rng), strict=True):
            yield {**sample, "low.png": low}


def redraw(
    images: list[Image.Image], texts: list[str], model: Pipeline, rng: random.Random
) -> Iterator[bytes]:
    """Yield each square image as the decoder draws it, as PNG."""
    decoder, side = model.decoder, model.decoder.size
    both = model.clip.encode_text([*texts, ""])
    small = [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]
    true = torch.stack([to_tensor(image) for image in small])
    walk = Trajectory(
        known=Known(true, torch.zeros_like(true[:, :1], dtype=torch.bool)), strength=rng.uniform(*STRENGTH)
    )
    options = decoder.config.sampling.updated({"steps": STEPS})
    noise = SeededNoise([rng.getrandbits(62) for _ in images])
    with torch.autocast("cpu", torch.bfloat16, enabled=quick_in_bf16(torch.device("cpu"))):
        z_i = encode_pictures(model.clip, images).float()
        null = both.rows(-1, None).repeat(len(images))
        *_, last = decoder.sample(z_i, both.rows(None, -1), null, options, noise, walk)
    for image in last.x:
        file = io.BytesIO()
        to_pil(image).save(file, "PNG")
        yield file.getvalue()


if __name__ == "__main__":
    main()
