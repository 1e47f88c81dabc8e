"""Read stages from Karlo's own checkpoints (github.com/kakaobrain/karlo), one `.ckpt` per stage.

They hold no config, so it is inferred from the tensors' shapes. Queries, keys and values are fused and
interleaved by head.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.errors import CheckpointError
from unclip.models.convert.diffusers_stages import PRIOR_CLAMP, SAMPLING
from unclip.models.convert.weights import filled, read_pickle, tensors
from unclip.nn.unet import UNetConfig
from unclip.stages.config import parse_checkpoint
from unclip.stages.decoder import EXTRA_TOKENS, Decoder
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.prior import Prior
from unclip.stages.upsampler import Upsampler

CLIP = "openclip:ViT-L-14/openai"  # Karlo uses OpenAI's CLIP, which is not among its checkpoints
HEAD = 64  # channels per attention head, which cannot be inferred from the tensors
SIZE, FACTOR = 64, 4  # side of the decoder's images in pixels; factor of the upsampler
UPSAMPLER = f"upsampler-{FACTOR * SIZE}"

# Fused projections and their parts.
_FUSED = {"c_qkv": "qkv", "qkv": "qkv", "encoder_kv": "kv"}

# The tables below map names of our modules to Karlo's. U-Net: residual block.
_RESIDUAL = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "embed": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip": "skip_connection",
}
# U-Net: attention block.
_ATTENTION = {
    "norm": "norm",
    "q": "qkv.q",
    "k": "qkv.k",
    "v": "qkv.v",
    "context_k": "encoder_kv.k",
    "context_v": "encoder_kv.v",
    "out": "proj_out",
}
# Timestep embedding of all stages.
_TIME = {"linear_1": "time_embed.0", "linear_2": "time_embed.2"}
# Prior: layers outside of the transformer.
_PRIOR = {
    "text": "text_enc_proj",
    "text_embed": "text_emb_proj",
    "image_embed": "clip_img_proj",
    "query": "prd_emb",
    "positions": "positional_embedding",
    "out_proj": "out_proj",
}
# Prior: transformer block.
_BLOCK = {
    "norm_1": "ln_1",
    "q": "attn.c_qkv.q",
    "k": "attn.c_qkv.k",
    "v": "attn.c_qkv.v",
    "out": "attn.c_proj",
    "norm_2": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
# Decoder: projections of z_i and the caption.
_CONDITION = {
    "embed_to_time": "clip_emb",
    "text_to_time": "text_feat_proj",
    "embed_to_tokens": "clip_tok_proj",
    "text_to_context": "text_seq_proj.0",
    "context_norm": "text_seq_proj.1",
}


def read_checkpoint(path: Path) -> DiffusionStage:
    """Read the stage in a `.ckpt`; a prior also needs the embedding statistics `*_stats.th` beside it.

    Raises:
        CheckpointError: damaged, not Karlo's, or a pickle of more than tensors.
    """
    tree = read_pickle(path)
    weights = _unfused(tensors(tree.get("state_dict") if isinstance(tree, dict) else None, path), path)
    kinds: dict[str, Callable[[dict[str, Tensor], Path], Prior | Decoder | Upsampler]] = {
        "model.prd_emb": _prior,
        "model.cf_param": _decoder,
        "model_last_step.out.2.weight": _upsampler,
    }
    read = next((read for name, read in kinds.items() if name in weights), None)
    if read is None:
        raise CheckpointError(f"{path}: is none of Karlo's checkpoints (prior, decoder, improved-sr)")
    try:
        return read(weights, path)
    except KeyError as error:
        raise CheckpointError(f"{path}: tensor {error.args[0]} is missing") from None


def _prior(weights: dict[str, Tensor], path: Path) -> Prior:
    width, token_width = weights["model.text_enc_proj.weight"].shape
    config = parse_checkpoint(
        Prior.Config,
        path,
        {
            "embed": weights["model.clip_img_proj.weight"].shape[1],
            "token_width": token_width,
            "context": weights["model.positional_embedding"].shape[1] - 4,
            "width": width,
            "depth": sum(name.endswith(".ln_1.weight") for name in weights),
            "heads": width // HEAD,
            "text_drop": 0.2,
            "diffusion": {"predict": "x0", "clamp": PRIOR_CLAMP},
            "sampling": SAMPLING["prior"],
        },
    )
    found = sorted(path.parent.glob("*_stats.th"))
    if not found:
        raise CheckpointError(f"{path}: the embeddings' statistics are missing beside it (ViT-L-14_stats.th)")
    statistics = read_pickle(found[0])
    if not isinstance(statistics, list | tuple) or len(statistics) != 2:
        raise CheckpointError(f"{found[0]}: expected the embeddings' mean and deviation")
    weights.update(tensors(dict(zip(("clip_mean", "clip_std"), statistics, strict=True)), found[0]))
    with torch.device("meta"):
        stage = Prior(config)
    return filled(stage, _prior_name, weights, path)


def _decoder(weights: dict[str, Tensor], path: Path) -> Decoder:
    context_width, token_width = weights["model.text_seq_proj.0.weight"].shape
    if weights["model.clip_tok_proj.weight"].shape[0] != EXTRA_TOKENS * context_width:
        raise CheckpointError(f"{path}: model.clip_tok_proj does not make {EXTRA_TOKENS} tokens")
    config = parse_checkpoint(
        Decoder.Config,
        path,
        {
            "size": SIZE,
            "embed": len(weights["model.cf_param"]),
            "token_width": token_width,
            "context_width": context_width,
            "unet": {**_shape(weights, "model"), "dropout": 0.1},
            "text_drop": 0.3,
            "diffusion": {"variance": "learned", "objective": "hybrid"},
            "sampling": SAMPLING["decoder"],
        },
    )
    with torch.device("meta"):
        stage = Decoder(config)

    def name(ours: str) -> str:
        if ours == "null_embed":
            return "model.cf_param"
        part, _, rest = ours.removeprefix("network.").partition(".")
        return (
            f"model.{_unet_name(rest, config.unet)}" if part == "unet" else f"model.{_CONDITION[part]}.{rest}"
        )

    return filled(stage, name, weights, path)


def _upsampler(weights: dict[str, Tensor], path: Path) -> Upsampler:
    config = parse_checkpoint(
        Upsampler.Config,
        path,
        {
            "size": FACTOR * SIZE,
            "factor": FACTOR,
            "unet": _shape(weights, "model_first_steps"),
            "catmull_rom": True,
            "expert": True,
            "sampling": SAMPLING["upsampler"],
        },
    )
    with torch.device("meta"):
        stage = Upsampler(config)

    def name(ours: str) -> str:
        part, _, rest = ours.removeprefix("network.").partition(".")
        network = "model_last_step" if part == "expert" else "model_first_steps"
        return f"{network}.{_unet_name(rest, config.unet)}"

    return filled(stage, name, weights, path)


def _unfused(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Split fused projections (`…qkv.weight` → `…qkv.q.weight` …); 1 × 1 convolutions become matrices."""
    apart = {}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and tensor.ndim == 3:
            tensor = tensor[:, :, 0]
        parts = _FUSED.get(module.rpartition(".")[2])
        if parts is None:
            apart[name] = tensor
            continue
        if len(tensor) % (len(parts) * HEAD):
            raise CheckpointError(f"{path}: tensor {name} is not made of heads of {HEAD} channels")
        # Rows are ordered by head, then by q, k, v.
        heads = tensor.reshape(-1, len(parts), HEAD, *tensor.shape[1:])
        apart.update({f"{module}.{part}.{kind}": heads[:, i].flatten(0, 1) for i, part in enumerate(parts)})
    return apart


def _shape(weights: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    """Infer a U-Net's config from its tensors.

    `input_blocks` is one flat list of blocks; the first change of width shows the number of blocks per level.
    """
    widths: list[int] = []
    while (name := f"{prefix}.input_blocks.{len(widths) + 1}.0.in_layers.2.weight") in weights:
        widths.append(len(weights[name]))
    channels = len(weights[f"{prefix}.input_blocks.0.0.weight"])
    # Blocks per level: `depth` residual blocks and a resampler.
    rows = next((i for i, width in enumerate(widths) if width != channels), len(widths) + 1)
    levels = range(0, len(widths), rows)
    return {
        "channels": channels,
        "multipliers": [widths[row] // channels for row in levels],
        "depth": rows - 1,
        "attention": [
            i for i, row in enumerate(levels) if f"{prefix}.input_blocks.{row + 1}.1.norm.weight" in weights
        ],
        "middle_attention": f"{prefix}.middle_block.1.norm.weight" in weights,
        "head_channels": HEAD,
        "scale_shift": len(weights[f"{prefix}.input_blocks.1.0.emb_layers.1.weight"]) == 2 * channels,
    }


def _prior_name(ours: str) -> str:
    if ours in ("mean", "std"):
        return f"clip_{ours}"
    match ours.removeprefix("network.").split("."):
        case ["time", linear, kind]:
            return f"model.{_TIME[linear]}.{kind}"
        case ["body", "norm", kind]:
            return f"model.final_ln.{kind}"
        case ["body", "blocks", i, leaf, kind]:
            return f"model.transformer.resblocks.{i}.{_BLOCK[leaf]}.{kind}"
        case [part, *kind]:
            return ".".join(["model", _PRIOR[part], *kind])
    raise AssertionError(ours)


def _unet_name(ours: str, config: UNetConfig) -> str:
    """Name of our U-Net's tensor: `down.1.blocks.0.conv_1.weight` → `input_blocks.5.0.in_layers.2.weight`."""
    rows = config.depth + 1
    match ours.split("."):
        case ["conv_in", kind]:
            return f"input_blocks.0.0.{kind}"
        case ["norm", kind]:
            return f"out.0.{kind}"
        case ["conv_out", kind]:
            return f"out.2.{kind}"
        case ["time", linear, kind]:
            return f"{_TIME[linear]}.{kind}"
        case ["middle_1", leaf, kind]:
            return f"middle_block.0.{_RESIDUAL[leaf]}.{kind}"
        case ["middle_attention", leaf, kind]:
            return f"middle_block.1.{_ATTENTION[leaf]}.{kind}"
        case ["middle_2", leaf, kind]:
            return f"middle_block.{1 + config.middle_attention}.{_RESIDUAL[leaf]}.{kind}"
        case [side, level, "blocks", i, leaf, kind]:
            return f"{_row(side, int(level) * rows + int(i))}.0.{_RESIDUAL[leaf]}.{kind}"
        case [side, level, "attention", i, leaf, kind]:
            return f"{_row(side, int(level) * rows + int(i))}.1.{_ATTENTION[leaf]}.{kind}"
        case ["down", level, "resampler", leaf, kind]:
            return f"{_row('down', int(level) * rows + config.depth)}.0.{_RESIDUAL[leaf]}.{kind}"
        case ["up", level, "resampler", leaf, kind]:  # shares a row with the level's last block
            attends = len(config.multipliers) - 1 - int(level) in config.attention
            return f"{_row('up', int(level) * rows + config.depth)}.{1 + attends}.{_RESIDUAL[leaf]}.{kind}"
    raise AssertionError(ours)


def _row(side: str, index: int) -> str:
    return f"input_blocks.{1 + index}" if side == "down" else f"output_blocks.{index}"
