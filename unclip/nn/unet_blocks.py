"""Blocks of the U-Net: residual, resampling, attention and refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unclip.nn.layers import Dropout, attend, zero_init
from unclip.nn.norm import GroupNorm

if TYPE_CHECKING:
    from unclip.nn.unet import UNetConfig


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
