"""Group normalisation with a modulation, quick on CPUs too.

torch's kernel for channels that lie last in memory goes through groups of two channels one number at a time: in bfloat16
its backward pass takes longer than the convolution's beside it. Here the same sums are taken over whole rows of channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018), then x · (1 + scale) + shift (FiLM; Perez et al. 2018) where these are given."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x [B, C, H, W]; scale and shift [B, C], both or none."""
        # Without a backward pass to come, torch's kernel is the quicker one and needs no float32 copy of x.
        if torch.is_grad_enabled() and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            gain, bias = self.weight.float()[None], self.bias.float()[None]
            if scale is not None and shift is not None:
                gain, bias = gain * (1 + scale.float()), bias * (1 + scale.float()) + shift.float()
            out: Tensor = _ChannelsLast.apply(x, gain, bias, self.num_groups, self.eps)  # type: ignore[no-untyped-call]
            return out
        out = super().forward(x)
        if scale is not None and shift is not None:
            out = out * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return out


class _ChannelsLast(torch.autograd.Function):
    """gain · (x − mean) / deviation + bias, for x [B, C, H, W] with C last in memory and gain, bias float32 [B or 1, C].

    All in float32 whatever x is in, and rounded once. Only x is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        rows = _rows(x)
        count = rows.shape[1] * rows.shape[2] // groups
        mean = _over_groups(rows.sum(1), groups) / count
        centred = rows - mean[:, None]
        inverse = (_over_groups(centred.square().sum(1), groups) / count + eps).rsqrt()
        ctx.save_for_backward(x, gain, mean, inverse)
        ctx.groups, ctx.count = groups, count
        return _picture(centred.mul_((gain * inverse)[:, None]).add_(bias[:, None]), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gain, mean, inverse = ctx.saved_tensors
        g, centred = _rows(grad), _rows(x) - mean[:, None]
        for_bias = g.sum(1)  # [B, C]
        for_gain = (g * centred).sum(1) * inverse
        along = _over_groups(gain * for_gain, ctx.groups) / ctx.count
        level = _over_groups(gain * for_bias, ctx.groups) / ctx.count
        for_x = centred.mul_((-(inverse**2) * along)[:, None]).sub_((inverse * level)[:, None])
        for_x.addcmul_(g, (gain * inverse)[:, None])
        return _picture(for_x, x), for_gain.sum_to_size(gain.shape), for_bias.sum_to_size(gain.shape), None, None


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] → float32 [B, HW, C]."""
    rows: Tensor = x.permute(0, 2, 3, 1).flatten(1, 2)
    return rows.float()


def _picture(rows: Tensor, like: Tensor) -> Tensor:
    picture: Tensor = rows.to(like.dtype).unflatten(1, like.shape[2:])
    return picture.permute(0, 3, 1, 2)


def _over_groups(sums: Tensor, groups: int) -> Tensor:
    """Sums per channel [B, C] → the sum of its group for each channel, [B, C]."""
    total: Tensor = sums.unflatten(1, (groups, -1)).sum(2, keepdim=True)
    return total.expand(-1, -1, sums.shape[1] // groups).flatten(1)
