"""Trains mini's CLIP: each picture against a phrase for every value that it might show, and against captions.

Captions alone leave hats for last: subject and setting tell a batch's pictures apart, so the contrastive loss
is content long before it looks at a hat. Phrases are single values ("a beret", "on the beach"); the negatives
are all other values of the same attribute, so each picture is in as many contests as it shows things (the
supervised contrastive view of Yang et al. 2022, UniCL). Captions are whole or brief ones; half of their
pictures are siblings, which differ in two attributes.

    python tools/recipes/teach_clip.py configs/mini/clip.yaml --shards "runs/mini/data/train-64/*.tar" \\
        --siblings "runs/mini/data/siblings-64/*.tar" --out runs/mini/clip

The same command again goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from unclip.data.sample import picture
from unclip.data.tar import find_shards, read_samples
from unclip.device import quick_in_bf16
from unclip.files import new_folder, read_weights, write_weights
from unclip.menagerie.captions import WORDS, caption
from unclip.menagerie.judge.train import disturb
from unclip.menagerie.scene import COLOURS, VALUES, Scene
from unclip.models.resolve import resolve
from unclip.stages.clip import ClipStage
from unclip.train.config import read_run
from unclip.train.ema import Ema

FAMILY = 25  # siblings in a row in the shards
TOGETHER = 12  # of them in a batch
SAVE_EVERY = 250  # steps
TEXT_RATE = 0.25  # of the learning rate, for a text tower that is trained already
METRICS = "metrics.jsonl"  # as the trainer's, but the last line alone


@dataclass(frozen=True)
class Pictures:
    """Pictures and what they show.

    Attributes:
        pixels: uint8 [N, 3, H, W].
        truth: number of each attribute's value, as many as there are values where it has none, int64 [N,
            attributes].
        scenes: the same as scenes.
    """

    pixels: Tensor
    truth: Tensor
    scenes: list[Scene]


class Teacher(nn.Module):
    """The stage, and a direction of z_i for the absence of each attribute, which no caption names. Only the
    stage is kept.
    """

    def __init__(self, stage: ClipStage) -> None:
        super().__init__()
        self.stage, self.config = stage, stage.config
        self.absent = nn.Parameter(torch.randn(len(VALUES), stage.architecture.embed))

    def embed_pictures(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [−1, 1] → unit z_i, [B, D]."""
        seen = self.stage.preprocess(images)
        return F.normalize(self.stage.model.encode_image(seen).float(), dim=1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Captions → unit z_t, [B, D]."""
        return F.normalize(self.stage.encode_captions(texts).float(), dim=1)

    def contests(self, z_i: Tensor, truth: Tensor, phrases: Tensor) -> Tensor:
        """The loss of each attribute, [attributes]: pictures against phrases for all its values and its
        absence.
        """
        z_t = phrases.split([len(values) for values in VALUES.values()])
        absent = F.normalize(self.absent, dim=1)
        scale = self.stage.model.logit_scale.exp().clamp(max=100)
        return torch.stack(
            [
                F.cross_entropy(scale * z_i @ torch.cat([values, absent[i : i + 1]]).T, truth[:, i])
                for i, values in enumerate(z_t)
            ]
        )

    def sentences(self, z_i: Tensor, z_t: Tensor) -> Tensor:
        """CLIP's loss of pictures and their captions."""
        scale = self.stage.model.logit_scale.exp().clamp(max=100)
        logits = scale * z_i @ z_t.T
        own = torch.arange(len(z_i))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="of the clip stage")
    parser.add_argument("--shards", required=True, help="pictures of the menagerie")
    parser.add_argument("--siblings", required=True, help="shards of siblings")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stage")
    parser.add_argument("--text", type=Path, help="a saved clip stage whose text tower is the start")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--sentences", type=float, default=0.5, help="weight of the captions' loss")
    parser.add_argument("--captions", type=int, default=48, help="pictures of a batch that come with one")
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    config = read_run(args.config)
    torch.manual_seed(config.train.seed)
    stage = ClipStage(config.stage)  # type: ignore[arg-type]
    if args.text:
        theirs = ClipStage.load(resolve(str(args.text)).stage("clip")).state_dict()
        stage.load_state_dict(
            {**stage.state_dict(), **{k: v for k, v in theirs.items() if "visual" not in k}}
        )
    stage.train().model.visual.to(memory_format=torch.channels_last)
    teacher = Teacher(stage)
    optimizer = torch.optim.AdamW(
        groups(teacher, args.lr, 0.05, bool(args.text)), betas=(0.9, 0.98), fused=True
    )
    ema = Ema(teacher, 0.995)  # type: ignore[arg-type]
    done = resume(args.out, teacher, ema, optimizer)
    if done >= args.steps:
        return
    singles, siblings = gather(args.shards), gather(args.siblings)
    quick = quick_in_bf16(torch.device("cpu"))
    rates = [group["lr"] for group in optimizer.param_groups]
    bar = tqdm(range(done, args.steps), initial=done, total=args.steps, unit="step", mininterval=10)
    for step in bar:
        rng = random.Random(f"{config.train.seed}/{step}")
        torch.manual_seed(rng.getrandbits(62))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 100) * max(0.01, 1 - step / args.steps)
        images, truth, scenes = draw_batch(singles, siblings, args.batch, args.captions, rng)
        captions = [caption(scene, rng, brief=rng.random() < 0.4).text for scene in scenes[: args.captions]]
        phrases = [phrase(key, value, rng) for key, values in VALUES.items() for value in values]
        # Of torch's kernels for attention, the CPU's quick one takes longest backwards over so few tokens.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=quick):
            z_i, z_t = teacher.embed_pictures(images), teacher.embed_texts([*captions, *phrases])
        words = teacher.contests(z_i, truth, z_t[args.captions :])
        said = teacher.sentences(z_i[: args.captions], z_t[: args.captions])
        optimizer.zero_grad(set_to_none=True)
        (words.sum() + args.sentences * said).backward()
        torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        optimizer.step()
        ema.update(teacher, step + 1)  # type: ignore[arg-type]
        if step % 25 == 0:
            figures = {key: f"{value:.2f}" for key, value in zip(VALUES, words.tolist(), strict=True)}
            bar.set_postfix({**figures, "said": f"{said.item():.2f}"})
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == args.steps:
            progress = {
                "step": step + 1,
                "images": (step + 1) * args.batch,
                "loss": round(words.mean().item(), 4),
            }
            keep(args.out, progress, teacher, ema, optimizer)


def groups(teacher: Teacher, rate: float, decay: float, trained: bool) -> list[dict[str, object]]:
    """AdamW's parameter groups: vectors without weight decay, a trained text tower at a lower rate."""
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in teacher.named_parameters():
        slow = (
            trained and name.startswith("stage.model.") and "visual" not in name and "logit_scale" not in name
        )
        found.setdefault((slow, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "lr": rate * (TEXT_RATE if slow else 1), "weight_decay": decay if matrix else 0.0}
        for (slow, matrix), params in found.items()
    ]


def draw_batch(
    singles: Pictures, siblings: Pictures, batch: int, captions: int, rng: random.Random
) -> tuple[Tensor, Tensor, list[Scene]]:
    """Pictures in [−1, 1], their truth and scenes; half of the first `captions` ones are of families. Every
    second picture is augmented. `batch` is even.
    """
    count = captions // 2
    rows = rng.choices(range(len(singles.scenes)), k=batch - count // TOGETHER * TOGETHER)
    families = rng.sample(range(len(siblings.scenes) // FAMILY), count // TOGETHER)
    family = [number * FAMILY + i for number in families for i in rng.sample(range(FAMILY), TOGETHER)]
    pixels = torch.cat([siblings.pixels[family], singles.pixels[rows]])
    truth = torch.cat([siblings.truth[family], singles.truth[rows]])
    scenes = [siblings.scenes[i] for i in family] + [singles.scenes[i] for i in rows]
    plain = pixels[::2].float() / 127.5 - 1
    images = torch.stack([plain, disturb(pixels[1::2])], dim=1).flatten(0, 1)  # every second is augmented
    return images, truth, scenes


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


def gather(shards: str) -> Pictures:
    """All pictures of the shards."""
    pixels, truth, scenes = [], [], []
    for sample in tqdm(read_samples(find_shards(shards)), desc="reading", unit="picture", mininterval=10):
        scene = json.loads(sample["json"])["scene"]
        pixels.append(torch.from_numpy(np.array(picture(sample))).permute(2, 0, 1))
        truth.append([VALUES[k].index(scene[k]) if scene[k] is not None else len(VALUES[k]) for k in VALUES])
        scenes.append(Scene(**scene, pose=0))
    return Pictures(torch.stack(pixels), torch.tensor(truth), scenes)


def keep(
    out: Path, progress: dict[str, float], teacher: Teacher, ema: Ema, optimizer: torch.optim.Optimizer
) -> None:
    """Writes the averaged stage, and beside it how far it is and what the training needs to go on."""
    averaged = {k.removeprefix("stage."): v for k, v in ema.tensors.items() if k.startswith("stage.")}
    with torch.device("meta"):
        twin = ClipStage(teacher.stage.config)  # type: ignore[arg-type]
    twin.load_state_dict(averaged, assign=True)
    state = {f"weights.{k}": v for k, v in teacher.state_dict().items()}
    state |= {f"ema.{k}": v for k, v in ema.tensors.items()}
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        state |= {f"adam.{i}.{k}": v for k, v in optimizer.state[parameter].items()}
    with new_folder(out, replaces="config.json") as temporary:
        twin.save(temporary)
        write_weights({k: v.contiguous() for k, v in state.items()}, temporary / "training.safetensors")
        (temporary / METRICS).write_text(json.dumps(progress) + "\n", encoding="utf-8")


def resume(out: Path, teacher: Teacher, ema: Ema, optimizer: torch.optim.Optimizer) -> int:
    """Goes on from what `keep` wrote; returns the steps done."""
    if not (out / METRICS).is_file():
        return 0
    state = read_weights(out / "training.safetensors")
    teacher.load_state_dict({k: state[f"weights.{k}"] for k in teacher.state_dict()})
    ema.load({k: state[f"ema.{k}"] for k in ema.tensors})
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter] = {
            k: torch.empty_like(parameter).copy_(v) if v.ndim else v.clone()
            for k in ("step", "exp_avg", "exp_avg_sq")
            if (v := state[f"adam.{i}.{k}"]) is not None
        }
    return int(json.loads((out / METRICS).read_text(encoding="utf-8"))["step"])


if __name__ == "__main__":
    main()
