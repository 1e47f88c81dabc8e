"""A small MLP for low-dimensional data: the lecture's swiss roll, mixtures and bits."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unclip.nn.layers import timestep_embedding

FEATURES = 32  # number of sinusoidal features of the timestep


class TimestepMlp(nn.Module):
    """x [B, n] and timesteps [B] → [B, outputs]; the output is 0 before training.

    Args:
        times: number of discrete timesteps T; 1 for continuous times from 0 to 1.
    """

    def __init__(
        self, inputs: int, outputs: int, *, width: int = 128, depth: int = 3, times: int = 1
    ) -> None:
        super().__init__()
        self.scale = 100 / times  # at 1000 / times the features of neighbouring times would differ too much
        widths = [inputs + FEATURES, *[width] * depth]
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*hidden, last)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = timestep_embedding(self.scale * t, FEATURES)
        out: Tensor = self.layers(torch.cat([x.float(), features], dim=1))
        return out.to(x)
