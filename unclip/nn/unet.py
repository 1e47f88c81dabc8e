"""The U-Net of the decoder and the upsamplers: ADM's (Dhariwal & Nichol 2021), as in GLIDE and DALL·E 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.nn.config import UNetConfig as UNetConfig
from unclip.nn.layers import TimeEmbedding, number_dropout_layers, zero_init
from unclip.nn.norm import GroupNorm
from unclip.nn.unet_blocks import AttentionBlock, Refinement, Resample, ResBlock


class Conditions(NamedTuple):
    """The conditions of every level; see `UNet.forward`."""

    embed: Tensor
    context: Tensor | None
    mask: Tensor | None
    seeds: Tensor | None


class Level(nn.Module):
    """The blocks of one resolution, going down or up, each followed by attention where the level has it."""

    def __init__(
        self, blocks: list[ResBlock], attention: list[AttentionBlock], resampler: ResBlock | Resample | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.resampler = resampler

    def step(self, i: int, x: Tensor, cond: Conditions) -> Tensor:
        """Applies block i and the attention after it."""
        out: Tensor = self.blocks[i](x, cond.embed, cond.seeds)
        if self.attention:
            out = self.attention[i](out, cond.context, cond.mask)
        return out

    def resampled(self, x: Tensor, cond: Conditions) -> Tensor:
        """Resamples to the next level's resolution."""
        assert self.resampler is not None
        out: Tensor = self.resampler(x, cond.embed, cond.seeds)
        return out


class UNet(nn.Module):
    """x [B, inputs, H, W] and timesteps [B] → [B, outputs, H, W].

    Args:
        inputs, outputs: channels of images, before pixel unshuffling.
        context: width of the context tokens; None for a network without.
    """

    def __init__(self, config: UNetConfig, inputs: int, outputs: int, context: int | None = None) -> None:
        super().__init__()
        self.config = config
        area = config.patch**2
        self.embed_width = 4 * config.channels
        widths = [config.channels * m for m in config.multipliers]

        def block(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, self.embed_width, config)

        def resampler(wide: int, way: Literal["down", "up"]) -> ResBlock | Resample:
            if config.resampling == "convolution":
                return Resample(wide, way)
            return ResBlock(wide, wide, self.embed_width, config, way)

        def attention(level: int, width: int, count: int) -> list[AttentionBlock]:
            if level not in config.attention:
                return []
            return [AttentionBlock(width, config, context) for _ in range(count)]

        self.time = TimeEmbedding(config.channels, self.embed_width)
        self.conv_in = nn.Conv2d(inputs * area, config.channels, 3, padding=1)
        skips = [config.channels]
        width = config.channels
        self.down = nn.ModuleList()
        for level, wide in enumerate(widths):
            blocks = [block(width if i == 0 else wide, wide) for i in range(config.depth)]
            last = level == len(widths) - 1
            self.down.append(
                Level(blocks, attention(level, wide, config.depth), None if last else resampler(wide, "down"))
            )
            skips += [wide] * (config.depth + (not last))
            width = wide
        self.middle_1 = block(width, width)
        self.middle_attention = AttentionBlock(width, config, context) if config.middle_attention else None
        self.middle_2 = block(width, width)
        self.up = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(config.depth + 1):
                blocks.append(block(width + skips.pop(), wide))
                width = wide
            attending = attention(level, wide, config.depth + 1)
            self.up.append(Level(blocks, attending, resampler(wide, "up") if level else None))
        self.norm = GroupNorm(config.norm_groups, width)
        self.conv_out = zero_init(nn.Conv2d(width, outputs * area, 3, padding=1))
        self.refine = Refinement(inputs, outputs, config.refine, self.embed_width) if config.refine else None
        number_dropout_layers(self)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        embed: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """Predicts from the noised images, the timesteps and the conditions.

        Args:
            x: images, [B, inputs, H, W]; H and W divisible by patch · 2^(levels − 1).
            t: timesteps, [B].
            embed: embedding added to the time embedding, [B, 4 · channels].
            context: tokens, [B, L, context].
            mask: True for real tokens, [B, L].
            seeds: seeds of each example's dropout, int64 [B].
        """
        emb = self.time(t)
        if embed is not None:
            emb = emb + embed
        cond = Conditions(emb, context, mask, seeds)
        given = x
        if self.config.patch > 1:
            x = F.pixel_unshuffle(x, self.config.patch)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for level in cast("Iterable[Level]", self.down):
            for i in range(len(level.blocks)):
                x = level.step(i, x, cond)
                skips.append(x)
            if level.resampler is not None:
                x = level.resampled(x, cond)
                skips.append(x)
        x = self.middle_1(x, emb, seeds)
        if self.middle_attention is not None:
            x = self.middle_attention(x, context, mask)
        x = self.middle_2(x, emb, seeds)
        for level in cast("Iterable[Level]", self.up):
            for i in range(len(level.blocks)):
                x = level.step(i, torch.cat([x, skips.pop()], dim=1), cond)
            if level.resampler is not None:
                x = level.resampled(x, cond)
        x = self.conv_out(F.silu(self.norm(x)))
        if self.config.patch > 1:
            x = F.pixel_shuffle(x, self.config.patch)
        return x if self.refine is None else self.refine(x, given, emb)
