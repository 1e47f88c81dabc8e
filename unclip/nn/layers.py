"""The small parts that several networks share."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

FEW_KEYS = 256


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features of times [B] → [B, width], cosines first (Vaswani et al. 2017; Ho et al. 2020, app.
    B).
    """
    half = width // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t.float()[:, None] * frequencies
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(features, (0, width % 2))


class TimeEmbedding(nn.Module):
    """Times [B] → [B, width] by a two-layer MLP over sinusoidal features."""

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
    """Multi-head attention of q [B, N, C] over k, v [B, M, C]; mask True where a key may be seen, [B, 1, N or
    1, M].
    """
    dtype = q.dtype
    q, k, v = (rearrange(x, "b n (h c) -> b h n c", h=heads) for x in (q, k, v))
    # The CPU's backward pass over few keys takes twice as long in bfloat16 as in float32, which is the more
    # exact.
    finer = (
        dtype == torch.bfloat16
        and q.device.type == "cpu"
        and torch.is_grad_enabled()
        and k.shape[2] <= FEW_KEYS
    )
    with torch.autocast("cpu", enabled=False) if finer else nullcontext():
        q, k, v = (x.float() if finer else x for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).to(dtype)
    return rearrange(out, "b h n c -> b n (h c)")


class Dropout(nn.Module):
    """Dropout whose mask is drawn for each example by its own seed, whatever batch or process the example is
    in.

    Attributes:
        number: tells a network's dropouts apart.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.number = share, 0

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """x [B, ...]; seeds int64 [B] on the CPU, or None to draw from torch's own generator."""
        if not self.training or not self.share:
            return x
        if seeds is None:
            return F.dropout(x, self.share)
        out: Tensor = x * dropout_mask(x.detach(), seeds + self.number, self.share)
        return out


def number_dropout_layers(module: nn.Module) -> None:
    """Gives every dropout in the module its number."""
    for i, dropout in enumerate(m for m in module.modules() if isinstance(m, Dropout)):
        dropout.number = 1_000_003 * (i + 1)


# An operator of its own, for torch.compile does not look into generators.
@torch.library.custom_op("unclip::dropout_mask", mutates_args=())
def dropout_mask(x: Tensor, seeds: Tensor, share: float) -> Tensor:
    """What x [B, ...] is multiplied by: 0 for a share of the entries, 1 / (1 − share) for the others."""
    mask = torch.empty_like(x)
    for row, seed in zip(mask, seeds.tolist(), strict=True):
        row.bernoulli_(1 - share, generator=torch.Generator(x.device).manual_seed(seed))
    return mask.div_(1 - share)


@dropout_mask.register_fake
def _(x: Tensor, seeds: Tensor, share: float) -> Tensor:
    return torch.empty_like(x)


def zero_init(module: nn.Module) -> nn.Module:
    """The module with its parameters set to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
