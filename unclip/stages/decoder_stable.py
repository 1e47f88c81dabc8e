"""Stable unCLIP's decoder: z_i with noise of a known level, and a caption → latent → picture.

Stable Diffusion 2.1, fine-tuned to read z_i (Stability-AI/stablediffusion, doc/UNCLIP.MD).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.diffusion import Cond
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.schedule import Schedule
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.stages.batch import Batch
from unclip.stages.caption_encoder import CaptionEncoder
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder_latent import LatentDecoder
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.embedding_noise import EmbeddingNoise
from unclip.stages.latent_configs import StableDecoderConfig as StableDecoderConfig


class StableNetwork(nn.Module):
    """diffusers' U-Net: attention reads the caption, the time embedding z_i and its noise level."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, *, image_embed: Tensor, tokens: Tensor) -> Tensor:
        """The predicted v, ε or x0 [B, C, h, w].

        Args:
            x: noised latents [B, C, h, w]. t: [B].
            image_embed: output of `EmbeddingNoise`, [B, 2 D].
            tokens: states of `CaptionEncoder`, [B, L, W].
        """
        dtype = next(self.unet.parameters()).dtype
        given = (x.to(dtype), t, tokens.to(dtype))
        out: Tensor = self.unet(*given, class_labels=image_embed.to(dtype), return_dict=False)[0]
        return out


class StableDecoder(LatentDecoder):
    """z_i and captions → pictures.

    Guidance is away from zeros in place of z_i and of its noise level, and from the null caption.
    """

    Config = StableDecoderConfig
    Network = StableNetwork
    parts: ClassVar[tuple[str, ...]] = ("network", "autoencoder", "captions")
    needs: ClassVar[frozenset[str]] = frozenset({"image", "image_embed"})
    encodes_text = True
    flexible = True  # Stable Diffusion 2.1 was trained on pictures of several shapes

    def __init__(self, config: StableDecoderConfig) -> None:
        super().__init__(config)
        self.embed_drop, self.text_drop = config.embed_drop, config.text_drop
        self.captions = CaptionEncoder(config.captions).requires_grad_(False)
        self.embed_noise = EmbeddingNoise(config.embed, Schedule.named("cosine", config.noise_times))

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        super().save(folder, dtype)
        self.captions.save_tokenizer(folder)

    @classmethod
    def load(cls, folder: Path, *, keep_dtype: bool = False) -> Self:
        stage = super().load(folder, keep_dtype=keep_dtype)
        stage.captions.read_tokenizer(folder)
        return stage

    def check_options(self, options: SamplingConfig) -> None:
        """Accept any noise level."""
        DiffusionStage.check_options(self, options)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None and batch.image_embed is not None
        rng, z_i = batch.rng(batch.image), batch.image_embed.float()
        level = rng.integers(self.embed_noise.schedule.times)
        kept = (rng.uniform() >= self.embed_drop)[:, None]
        embed = torch.where(kept, self.embed_noise(z_i, level, rng.normal(z_i)), 0.0)
        spoken = (rng.uniform() >= self.text_drop).tolist()
        captions = [one if keep else "" for one, keep in zip(batch.captions, spoken, strict=True)]
        with torch.no_grad():
            x0, tokens = self.encode(batch.image), self._tokens(captions)
        cond = {"image_embed": embed, "tokens": tokens.float()}
        return self.diffusion.loss(self.network, x0, cond, *self._draw(rng, x0))

    def sample(
        self,
        image_embed: Tensor,
        text: Text | None,
        null: Text | None,
        options: SamplingConfig,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
        *,
        size: tuple[int, int] | None = None,
        null_embed: Tensor | None = None,
    ) -> Iterator[Step]:
        """See `BaseDecoder.sample`.

        The noise of z_i is a stream of its own. An inversion draws none and reads level 0.
        """
        assert text is not None and null is not None
        trajectory.length(self.diffusion.schedule, options.steps)  # raises now, not at the first step
        own = None if trajectory.evaluations else SeededNoise(noise.seeds, f"{noise.stream}/z_i")
        level = self.embed_noise.level(options.noise_level) if own else 0
        t = torch.full((len(image_embed),), level)
        embed = self.embed_noise(image_embed, t, own(image_embed) if own else torch.zeros_like(image_embed))
        if null_embed is None:
            null_cond = torch.zeros_like(embed)
        else:
            null_cond = self.embed_noise(null_embed, t, torch.zeros_like(null_embed))

        def steps() -> Iterator[Step]:
            tokens, null_tokens = self._tokens([*text.captions, *null.captions]).chunk(2)
            cond: Cond = {"image_embed": embed, "tokens": tokens}
            given = {"image_embed": null_cond, "tokens": null_tokens}
            shape = (len(image_embed), *self.shape(size or (self.size, self.size)))
            yield from self.walk(shape, cond, given, options, noise, trajectory)

        return steps()

    def _tokens(self, captions: Sequence[str]) -> Tensor:
        """States [B, L, W] of captions."""
        with self.in_place("captions."):
            device = next(self.captions.parameters()).device
            states: Tensor = self.captions(self.captions.ids(captions).to(device))
            return states


STAGE = StableDecoder
