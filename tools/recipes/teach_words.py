"""Teaches mini's CLIP words before sentences: each picture against a phrase for every value that it might
show.

Whole captions alone leave hats for last: subject and setting tell a batch's pictures apart, so the
contrastive loss is content long before it looks at a hat. Here the captions are single phrases ("a beret",
"on the beach"), the negatives are all other values of the same attribute, and each picture is in as many
contests as it shows things (the supervised contrastive view of Yang et al. 2022, UniCL). The clip stage then
goes on with sentences, from this one's weights.

    python tools/recipes/teach_words.py configs/mini/clip.yaml "runs/mini/data/*-64/*.tar" --out
    runs/mini/words
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

NOTHING = -100  # what cross_entropy leaves out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="of the clip stage")
    parser.add_argument("shards", help="of menagerie pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stage")
    parser.add_argument("--init", type=Path, help="a saved clip stage to start from")
    parser.add_argument("--images", type=int, default=300_000, help="how many it looks at, again and again")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="the longest it may take; the rate falls to zero by then"
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()
    config = read_run(args.config)
    torch.manual_seed(config.train.seed)
    rng = random.Random(config.train.seed)
    stage = ClipStage.load(resolve(str(args.init)).stage("clip")) if args.init else ClipStage(config.stage)  # type: ignore[arg-type]
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
        loss = contests(stage, pixels[chosen], truth[chosen], rng)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        ema.update(stage, step)
        if step % 25 == 0:
            bar.set_postfix({key: f"{value:.2f}" for key, value in zip(VALUES, loss.tolist(), strict=True)})
    args.out.mkdir(parents=True, exist_ok=True)
    ema.stage(stage).save(args.out)


def contests(stage: ClipStage, pixels: Tensor, truth: Tensor, rng: random.Random) -> Tensor:
    """The loss of each attribute: pictures [B, 3, H, W] against the phrases of all its values; truth [B,
    attributes].
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
        [F.cross_entropy(part, truth[:, i], ignore_index=NOTHING) for i, part in enumerate(split)]
    )


def phrase(key: str, value: str, rng: random.Random) -> str:
    """A way to say one value of an attribute alone."""
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
    """All pictures as uint8 [N, 3, H, W], and the number of each attribute's value, NOTHING where it has
    none.
    """
    pixels, truth = [], []
    for sample in tqdm(read_samples(find_shards(shards)), desc="reading", unit="picture", mininterval=10):
        scene = json.loads(sample["json"])["scene"]
        pixels.append(torch.from_numpy(np.array(picture(sample))).permute(2, 0, 1))
        truth.append([VALUES[k].index(scene[k]) if scene[k] is not None else NOTHING for k in VALUES])
    return torch.stack(pixels), torch.tensor(truth)


if __name__ == "__main__":
    main()
