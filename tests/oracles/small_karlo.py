"""diffusers' unCLIP pipelines at small sizes, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.schedule import cosine_betas

declare_missing_schemas()
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel  # noqa: E402

WIDTH, CONTEXT, LOW, HIGH = 32, 16, 8, 32


def seeded(module: nn.Module, seed: int) -> Any:
    """Away from the zeros and ones of a fresh network, so that a misplaced tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return module.eval()


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over single letters."""
    folder.mkdir()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": CONTEXT}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def text_config(end: int) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=end + 1,
        hidden_size=WIDTH,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )


def prior() -> Any:
    network = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=WIDTH,
        num_embeddings=CONTEXT,
        additional_embeddings=4,
    )
    return seeded(network, 1)


def decoder() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=LOW,
        in_channels=3,
        out_channels=6,
        layers_per_block=2,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=48,
        class_embed_type="identity",
        attention_head_dim=16,
        resnet_time_scale_shift="scale_shift",
    )


def upsampler() -> Any:
    return diffusers.UNet2DModel(
        sample_size=HIGH,
        in_channels=6,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
        add_attention=False,
        resnet_time_scale_shift="default",
    )


def scheduler(variance: str, predict: str, bound: float) -> Any:
    """With its tables in double: in float32, as theirs are, they are wrong by 5e-4 near the clean end."""
    made = diffusers.UnCLIPScheduler(variance_type=variance, prediction_type=predict, clip_sample_range=bound)
    made.betas = cosine_betas(1000)
    made.alphas = 1 - made.betas
    made.alphas_cumprod = torch.cumprod(made.alphas, 0)
    made.one = torch.tensor(1.0, dtype=torch.float64)
    return made


def karlo_pipeline(words_folder: Path) -> Any:
    """A small UnCLIPPipeline; its tokenizer is written into a new folder."""
    words = tokenizer(words_folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = diffusers.UnCLIPPipeline(
            prior=prior(),
            text_encoder=seeded(transformers.CLIPTextModelWithProjection(text_config(words.eos_token_id)), 2),
            decoder=seeded(decoder(), 3),
            text_proj=seeded(
                UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=128, cross_attention_dim=48), 4
            ),
            super_res_first=seeded(upsampler(), 5),
            super_res_last=seeded(upsampler(), 6),
            tokenizer=words,
            prior_scheduler=scheduler("fixed_small_log", "sample", 5.0),
            decoder_scheduler=scheduler("learned_range", "epsilon", 1.0),
            super_res_scheduler=scheduler("fixed_small_log", "epsilon", 1.0),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_encoder() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                projection_dim=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
            )
        )
    return seeded(vision, 7)


def image_processor() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)


def variation_pipeline(theirs: Any) -> Any:
    """A small UnCLIPImageVariationPipeline, with the other's networks."""
    shared = ("decoder", "text_encoder", "tokenizer", "text_proj", "super_res_first", "super_res_last")
    parts = {name: getattr(theirs, name) for name in (*shared, "decoder_scheduler", "super_res_scheduler")}
    pipe = diffusers.UnCLIPImageVariationPipeline(
        **parts, image_encoder=image_encoder(), feature_extractor=image_processor()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def kandinsky_prior_pipeline(theirs: Any, kind: str) -> Any:
    """A small pipeline of class `kind`: Kandinsky 2.1's or 2.2's prior, with another pipeline's networks."""
    pipe = getattr(diffusers, kind)(
        prior=theirs.prior,
        image_encoder=image_encoder(),
        text_encoder=theirs.text_encoder,
        tokenizer=theirs.tokenizer,
        scheduler=scheduler("fixed_small_log", "sample", 10.0),
        image_processor=image_processor(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
