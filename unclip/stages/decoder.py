"""The decoder: z_i and a caption → a 64 px image, or the missing part of one (Ramesh et al. 2022, §2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unclip.clip import Text
from unclip.diffusion.diffusion import Cond
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import ExampleRng, SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.nn.transformer import TextEncoder
from unclip.nn.unet import UNet
from unclip.stages.batch import Batch, drop_text, pad_to_same_length
from unclip.stages.config import SamplingConfig
from unclip.stages.configs import DecoderConfig as DecoderConfig
from unclip.stages.configs import TextEncoderConfig as TextEncoderConfig
from unclip.stages.decoder_base import BaseDecoder

EXTRA_TOKENS = 4  # number of context tokens projected from z_i
EXTRA_CHANNELS = 4  # extra input channels of an inpainting decoder: known pixels and their mask


class DecoderNetwork(nn.Module):
    """The U-Net with its conditions, z_i and the caption.

    z_i and z_t are added to the time embedding. Attention reads tokens projected from z_i and the caption's.
    """

    def __init__(self, config: DecoderConfig, outputs: int) -> None:
        super().__init__()
        inputs = 3 + EXTRA_CHANNELS * config.inpaint
        self.unet = UNet(config.unet, inputs, outputs, context=config.context_width)
        self.embed_to_time = nn.Linear(config.embed, self.unet.embed_width)
        self.text_to_time = nn.Linear(config.embed, self.unet.embed_width)
        self.embed_to_tokens = nn.Linear(config.embed, EXTRA_TOKENS * config.context_width)
        own = config.text_encoder
        self.text_encoder = (
            TextEncoder(own.vocabulary, own.context, own.width, own.depth, own.heads) if own else None
        )
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
        known: Tensor | None = None,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """The U-Net's output [B, outputs, H, W].

        Args:
            x: noised pictures [B, 3, H, W]. t, seeds: [B].
            image_embed, text_embed: z_i and z_t, [B, D]. ids, mask: [B, L]. tokens: [B, L, W].
            known: the known pixels (0 elsewhere) and their mask, [B, 4, H, W]; for an inpainting decoder.
        """
        dtype = self.embed_to_time.weight.dtype
        image_embed, text_embed = image_embed.to(dtype), text_embed.to(dtype)
        states = self.text_encoder(ids, mask) if self.text_encoder else tokens.to(dtype)
        # Channel-major, the layout of Karlo's weights.
        extra = rearrange(self.embed_to_tokens(image_embed), "b (w n) -> b n w", n=EXTRA_TOKENS)
        context = torch.cat([extra, self.context_norm(self.text_to_context(states))], dim=1)
        seen = torch.cat([mask.new_ones(len(x), EXTRA_TOKENS), mask], dim=1)
        embed = self.embed_to_time(image_embed) + self.text_to_time(text_embed)
        x = x.to(dtype)
        if known is not None:
            x = torch.cat([x, known.to(dtype)], dim=1)
        out: Tensor = self.unet(x, t, embed, context, seen, seeds)
        return out


class Decoder(BaseDecoder):
    """z_i and Text → images, over pixels."""

    Config = DecoderConfig
    needs: ClassVar[frozenset[str]] = frozenset({"image", "image_embed", "text"})

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.size, self.embed, self.unit = config.size, config.embed, config.unet.unit
        self.embed_drop, self.text_drop = config.embed_drop, config.text_drop
        self.context = config.text_encoder.context if config.text_encoder else None
        self.network = DecoderNetwork(config, outputs=6 if self.diffusion.learned else 3)
        self.null_embed = nn.Parameter(torch.zeros(config.embed))
        self.inpaints, self._patch_area = config.inpaint, config.unet.patch**2
        if self.inpaints:
            # Zero weights for the known part, so that fine-tuning starts from the plain decoder.
            with torch.no_grad():
                self.network.unet.conv_in.weight[:, 3 * config.unet.patch**2 :] = 0

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapts to `stage.inpaint` and `unet.refine`.

        Pads a plain decoder's first convolutions with zeros, or drops the extra input channels of an
        inpainting one. A refinement that the other decoder lacks starts as the identity.
        """
        own, refine = self.state_dict(), "network.unet.refine."
        state = {**{key: tensor for key, tensor in own.items() if key.startswith(refine)}, **state}
        for name, extra in (
            ("network.unet.conv_in.weight", EXTRA_CHANNELS * self._patch_area),
            (f"{refine}conv_1.weight", EXTRA_CHANNELS),
        ):
            more = own[name].shape[1] - state[name].shape[1] if name in own and name in state else 0
            if abs(more) == extra and (more > 0) == self.inpaints:
                state[name] = F.pad(state[name], (0, 0, 0, 0, 0, more))  # a negative number crops
        return state

    def forward(self, batch: Batch) -> Tensor:
        assert batch.image is not None and batch.image_embed is not None
        assert batch.text is not None and batch.null is not None
        rng = batch.rng(batch.image)
        text = drop_text(batch.text, batch.null, rng.uniform() >= self.text_drop)
        kept = (rng.uniform() >= self.embed_drop)[:, None]
        embed = torch.where(kept, batch.image_embed.float(), self.null_embed.float())
        keep = random_keep(rng, batch.image) if self.inpaints else None
        known = None if keep is None else Known(batch.image, keep)
        cond, null = self.conditions(embed, text, batch.null.repeat(len(embed)), known, batch.image.shape)
        # The loss ignores the known pixels: the network would learn to copy them first.
        return self.loss(batch, rng, batch.image, cond, null, keep)

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
        self.check_options(options)
        shape = (len(image_embed), *self.shape(size or (self.size, self.size)))
        cond, null_cond = self.conditions(image_embed, text, null, trajectory.known, shape, null_embed)
        return self.walk(shape, cond, null_cond, options, noise, trajectory)

    def conditions(
        self,
        image_embed: Tensor,
        text: Text,
        null: Text,
        known: Known | None,
        shape: tuple[int, ...],
        null_embed: Tensor | None = None,
    ) -> tuple[Cond, Cond]:
        """The network's condition and the null condition of guidance for x of a shape.

        An inpainting decoder's network reads the known part; the other arguments are those of `sample`.
        """
        text, null = pad_to_same_length(text, null)
        known_cond = self._known_cond(known, image_embed.new_empty(shape))
        if null_embed is None:
            null_embed = self.null_embed.to(image_embed).expand(len(image_embed), -1)
        return {**_cond(image_embed, text), **known_cond}, {**_cond(null_embed, null), **known_cond}

    def _known_cond(self, known: Known | None, like: Tensor) -> dict[str, Tensor]:
        """The condition for the known part of images like `like` [B, 3, H, W]; zeros if none is known."""
        if not self.inpaints:
            return {}
        if known is None:
            return {"known": like.new_zeros(len(like), EXTRA_CHANNELS, *like.shape[2:])}
        keep = known.keep.to(like).expand(len(like), 1, *like.shape[2:])
        return {"known": torch.cat([known.x0.to(like) * keep, keep], dim=1)}


def random_keep(rng: ExampleRng, like: Tensor) -> Tensor:
    """Random masks of the known pixels for training images shaped as `like` [B, 3, H, W]: bool [B, 1, H, W].

    Each mask is a random box, which may cross the image's edge, or the complement of one. For half of the
    images nothing is known, so that the network also stays a plain decoder.
    """
    height, width = like.shape[2:]
    ends = [1.5 * rng.uniform()[:, None] - 0.25 for _ in range(4)]
    y, x = ((torch.arange(n, device=like.device) + 0.5)[None] / n for n in (height, width))
    rows = (y > torch.minimum(*ends[:2])) & (y < torch.maximum(*ends[:2]))
    columns = (x > torch.minimum(*ends[2:])) & (x < torch.maximum(*ends[2:]))
    box = rows[:, :, None] & columns[:, None, :]
    outside, nothing = rng.uniform() < 0.5, rng.uniform() < 0.5
    return ((box ^ outside[:, None, None]) & ~nothing[:, None, None])[:, None]


def _cond(embed: Tensor, text: Text) -> Cond:
    return {
        "image_embed": embed,
        "text_embed": text.embed,
        "ids": text.ids,
        "tokens": text.tokens,
        "mask": text.mask,
    }


STAGE = Decoder
