"""A network for points of few dimensions: the lecture's swiss roll, mixtures and bits."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unclip.nn.layers import timestep_embedding

FEATURES = 32  # of the time


class TimestepMlp(nn.Module):
    """x [B, n] and times [B] → [B, outputs]; it starts by saying 0.

    Args:
        times: T of discrete times; 1 for continuous ones, which run from 0 to 1.
    """

    def __init__(
        self, inputs: int, outputs: int, *, width: int = 128, depth: int = 3, times: int = 1
    ) -> None:
        super().__init__()
        self.scale = (
            100 / times
        )  # at 1000 neighbouring times would look unlike, and few points could not tell why
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
