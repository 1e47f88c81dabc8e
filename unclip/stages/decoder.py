"""The decoder: z_i and the caption → a 64 px picture (Ramesh et al. 2022, §2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.diffusion import Cond, Denoise, DiffusionConfig
from unclip.diffusion.noise import Noise
from unclip.diffusion.samplers import Step
from unclip.nn.transformer import TextEncoder, TransformerConfig
from unclip.nn.unet import UNet, UNetConfig
from unclip.stages.base import Batch, DiffusionStage, DiffusionStageConfig, SamplingConfig, drop_text, same_length

EXTRA_TOKENS = 4  # context tokens made of z_i


class TextEncoderConfig(TransformerConfig):
    """A text encoder of the decoder's own, trained with it (GLIDE, DALL·E 2); without one it reads CLIP's states."""

    vocabulary: int
    context: int


class DecoderConfig(DiffusionStageConfig):
    """The decoder's shape and how it is trained.

    Attributes:
        size: of its pictures, in pixels.
        embed: width D of CLIP's embeddings. token_width: of its token states.
        context_width: of the tokens the U-Net attends to.
        unet: the network.
        text_encoder: the decoder's own, or None to read CLIP's token states.
        embed_drop, text_drop: shares of z_i and of the captions dropped in training.
    """

    kind: str = "decoder"
    size: int = 64
    embed: int
    token_width: int
    context_width: int
    unet: UNetConfig
    text_encoder: TextEncoderConfig | None = None
    embed_drop: float = Field(0.1, ge=0, le=1)
    text_drop: float = Field(0.5, ge=0, le=1)
    diffusion: DiffusionConfig = DiffusionConfig(variance="learned", objective="hybrid")
    sampling: SamplingConfig = SamplingConfig(steps=50, guidance=3.0)


class DecoderNetwork(nn.Module):
    """The U-Net and its two conditions: z_i and z_t join the time embedding; z_i's tokens and the caption's are attended to."""

    def __init__(self, config: DecoderConfig, outputs: int) -> None:
        super().__init__()
        self.unet = UNet(config.unet, 3, outputs, context=config.context_width)
        self.embed_to_time = nn.Linear(config.embed, self.unet.embed_width)
        self.text_to_time = nn.Linear(config.embed, self.unet.embed_width)
        self.embed_to_tokens = nn.Linear(config.embed, EXTRA_TOKENS * config.context_width)
        own = config.text_encoder
        self.text_encoder = TextEncoder(own.vocabulary, own.context, own.width, own.depth, own.heads) if own else None
        self.text_to_context = nn.Linear(own.width if own else config.token_width, config.context_width)
        self.context_norm = nn.LayerNorm(config.context_width)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        image_embed: Tensor,
        text_embed: Tensor,
        ids: Tensor,
        tokens: Tensor,
        mask: Tensor,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """x [B, 3, H, W]; t, seeds [B]; image_embed z_i, text_embed z_t [B, D]; ids, mask [B, L]; tokens [B, L, W]."""
        dtype = self.embed_to_time.weight.dtype
        image_embed, text_embed = image_embed.to(dtype), text_embed.to(dtype)
        states = self.text_encoder(ids, mask) if self.text_encoder else tokens.to(dtype)
        # Channel-major, as Karlo's weights have it.
        extra = rearrange(self.embed_to_tokens(image_embed), "b (w n) -> b n w", n=EXTRA_TOKENS)
        context = torch.cat([extra, self.context_norm(self.text_to_context(states))], dim=1)
        seen = torch.cat([mask.new_ones(len(x), EXTRA_TOKENS), mask], dim=1)
        embed = self.embed_to_time(image_embed) + self.text_to_time(text_embed)
        out: Tensor = self.unet(x.to(dtype), t, embed, context, seen, seeds)
        return out


class Decoder(DiffusionStage):
    """z_i and Text → pictures."""

    Config = DecoderConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image", "image_embed", "text"})

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.size, self.embed_drop, self.text_drop = config.size, config.embed_drop, config.text_drop
        self.context = config.text_encoder.context if config.text_encoder else None
        self.network = DecoderNetwork(config, outputs=6 if self.diffusion.learned else 3)
        self.null_embed = nn.Parameter(torch.zeros(config.embed))

    @property
    def resolution(self) -> int:
        return self.size

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None and batch.image_embed is not None
        assert batch.text is not None and batch.null is not None
        chance = batch.chance(batch.image)
        text = drop_text(batch.text, batch.null, chance.uniform() >= self.text_drop)
        kept = (chance.uniform() >= self.embed_drop)[:, None]
        embed = torch.where(kept, batch.image_embed.float(), self.null_embed.float())
        cond = {**_cond(embed, text), **batch.dropout()}
        return self.diffusion.loss(self.network, batch.image, cond, *self._draw(chance, batch.image))

    def sample(
        self, image_embed: Tensor, text: Text, null: Text, options: SamplingConfig, noise: Noise
    ) -> Iterator[Step]:
        """Walks from noise to pictures [B, 3, size, size].

        Args:
            image_embed: z_i, [B, D].
            text: captions, B rows.
            null: what guidance leads away from, B rows (the empty or a negative caption).
            noise: for B images.
        """
        cond, null_cond = self._conditions(image_embed, text, null)
        return self._walk((len(image_embed), 3, self.size, self.size), cond, null_cond, options, noise)

    def denoiser(self, image_embed: Tensor, text: Text, null: Text, options: SamplingConfig) -> Denoise:
        """What `sample` walks with, for those who walk otherwise: (x_t [B, 3, size, size], t) → Prediction."""
        return self._denoiser(*self._conditions(image_embed, text, null), options)

    def _conditions(self, image_embed: Tensor, text: Text, null: Text) -> tuple[Cond, Cond]:
        text, null = same_length(text, null)
        return _cond(image_embed, text), _cond(self.null_embed.to(image_embed).expand(len(image_embed), -1), null)


def _cond(embed: Tensor, text: Text) -> Cond:
    return {"image_embed": embed, "text_embed": text.embed, "ids": text.ids, "tokens": text.tokens, "mask": text.mask}


STAGE = Decoder
