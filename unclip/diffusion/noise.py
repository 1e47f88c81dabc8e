"""Randomness that belongs to the image: one seed, one picture, on any device and in any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Gaussian noise drawn from one CPU generator per image, then moved to where it is needed.

    Args:
        seeds: one per image of the batch.
        stream: a name that keeps the draws of different stages (and candidates) apart.
    """

    def __init__(self, seeds: Sequence[int], stream: str = "") -> None:
        self.seeds, self.stream = tuple(seeds), stream
        self._generators = [torch.Generator("cpu").manual_seed(_mix(seed, stream)) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """Noise of the shape, device and dtype of `like` [B, ...]; B must be the number of seeds."""
        if len(like) != len(self._generators):
            raise ValueError(f"noise for {len(self._generators)} images was asked for {len(like)}")
        draws = [torch.randn(like.shape[1:], generator=g, device="cpu") for g in self._generators]
        return torch.stack(draws).to(like)

    def candidates(self, n: int) -> Noise:
        """Noise for n draws of each image, in rows image by image; draw 0 is what this noise itself would have drawn."""
        draws = Noise([seed for seed in self.seeds for _ in range(n)], self.stream)
        for row, generator in enumerate(draws._generators):
            if draw := row % n:
                generator.manual_seed(_mix(draws.seeds[row], f"{self.stream}/{draw}"))
        return draws


def _mix(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=7).digest(), "big")
