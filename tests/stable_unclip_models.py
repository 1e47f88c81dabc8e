"""Stable unCLIP in small: diffusers' two pipelines with random weights, as their published repositories."""

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
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (  # noqa: E402
    StableUnCLIPImageNormalizer,
)

EMBED, TEXT, CONTEXT, LATENT, SIDE = 24, 32, 16, 8, 16  # SIDE in pixels, LATENT in latent positions
LATENTS = (4, LATENT, LATENT)


def seeded(module: nn.Module, seed: int) -> Any:
    """Away from the zeros and ones of a fresh network, so that a misplaced tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return module.eval()


def tokenizer(folder: Path, padding: str) -> Any:
    """CLIP's tokenizer over single letters."""
    folder.mkdir(parents=True)
    letters = ["!", *(chr(c) for c in range(ord("a"), ord("z") + 1))]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"model_max_length": CONTEXT, "pad_token": padding}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def text_config(words: Any, projection: int) -> Any:
    end = words.convert_tokens_to_ids("<|endoftext|>")
    return transformers.CLIPTextConfig(
        vocab_size=end + 1,
        hidden_size=TEXT,
        intermediate_size=48,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        hidden_act="gelu",
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=0,
    )


def unet() -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=LATENT,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * EMBED,
    )


def autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=SIDE,
    )


def scheduler(kind: str = "DDIMScheduler", **changes: Any) -> Any:
    """Stable Diffusion 2.1's; published as a PNDMScheduler with set_alpha_to_one False."""
    config: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "steps_offset": 1,
        "set_alpha_to_one": True,
    }
    if kind == "DDIMScheduler":
        config["clip_sample"] = False
    return getattr(diffusers, kind)(**{**config, **changes})


def vision() -> Any:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            projection_dim=EMBED,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
    )


def _decoder(folder: Path) -> dict[str, Any]:
    """The parts that both pipelines have."""
    words = tokenizer(folder / "words", "!")
    return {
        "image_normalizer": seeded(StableUnCLIPImageNormalizer(EMBED), 1),
        "image_noising_scheduler": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "tokenizer": words,
        "text_encoder": seeded(transformers.CLIPTextModel(text_config(words, 512)), 2),
        "unet": seeded(unet(), 3),
        "scheduler": scheduler(),
        "vae": seeded(autoencoder(), 4),
    }


def variations(folder: Path) -> Any:
    """A StableUnCLIPImg2ImgPipeline, as stable-diffusion-2-1-unclip(-small)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = diffusers.StableUnCLIPImg2ImgPipeline(
            **_decoder(folder),
            image_encoder=seeded(vision(), 5),
            feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def from_captions(folder: Path) -> Any:
    """A StableUnCLIPPipeline, as stable-diffusion-2-1-unclip-t2i-l: Karlo's prior before the decoder."""
    words = tokenizer(folder / "prior_words", "<|endoftext|>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = diffusers.PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            embedding_dim=EMBED,
            num_embeddings=CONTEXT,
            additional_embeddings=4,
        )
        config = text_config(words, EMBED)
        config.hidden_size = EMBED  # token states as wide as z_t, as ViT-L/14's
        pipe = diffusers.StableUnCLIPPipeline(
            **_decoder(folder),
            prior=seeded(prior, 6),
            prior_tokenizer=words,
            prior_text_encoder=seeded(transformers.CLIPTextModelWithProjection(config), 7),
            prior_scheduler=diffusers.DDPMScheduler(
                beta_schedule="squaredcos_cap_v2",
                variance_type="fixed_small_log",
                prediction_type="sample",
                clip_sample_range=5.0,
            ),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
