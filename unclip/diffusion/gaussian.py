"""Closed forms of Gaussians, and broadcasting of per-example values."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def broadcast_to(values: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Reshapes values [B] to broadcast over `like` [B, ...], on its device, in its dtype or the given one."""
    return values.to(like.device, dtype or like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def gaussian_kl(offset: Tensor, log_variance_q: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q ‖ p) of two Gaussians per dimension, in nats.

    Args:
        offset: difference of the means.
        log_variance_q, log_variance_p: log-variances of q and p.
    """
    ratio = log_variance_q - log_variance_p
    return 0.5 * (torch.exp(ratio) - ratio - 1 + offset.square() * torch.exp(-log_variance_p))


def prior_kl(x0: Tensor, alpha: float, sigma: float) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)) per dimension, in nats (Ho et al. 2020, eq. 5)."""
    zero = torch.zeros((), dtype=x0.dtype, device=x0.device)
    return gaussian_kl(alpha * x0, zero + 2 * math.log(sigma), zero)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor, levels: int) -> Tensor:
    """log P(x) of quantised data under a Gaussian integrated over each bin (Ho et al. 2020, eq. 13).

    Args:
        levels: number of values of x, evenly spaced from −1 to 1.
    """
    precision = torch.exp(-log_std)
    half = 1 / (levels - 1)
    upper = torch.special.ndtr((x - mean + half) * precision)
    lower = torch.special.ndtr((x - mean - half) * precision)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()
