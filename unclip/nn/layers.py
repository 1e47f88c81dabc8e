"""Layers and functions that several networks share."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

FEW_KEYS = 256  # up to this many, attention trains faster in float32 than in bfloat16 on CPUs


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features [B, width] of timesteps [B], cosines first (Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t.float()[:, None] * frequencies
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(features, (0, width % 2))


class TimeEmbedding(nn.Module):
    """Timesteps [B] → [B, width] by a two-layer MLP over sinusoidal features (Ho et al. 2020, app. B)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        features = timestep_embedding(t, self.features).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention of q [B, N, C] over k, v [B, M, C].

    Args:
        mask: True where a query may attend to a key, [B, 1, N or 1, M].
    """
    dtype = q.dtype
    q, k, v = (rearrange(x, "b n (h c) -> b h n c", h=heads) for x in (q, k, v))
    on_cpu, few_keys = q.device.type == "cpu", k.shape[2] <= FEW_KEYS
    in_float32 = dtype == torch.bfloat16 and on_cpu and torch.is_grad_enabled() and few_keys
    with torch.autocast("cpu", enabled=False) if in_float32 else nullcontext():
        q, k, v = (x.float() if in_float32 else x for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).to(dtype)
    return rearrange(out, "b h n c -> b n (h c)")


class Dropout(nn.Module):
    """Dropout with one seed per example, so that masks do not depend on batch or process.

    Attributes:
        number: offset of the seeds, different for each dropout of a network.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.number = share, 0

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """x [B, ...]; seeds int64 [B] on the CPU, or None for torch's global generator."""
        if not self.training or not self.share:
            return x
        if seeds is None:
            return F.dropout(x, self.share)
        out: Tensor = x * dropout_mask(x.detach(), seeds + self.number, self.share)
        return out


def number_dropout_layers(module: nn.Module) -> None:
    """Numbers all dropouts of a module."""
    for i, dropout in enumerate(m for m in module.modules() if isinstance(m, Dropout)):
        dropout.number = 1_000_003 * (i + 1)


# A custom operator, because torch.compile cannot trace generators.
@torch.library.custom_op("unclip::dropout_mask", mutates_args=())
def dropout_mask(x: Tensor, seeds: Tensor, share: float) -> Tensor:
    """The mask that multiplies x [B, ...]: 0 for a share of the entries, 1 / (1 − share) for the others."""
    mask = torch.empty_like(x)
    for row, seed in zip(mask, seeds.tolist(), strict=True):
        row.bernoulli_(1 - share, generator=torch.Generator(x.device).manual_seed(seed))
    return mask.div_(1 - share)


@dropout_mask.register_fake
def _(x: Tensor, seeds: Tensor, share: float) -> Tensor:
    return torch.empty_like(x)


def zero_init(module: nn.Module) -> nn.Module:
    """Sets a module's parameters to zero, so that its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
