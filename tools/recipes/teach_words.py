"""Train mini's CLIP on words before sentences: images against a phrase for each value of an attribute.

With whole captions, CLIP learns headwear last: subject and setting tell the images of a batch apart, so the
contrastive loss is low before headwear is recognised. Here the captions are single phrases ("a beret", "on
the beach"), and the negatives are all other values of the same attribute (supervised contrastive loss, Yang
et al. 2022, UniCL). The CLIP stage is then trained on captions from these weights.

    python tools/recipes/teach_words.py configs/mini/clip.yaml "runs/mini/data/*-64/*.tar" \\
        --out runs/mini/words
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from unclip.clip.openclip import text_states, tokenize
from unclip.data.sample import picture
from unclip.data.tar import find_shards, read_samples
from unclip.menagerie.captions import WORDS
from unclip.menagerie.scene import COLOURS, VALUES
from unclip.models.resolve import resolve
from unclip.stages.clip import ClipStage
from unclip.train.config import read_run
from unclip.train.ema import Ema

ABSENT = -100  # ignore_index of cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config of the CLIP stage")
    parser.add_argument("shards", help="shards of menagerie images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained stage")
    parser.add_argument("--init", type=Path, help="a saved clip stage to start from")
    parser.add_argument("--images", type=int, default=300_000, help="training images, with repetition")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="time limit; the learning rate decays to zero by then"
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()
    config = read_run(args.config)
    torch.manual_seed(config.train.seed)
    rng = random.Random(config.train.seed)
    start = resolve(str(args.init)).stage("clip") if args.init else None
    stage = ClipStage.load(start) if start else ClipStage(config.stage)  # type: ignore[arg-type]
    pixels, truth = gather(args.shards)
    stage.train().model.visual.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(stage.parameters(), args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    ema = Ema(stage, 0.99)
    started, steps = time.monotonic(), args.images // args.batch
    bar = tqdm(range(1, steps + 1), unit="step", mininterval=10)
    for step in bar:
        done = max(step / steps, (time.monotonic() - started) / (60 * args.minutes))
        if done >= 1 and step > 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, step / 50) * max(0.02, 1 - done)
        chosen = torch.randint(len(pixels), (args.batch,))
        loss = attribute_losses(stage, pixels[chosen], truth[chosen], rng)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        ema.update(stage, step)
        if step % 25 == 0:
            bar.set_postfix({key: f"{value:.2f}" for key, value in zip(VALUES, loss.tolist(), strict=True)})
    args.out.mkdir(parents=True, exist_ok=True)
    ema.stage(stage).save(args.out)


def attribute_losses(stage: ClipStage, pixels: Tensor, truth: Tensor, rng: random.Random) -> Tensor:
    """The loss of each attribute: images [B, 3, H, W] against phrases of all its values.

    `truth` [B, attributes] holds indices of values.
    """
    phrases = {key: [phrase(key, value, rng) for value in values] for key, values in VALUES.items()}
    flat = [text for texts in phrases.values() for text in texts]
    ids, _ = tokenize(stage.tokenizer, flat, stage.architecture.context)
    z_t = F.normalize(text_states(stage.model, ids, stage.tokenizer.eot_token_id)[1], dim=-1)
    images = stage.preprocess(pixels.float() / 127.5 - 1)
    z_i = F.normalize(stage.model.encode_image(images.contiguous(memory_format=torch.channels_last)), dim=-1)
    logits = stage.model.logit_scale.exp().clamp(max=100) * z_i @ z_t.T
    split = logits.split([len(values) for values in VALUES.values()], dim=1)
    return torch.stack(
        [F.cross_entropy(part, truth[:, i], ignore_index=ABSENT) for i, part in enumerate(split)]
    )


def phrase(key: str, value: str, rng: random.Random) -> str:
    """Sample a phrase for one value of an attribute."""
    said = rng.choice(WORDS.get(value, (value,)))
    if key == "setting_colour":
        return f"on a {said} background"
    if value in COLOURS:
        thing = "hat" if key == "headwear_colour" else "garment"
        return rng.choice((f"a {said} {thing}", f"wearing a {said} {thing}"))
    if key in ("headwear", "garment"):
        return rng.choice((said, f"wearing a {said}", f"with a {said}", f"in a {said}"))
    if key == "subject":
        return rng.choice((f"a {said}", f"a picture of a {said}"))
    return said


def gather(shards: str) -> tuple[Tensor, Tensor]:
    """Read all images as uint8 [N, 3, H, W], and the index of each attribute's value or ABSENT."""
    pixels, truth = [], []
    for sample in tqdm(read_samples(find_shards(shards)), desc="reading", unit="picture", mininterval=10):
        scene = json.loads(sample["json"])["scene"]
        pixels.append(torch.from_numpy(np.array(picture(sample))).permute(2, 0, 1))
        truth.append([VALUES[k].index(scene[k]) if scene[k] is not None else ABSENT for k in VALUES])
    return torch.stack(pixels), torch.tensor(truth)


if __name__ == "__main__":
    main()
