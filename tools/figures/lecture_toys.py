"""Toy data and training for the figures of the lecture: a Swiss roll, and two modes on a line."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unclip.diffusion.sde import Score, Sde

BATCH = 512


def rolled(count: int, generator: torch.Generator) -> Tensor:
    """Sample points of a Swiss roll about as wide as the noise, [count, 2]."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
    roll = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / 8
    return roll + 0.03 * torch.randn(count, 2, generator=generator)


def noise_bits(x0: Tensor) -> float:
    """Mean −log2 density of the points under N(0, I), the baseline of an untrained model."""
    return ((x0.square() / 2).sum(1) + math.log(2 * math.pi)).mean().item() / math.log(2)


def mode_terms(sde: Sde, x: Tensor, t: Tensor) -> Tensor:
    """log(weight × density) of each of two modes on a line, [B, 2]."""
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    means, weights = torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5])
    variance = alpha**2 * 0.2**2 + sigma**2
    return weights.log() - (x - alpha * means) ** 2 / (2 * variance) - (2 * math.pi * variance).log() / 2


def modes(sde: Sde) -> Score:
    """The closed-form score of the two modes."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (value[:, None] for value in sde.marginal(t))
        share = mode_terms(sde, x, t).softmax(1)
        mean = share @ torch.tensor([[-1.0], [1.0]], dtype=share.dtype)
        return (alpha * mean - x) / (alpha**2 * 0.2**2 + sigma**2)

    return score


def train(network: nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    """Train with Adam and a cosine schedule."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()
        falling.step()
