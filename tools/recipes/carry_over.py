"""Adapt a trained prior or decoder to a new CLIP by linear maps between the embeddings.

The old CLIP's embeddings and token states are fitted as affine functions of the new one's, by least squares
on captioned images. The maps are multiplied into the layers that read them. Train the result further
(`init=FOLDER`).

    python tools/recipes/carry_over.py unclip/bundled/mini/decoder "runs/mini/data/train-64/*.tar" \\
        --old unclip/bundled/mini/clip --new runs/mini/clip --out runs/mini/decoder-start
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from unclip.clip import Clip, encode_pictures
from unclip.data.sample import picture
from unclip.data.tar import find_shards, read_samples
from unclip.models.resolve import load_clip, resolve
from unclip.stages import load_stage
from unclip.stages.decoder import Decoder, DecoderNetwork
from unclip.stages.prior import Prior, PriorNetwork


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", help="reference of a prior or decoder")
    parser.add_argument("shards", help="shards of captioned images")
    parser.add_argument("--old", required=True, help="reference of the CLIP that it was trained with")
    parser.add_argument("--new", required=True, help="reference of the new CLIP")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--count", type=int, default=8000, help="images to fit the maps on")
    args = parser.parse_args()
    stage, new = load_stage(resolve(args.stage).folder), load_clip(args.new)
    ours, theirs = (
        features(load_clip(args.old), args.shards, args.count),
        features(new, args.shards, args.count),
    )
    names = ("image_embed", "text_embed", "tokens")
    maps = {name: fit(b, a, name) for name, a, b in zip(names, ours, theirs, strict=True)}
    back = fit(ours[0], theirs[0], "image_embed, back")
    with torch.no_grad():
        network = getattr(stage, "network", None)
        if isinstance(stage, Decoder) and isinstance(network, DecoderNetwork):
            read_through(network.embed_to_time, maps["image_embed"])
            read_through(network.embed_to_tokens, maps["image_embed"])
            read_through(network.text_to_time, maps["text_embed"])
            read_through(network.text_to_context, maps["tokens"])
            stage.null_embed.copy_(apply(back, stage.null_embed[None])[0])
        elif isinstance(stage, Prior) and isinstance(network, PriorNetwork):
            read_through(network.text, maps["tokens"])
            read_through(network.text_embed, maps["text_embed"])
            # The prior works on whitened z_i, so its maps are between whitened spaces.
            mean, std = theirs[0].mean(0), theirs[0].std(0).clamp(min=1e-4)
            old_mean, old_std = stage.mean.clone(), stage.std.clone()
            read_through(network.image_embed, whitened(maps["image_embed"], (mean, std), (old_mean, old_std)))
            write_through(network.out_proj, whitened(back, (old_mean, old_std), (mean, std)))
            stage.mean.copy_(mean)
            stage.std.copy_(std)
        else:
            parser.error(f"{args.stage} holds a {stage.config.kind}, which reads no CLIP")
    stage.config = stage.config.model_copy(update={"clip": new.identity})
    args.out.mkdir(parents=True, exist_ok=True)
    stage.save(args.out)


Map = tuple[Tensor, Tensor]  # x → x @ first + second


@torch.no_grad()
def features(clip: Clip, shards: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """z_i [N, D], z_t [N, D], and all captions' token states [tokens, W]."""
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    samples = list(islice(read_samples(find_shards(shards)), count))
    for start in tqdm(range(0, len(samples), 250), desc=clip.identity, mininterval=10):
        group = samples[start : start + 250]
        text = clip.encode_text([sample["txt"].decode() for sample in group])
        found[0].append(encode_pictures(clip, [picture(sample) for sample in group]).float())
        found[1].append(text.embed.float())
        found[2].append(text.tokens[text.mask].float())
    embeds, texts, tokens = (torch.cat(parts) for parts in found)
    return embeds, texts, tokens


def fit(x: Tensor, y: Tensor, name: str) -> Map:
    """The affine map x → y of least squared error, with a small ridge. Prints the explained variance."""
    mean, middle = x.double().mean(0), y.double().mean(0)
    a, b = x.double() - mean, y.double() - middle
    ridge = 1e-3 * a.square().mean() * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    weight = torch.linalg.solve(a.T @ a + ridge, a.T @ b)
    print(f"{name}: explains {1 - (a @ weight - b).square().sum() / b.square().sum():.1%}")
    return weight.float(), (middle - mean @ weight).float()


def apply(by: Map, x: Tensor) -> Tensor:
    """Map x [N, from] → [N, to]."""
    return x @ by[0] + by[1]


def read_through(layer: nn.Linear, by: Map) -> None:
    """Compose a layer with a map of its input: layer(by(x))."""
    layer.bias.add_(layer.weight @ by[1])
    layer.weight.copy_(layer.weight @ by[0].T)


def write_through(layer: nn.Linear, by: Map) -> None:
    """Compose a layer with a map of its output: by(layer(x))."""
    layer.bias.copy_(apply(by, layer.bias[None])[0])
    layer.weight.copy_(by[0].T @ layer.weight)


def whitened(by: Map, source: Map, target: Map) -> Map:
    """The same map between whitened spaces. `source` and `target` are (mean, standard deviation)."""
    weight = source[1][:, None] * by[0] / target[1]
    return weight, (source[0] @ by[0] + by[1] - target[0]) / target[1]


if __name__ == "__main__":
    main()
