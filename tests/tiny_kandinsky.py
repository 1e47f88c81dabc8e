"""Kandinsky 2.2 in small: diffusers' three pipelines with random weights, saved as their repositories are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unclip.clip.torchvision_schemas import declare_missing_schemas

declare_missing_schemas()

import diffusers  # noqa: E402
import transformers  # noqa: E402

WIDTH, CONTEXT, SIDE, CELL = 32, 16, 64, 4
PRIOR, DECODER, INPAINT = "kandinsky-2-2-prior", "kandinsky-2-2-decoder", "kandinsky-2-2-decoder-inpaint"


def seeded(module: nn.Module, seed: int) -> Any:
    """Away from the zeros and ones of a fresh network, so that a misplaced tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return module.eval()


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over single letters."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": CONTEXT}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def scheduler(**changes: Any) -> Any:
    """The decoder's diffusion process; the repository's scheduler is a DDPM with learned variance."""
    return diffusers.DDPMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        variance_type="learned_range",
        clip_sample=False,
        **changes,
    )


def unet(channels: int, seed: int) -> Any:
    made = diffusers.UNet2DConditionModel(
        sample_size=SIDE // CELL,
        in_channels=channels,
        out_channels=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=16,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        attention_head_dim=16,
        resnet_time_scale_shift="scale_shift",
    )
    return seeded(made, seed)


def movq() -> Any:
    made = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        num_vq_embeddings=12,
        vq_embed_dim=4,
        norm_type="spatial",
    )
    return seeded(made, 8)


def prior_pipeline(folder: Path) -> Any:
    """A small KandinskyV22PriorPipeline; `folder` is for its tokenizer."""
    words = tokenizer(folder)
    text = transformers.CLIPTextConfig(
        vocab_size=words.eos_token_id + 1,
        hidden_size=WIDTH,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=words.eos_token_id - 1,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.eos_token_id,
        hidden_act="gelu",
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    prior = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=WIDTH,
        num_embeddings=CONTEXT,
    )
    return diffusers.KandinskyV22PriorPipeline(
        prior=seeded(prior, 1),
        image_encoder=seeded(transformers.CLIPVisionModelWithProjection(vision), 2),
        text_encoder=seeded(transformers.CLIPTextModelWithProjection(text), 3),
        tokenizer=words,
        scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        image_processor=transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
    )


def write(folder: Path) -> Path:
    """Write the three repositories into the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior_pipeline(folder / "words").save_pretrained(folder / PRIOR)
        plain = diffusers.KandinskyV22Pipeline(unet=unet(4, 4), scheduler=scheduler(), movq=movq())
        plain.save_pretrained(folder / DECODER)
        inpaint = diffusers.KandinskyV22InpaintPipeline(unet=unet(9, 5), scheduler=scheduler(), movq=movq())
        inpaint.save_pretrained(folder / INPAINT)
    return folder
