"""A vision tower that pools late: a convolutional trunk, then several attention queries over its whole map.

CLIP's ResNet reduces 64 px to a 2 × 2 map before it pools, which is too coarse to tell hats apart. Pooling a
finer map by learned queries is Set Transformer's PMA (Lee et al. 2019, §3.2) with one head and the position
as a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from unclip.nn.config import Architecture
from unclip.nn.norm import GroupNorm

NORM_GROUPS = 8  # of the towers that the CLIP stage trains


class Residual(nn.Module):
    """Normalisation and two 3 × 3 convolutions beside the identity. One norm: on a CPU it costs as much as a
    convolution.
    """

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(math.gcd(channels, norm_groups), channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_2(F.relu(self.conv_1(self.norm(x))))
        return out


class PooledTower(nn.Module):
    """Images [B, 3, S, S], normalised → z_i [B, embed].

    Args:
        image_size: S, divisible by 2 for each level.
        width: channels of the first level; each further level has twice as many.
        depth: residual blocks per level; each level halves the resolution.
        queries: how many places are read of the last level's map.
        norm_groups: of channels that are normalised together.
    """

    def __init__(
        self, image_size: int, width: int, depth: Sequence[int], queries: int, embed: int, norm_groups: int
    ) -> None:
        super().__init__()
        self.image_size = image_size
        trunk: list[nn.Module] = []
        inputs = 3
        for level, blocks in enumerate(depth):
            channels = width * 2**level
            trunk.append(nn.Conv2d(inputs, channels, 3, stride=2, padding=1))
            trunk += [Residual(channels, norm_groups) for _ in range(blocks)]
            inputs = channels
        self.trunk = nn.Sequential(*trunk)
        self.norm = GroupNorm(math.gcd(inputs, norm_groups), inputs)
        self.queries = nn.Conv2d(inputs, queries, 1)
        self.positions = nn.Parameter(torch.zeros(queries, (image_size // 2 ** len(depth)) ** 2))
        self.projection = nn.Linear(queries * inputs, embed)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.trunk(images.contiguous(memory_format=torch.channels_last))))
        logits = rearrange(self.queries(features), "b k h w -> b k (h w)") + self.positions
        pooled = einsum(
            logits.float().softmax(dim=2).to(features.dtype), features.flatten(2), "b k n, b c n -> b k c"
        )
        out: Tensor = self.projection(pooled.flatten(1))
        return out


def pooled_tower(architecture: Architecture) -> PooledTower:
    """The untrained tower of an architecture with `vision_queries`."""
    a = architecture
    assert isinstance(a.vision_depth, tuple)
    return PooledTower(a.image_size, a.vision_width, a.vision_depth, a.vision_queries, a.embed, NORM_GROUPS)
