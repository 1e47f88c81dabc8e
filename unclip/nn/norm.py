"""Group normalisation with a modulation, and a fast backward pass on CPUs.

On CPUs, torch's group-norm backward for channels-last tensors works element by element; in bfloat16 it takes
longer than the convolution beside it. Its batch-norm kernels process whole rows of channels. They compute
group normalisation if they are called per image, with the group's moments given for each channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018) with an optional modulation x · (1 + scale) + shift (FiLM)."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x [B, C, H, W]; scale and shift [B, C], both or neither (Perez et al. 2018)."""
        # torch's forward kernel alone is fast, so inference uses it.
        if torch.is_grad_enabled() and _is_slow_backwards(x):
            gain, bias = self.weight.float()[None], self.bias.float()[None]
            if scale is not None and shift is not None:
                gain, bias = gain * (1 + scale.float()), bias * (1 + scale.float()) + shift.float()
            apply: Callable[..., Tensor] = _ChannelsLast.apply
            return apply(x, gain, bias, self.num_groups, self.eps)
        out = super().forward(x)
        if scale is not None and shift is not None:
            out = out * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return out


def _is_slow_backwards(x: Tensor) -> bool:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return last and x.device.type == "cpu" and x.dtype != torch.float64


class _ChannelsLast(torch.autograd.Function):
    """gain · (x − mean) / std + bias, for channels-last x [B, C, H, W] and float32 gain, bias [B or 1, C].

    Moments and sums are float32 for every dtype of x. Only x is saved for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        running = x.new_zeros(x.shape[1], dtype=torch.float32)  # unused; makes the moments float32
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
        # Gradients with constant moments: Σ g · (x − mean) / std and Σ g.
        outputs = [False, True, True]  # the gradients of gain and bias only
        parts = [
            torch.ops.aten.native_batch_norm_backward(
                g[i : i + 1], x[i : i + 1], None, mean[i], variance[i], None, None, False, ctx.eps, outputs
            )
            for i in range(len(x))
        ]
        grad_gain, grad_bias = (torch.stack([part[k] for part in parts]) for k in (1, 2))
        # Gradients through the moments.
        inverse = (variance + ctx.eps).rsqrt()
        from_variance = inverse * _group_mean(gain * grad_gain, ctx.groups) / ctx.pixels
        from_mean = inverse * _group_mean(gain * grad_bias, ctx.groups) / ctx.pixels
        grad_x = _normalised(x, -from_variance, -from_mean, mean, variance, ctx.eps)
        grad_x.addcmul_(g, (gain * inverse).to(x.dtype)[:, :, None, None])
        return grad_x, grad_gain.sum_to_size(gain.shape), grad_bias.sum_to_size(gain.shape), None, None


def _normalised(x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """gain · (x − mean) / std + bias, with all four [B, C]; rounded once."""
    out, unused = torch.empty_like(x), x.new_empty(0, dtype=torch.float32)
    for i in range(len(x)):
        moments = gain[i], bias[i], mean[i], variance[i]
        torch.native_batch_norm(x[i : i + 1], *moments, False, 0.0, eps, out=(out[i : i + 1], unused, unused))
    return out


def _group_mean(channels: Tensor, groups: int) -> Tensor:
    """The mean over each channel's group, repeated for each channel: [B, C] → [B, C]."""
    mean: Tensor = channels.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return mean.expand(-1, -1, channels.shape[1] // groups).flatten(1)
