"""Group normalisation with a modulation, quick on CPUs too.

torch's kernels for channels that lie last in memory go through groups of two channels one number at a time,
backwards always: in bfloat16 that takes longer than the convolution beside it. Those of batch normalisation
take whole rows of channels at once. A picture at a time, they are told each group's moments for its channels,
and then do what is wanted here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018), then x · (1 + scale) + shift (FiLM; Perez et al. 2018) where these
    are given.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x [B, C, H, W]; scale and shift [B, C], both or none."""
        # Without a backward pass to come torch's own kernel is quick.
        if torch.is_grad_enabled() and _is_slow_backwards(x):
            gain, bias = self.weight.float()[None], self.bias.float()[None]
            if scale is not None and shift is not None:
                gain, bias = gain * (1 + scale.float()), bias * (1 + scale.float()) + shift.float()
            out: Tensor = _ChannelsLast.apply(x, gain, bias, self.num_groups, self.eps)  # type: ignore[no-untyped-call]
            return out
        out = super().forward(x)
        if scale is not None and shift is not None:
            out = out * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return out


def _is_slow_backwards(x: Tensor) -> bool:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and x.device.type == "cpu" and x.dtype != torch.float64


class _ChannelsLast(torch.autograd.Function):
    """gain · (x − mean) / deviation + bias, for x [B, C, H, W] with C last in memory and gain, bias float32
    [B or 1, C].

    Means, deviations and sums in float32 whatever x is in. Only x is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        running = x.new_zeros(
            x.shape[1], dtype=torch.float32
        )  # not wanted; but with it the moments are float32
        moments = [torch.batch_norm_update_stats(x[i : i + 1], running, running, 0.0) for i in range(len(x))]
        mean_c, variance_c = (torch.stack(part) for part in zip(*moments, strict=True))  # per channel, [B, C]
        mean = _group_mean(mean_c, groups)
        variance = _group_mean(variance_c + (mean_c - mean).square(), groups)
        ctx.save_for_backward(x, gain, mean, variance)
        ctx.groups, ctx.eps, ctx.pixels = groups, eps, x.shape[2] * x.shape[3]
        return _normalised(x, gain.expand_as(mean), bias.expand_as(mean), mean, variance, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gain, mean, variance = ctx.saved_tensors
        g = grad.contiguous(memory_format=torch.channels_last)
        # As if the moments were given: Σ g · (x − mean) / deviation and Σ g.
        parts = [
            torch.ops.aten.native_batch_norm_backward(
                g[i : i + 1],
                x[i : i + 1],
                None,
                mean[i],
                variance[i],
                None,
                None,
                False,
                ctx.eps,
                [False, True, True],
            )
            for i in range(len(x))
        ]
        for_gain, for_bias = (torch.stack([part[k] for part in parts]) for k in (1, 2))
        # And what they change by.
        inverse = (variance + ctx.eps).rsqrt()
        along = inverse * _group_mean(gain * for_gain, ctx.groups) / ctx.pixels
        level = inverse * _group_mean(gain * for_bias, ctx.groups) / ctx.pixels
        for_x = _normalised(x, -along, -level, mean, variance, ctx.eps)
        for_x.addcmul_(g, (gain * inverse).to(x.dtype)[:, :, None, None])
        return for_x, for_gain.sum_to_size(gain.shape), for_bias.sum_to_size(gain.shape), None, None


def _normalised(x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """gain · (x − mean) / deviation + bias per picture and channel, all [B, C]; rounded once."""
    out, unused = torch.empty_like(x), x.new_empty(0, dtype=torch.float32)
    for i in range(len(x)):
        torch.native_batch_norm(
            x[i : i + 1],
            gain[i],
            bias[i],
            mean[i],
            variance[i],
            False,
            0.0,
            eps,
            out=(out[i : i + 1], unused, unused),
        )
    return out


def _group_mean(channels: Tensor, groups: int) -> Tensor:
    """Of each channel's group, for each channel: [B, C] → [B, C]."""
    mean: Tensor = channels.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return mean.expand(-1, -1, channels.shape[1] // groups).flatten(1)
