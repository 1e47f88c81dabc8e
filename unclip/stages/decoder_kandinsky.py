"""Kandinsky 2.2's decoder: z_i → latent → picture; it reads no caption (Razzhigaev et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.clip import Text
from unclip.clip.image_tower import ImageTower
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import CheckpointError, RequestError
from unclip.stages.batch import Batch
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder_latent import LatentDecoder
from unclip.stages.latent_configs import KandinskyDecoderConfig as KandinskyDecoderConfig


class KandinskyNetwork(nn.Module):
    """diffusers' U-Net, conditioned on z_i by attention and by the time embedding."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, *, image_embed: Tensor, known: Tensor | None = None) -> Tensor:
        """Noise and variance [B, 2C, h, w].

        Args:
            x: noised latents [B, C, h, w]. t: [B].
            image_embed: z_i [B, D].
            known: the known latents (0 elsewhere) and their mask [B, C + 1, h, w]; for an inpainting decoder.
        """
        dtype = next(self.unet.parameters()).dtype
        x = x if known is None else torch.cat([x, known.to(x)], dim=1)
        added = {"image_embeds": image_embed.to(dtype)}
        out: Tensor = self.unet(x.to(dtype), t, None, added_cond_kwargs=added, return_dict=False)[0]
        return out


class KandinskyDecoder(LatentDecoder):
    """z_i → pictures. The null condition of guidance is a z_i: that of a picture of zeros, or a negative one."""

    Config = KandinskyDecoderConfig
    Network = KandinskyNetwork
    needs: ClassVar[frozenset[str]] = frozenset({"image", "image_embed"})
    config: KandinskyDecoderConfig
    null_embed: Tensor

    def __init__(self, config: KandinskyDecoderConfig) -> None:
        super().__init__(config)
        self.inpaints, self.embed_drop = config.inpaint, config.embed_drop
        self.register_buffer("null_embed", torch.zeros(config.embed))

    def complete(self, clip: Path) -> None:
        if not self.config.guided and (encoder := clip / "image_encoder").is_dir():
            self.read_null_embed(encoder)

    def read_null_embed(self, folder: Path) -> None:
        """Take as the null embedding that of a picture of zeros after preprocessing (diffusers).

        Args:
            folder: a CLIPVisionModelWithProjection.

        Raises:
            CheckpointError: transformers cannot load it, or its embeddings have another width.
        """
        encoder = ImageTower(folder).model
        side = encoder.config.image_size
        with torch.no_grad():
            embed = encoder(torch.zeros(1, 3, side, side, dtype=encoder.dtype)).image_embeds[0]
        if len(embed) != self.embed:
            raise CheckpointError(
                f"{folder}: makes embeddings of {len(embed)} numbers, the decoder reads {self.embed}: they belong "
                "to different CLIPs"
            )
        self.null_embed = embed.float()
        self.config = self.config.model_copy(update={"guided": True})

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None and batch.image_embed is not None
        rng, embed = batch.rng(batch.image), batch.image_embed.float()
        kept = (rng.uniform() >= self.embed_drop)[:, None]
        with torch.no_grad():
            x0 = self.encode(batch.image)
        cond = {"image_embed": torch.where(kept, embed, self.null_embed.to(embed))}
        return self.diffusion.loss(
            self.network, x0, {**cond, **self._known_cond(None, x0)}, *self._draw(rng, x0)
        )

    def sample(
        self,
        image_embed: Tensor,
        text: Text,
        null: Text,
        options: SamplingConfig,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
        *,
        size: tuple[int, int] | None = None,
        null_embed: Tensor | None = None,
    ) -> Iterator[Step]:
        """See `BaseDecoder.sample`; the captions are not read."""
        shape = (len(image_embed), *self.shape(size or (self.size, self.size)))
        known = self._known_cond(trajectory.known, image_embed.new_empty(shape))
        if null_embed is None:
            if options.guidance != 1 and not self.config.guided:
                raise RequestError(
                    f"decoder: guidance {options.guidance:g} needs the null embedding, which the image encoder in "
                    "kandinsky-2-2-prior makes; put that folder beside the decoder's, join both by `unclip "
                    "assemble`, or take guidance 1"
                )
            null_embed = self.null_embed.to(image_embed).expand(len(image_embed), -1)
        cond, null_cond = ({"image_embed": one, **known} for one in (image_embed, null_embed))
        return self.walk(shape, cond, null_cond, options, noise, trajectory)

    def encode_known(self, known: Known) -> Known:
        """The known latents; for an inpainting decoder, the unknown ones grow by a border of one latent.

        The network was trained so, because the latents beside a hole also show the hole's pixels. The border
        has no upper right and lower left corner, as in Kandinsky's and diffusers' code.
        """
        found = super().encode_known(known)
        if not self.inpaints:
            return found
        unknown = (~found.keep).float()
        before, after = (F.max_pool2d(F.pad(unknown, pad), 2, 1) for pad in ((0, 1, 0, 1), (1, 0, 1, 0)))
        return Known(found.x0, (before + after) == 0)

    def _known_cond(self, known: Known | None, like: Tensor) -> dict[str, Tensor]:
        """The condition for the known part of latents like `like` [B, C, h, w]; zeros if none is known."""
        if not self.inpaints:
            return {}
        count, channels, *sides = like.shape
        if known is None:
            return {"known": like.new_zeros(count, channels + 1, *sides)}
        keep = known.keep.to(like).expand(count, 1, *sides)
        return {"known": torch.cat([known.x0.to(like) * keep, keep], dim=1)}


STAGE = KandinskyDecoder
