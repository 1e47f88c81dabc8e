"""The U-Net of the decoder and the upsamplers: ADM's (Dhariwal & Nichol 2021), as in GLIDE and DALL·E 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from unclip.config import Config
from unclip.nn.layers import Dropout, TimeEmbedding, attend, number_dropout_layers, zero_init
from unclip.nn.norm import GroupNorm

CHANNELS = 32  # the channels of a network are a multiple of it


class UNetConfig(Config):
    """Shape of a U-Net.

    Attributes:
        channels: number of channels at the highest resolution.
        multipliers: factors of the channels, one per level; each level halves the resolution.
        depth: residual blocks per level.
        attention: levels (0 is the highest resolution) with self-attention and attention to the context.
        middle_attention: whether the middle of the lowest level has attention.
        head_channels: channels per attention head.
        scale_shift: the time embedding scales and shifts the normalised features; otherwise it is added to
            them.
        dropout: dropout inside residual blocks, while training.
        norm_groups: number of groups of group normalisation. Groups of one channel remove an image's overall
            brightness, so a narrow network needs fewer groups.
        resampling: resample between levels by a residual block (ADM) or one convolution (Ho et al. 2020).
        patch: factor of the pixel unshuffle before the first layer (Shi et al. 2016); a network at 1024 px
            then costs as much as one at 1024/patch. 1 is the paper's network.
        refine: channels of a residual head that corrects the output at full resolution, across the borders of
            patches, which otherwise show as a grain of their period. The identity at first. 0 for none.
    """

    channels: int = Field(ge=CHANNELS, multiple_of=CHANNELS)
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    depth: int = Field(ge=1)
    attention: tuple[int, ...] = ()
    middle_attention: bool = False
    head_channels: int = Field(64, ge=1)
    scale_shift: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    norm_groups: int = Field(32, ge=1)
    resampling: Literal["block", "convolution"] = "block"
    patch: int = Field(1, ge=1)
    refine: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        levels = len(self.multipliers)
        if any(not 0 <= level < levels for level in self.attention):
            raise ValueError(f"attention {self.attention}: the levels are 0 to {levels - 1}")
        if self.channels % self.norm_groups:
            raise ValueError(f"norm_groups {self.norm_groups} does not divide the {self.channels} channels")
        attending = [*self.attention, *([levels - 1] if self.middle_attention else [])]
        for width in (self.channels * self.multipliers[level] for level in attending):
            if width > self.head_channels and width % self.head_channels:
                raise ValueError(
                    f"head_channels {self.head_channels} does not divide the width {width} of a level that "
                    "attends"
                )
        return self


class ResBlock(nn.Module):
    """Two convolutions around a time-dependent modulation, with optional 2× down- or upsampling inside."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embed: int,
        config: UNetConfig,
        resample: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = config.scale_shift, resample
        self.norm_1 = GroupNorm(config.norm_groups, inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embed, 2 * outputs if config.scale_shift else outputs)
        self.norm_2 = GroupNorm(config.norm_groups, outputs)
        self.dropout = Dropout(config.dropout)
        self.conv_2 = zero_init(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embed: Tensor, seeds: Tensor | None = None) -> Tensor:
        h = F.silu(self.norm_1(x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        h = upsample_conv(h, self.conv_1) if self.resample == "up" else self.conv_1(h)
        modulation = self.embed(F.silu(embed))
        if self.scale_shift:
            h = self.norm_2(h, *modulation.chunk(2, dim=1))
        else:
            h = self.norm_2(h + modulation[:, :, None, None])
        out: Tensor = self.skip(x) + self.conv_2(self.dropout(F.silu(h), seeds))
        return out


class Resample(nn.Module):
    """2× downsampling by a strided convolution, or upsampling by nearest neighbours and a convolution."""

    def __init__(self, channels: int, way: Literal["down", "up"]) -> None:
        super().__init__()
        self.up = way == "up"
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if self.up else 2, padding=1)

    def forward(self, x: Tensor, embed: Tensor, seeds: Tensor | None = None) -> Tensor:
        out: Tensor = upsample_conv(x, self.conv) if self.up else self.conv(x)
        return out


def upsample_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3 × 3 convolution of 2× nearest-neighbour upsampled x, [B, C, H, W] → [B, C', 2H, 2W].

    The nine taps of an output pixel read four different input pixels. With the weights of equal inputs summed
    it is a 4 × 4 transposed convolution with 4/9 of the arithmetic.
    """
    # Summing weights pays off where pixels outnumber channels; measured on CPUs only.
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.shape[2] * x.shape[3] < conv.in_channels:
        return conv(F.interpolate(x, scale_factor=2, mode="nearest"))  # type: ignore[no-any-return]
    kernel = conv.weight.flip(2, 3).transpose(0, 1).contiguous()
    kernel = F.avg_pool2d(kernel, 2, stride=1, padding=1, divisor_override=1)
    return F.conv_transpose2d(
        x, kernel.contiguous(memory_format=torch.channels_last), conv.bias, stride=2, padding=1
    )


class AttentionBlock(nn.Module):
    """Attention of pixels over all pixels and the context's tokens, if any, in one softmax (GLIDE)."""

    def __init__(self, channels: int, config: UNetConfig, context: int | None) -> None:
        super().__init__()
        self.heads = max(channels // config.head_channels, 1)
        self.norm = GroupNorm(config.norm_groups, channels)
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        if context is not None:
            self.context_k = nn.Linear(context, channels)
            self.context_v = nn.Linear(context, channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        height = x.shape[2]
        h = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = self.q(h), self.k(h), self.v(h)
        if context is not None:
            k = torch.cat([self.context_k(context), k], dim=1)
            v = torch.cat([self.context_v(context), v], dim=1)
            if mask is not None:
                mask = F.pad(mask, (0, h.shape[1]), value=True)[:, None, None, :]  # [B, 1, 1, L + HW]
        h = self.out(attend(q, k, v, self.heads, mask))
        out: Tensor = x + rearrange(h, "b (h w) c -> b c h w", h=height)
        return out


class Refinement(nn.Module):
    """Two 3 × 3 convolutions over the U-Net's output and input at full resolution, beside the identity."""

    def __init__(self, inputs: int, outputs: int, channels: int, embed_width: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(outputs + inputs, channels, 3, padding=1)
        self.embed = nn.Linear(embed_width, 2 * channels)
        self.conv_2 = zero_init(nn.Conv2d(channels, outputs, 3, padding=1))

    def forward(self, out: Tensor, x: Tensor, embed: Tensor) -> Tensor:
        """out [B, outputs, H, W]; x [B, inputs, H, W]; embed [B, embed_width]."""
        scale, shift = self.embed(F.silu(embed))[:, :, None, None].chunk(2, dim=1)
        h = self.conv_1(
            torch.cat([out, x.to(out.dtype)], dim=1).contiguous(memory_format=torch.channels_last)
        )
        refined: Tensor = out + self.conv_2(F.silu(h * (1 + scale) + shift))
        return refined


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
