"""Closed forms of Gaussians, and the shape of per-example values, shared by the processes of this package."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def broadcast_to(values: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Values [B] on the device of `like` [B, ...], reshaped to broadcast over it; in its dtype unless one is
    given.
    """
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
    """KL(q(x_T | x_0) ‖ N(0, I)) per dimension, in nats: the term L_T of the variational bound (Ho et al.
    2020, eq. 5).
    """
    zero = torch.zeros((), dtype=x0.dtype, device=x0.device)
    return gaussian_kl(alpha * x0, zero + 2 * math.log(sigma), zero)
