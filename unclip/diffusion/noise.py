"""Randomness that belongs to the image: one seed, one picture, on any device, in any batch and on any
process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """Gaussian noise drawn from one CPU generator per image, then moved to where it is needed.

    Args:
        seeds: one per image of the batch.
        stream: a name that keeps the draws of different stages (and candidates) apart.
    """

    def __init__(self, seeds: Sequence[int], stream: str = "") -> None:
        self.seeds, self.stream = tuple(seeds), stream
        self._generators = [torch.Generator("cpu").manual_seed(_mix(seed, stream)) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """SeededNoise of the shape, device and dtype of `like` [B, ...]; B must be the number of seeds."""
        if len(like) != len(self._generators):
            raise ValueError(f"noise for {len(self._generators)} images was asked for {len(like)}")
        draws = [torch.randn(like.shape[1:], generator=g, device="cpu") for g in self._generators]
        return torch.stack(draws).to(like)

    def candidates(self, n: int) -> SeededNoise:
        """SeededNoise for n draws of each image, in rows image by image; draw 0 is what this noise itself
        would have drawn.
        """
        draws = SeededNoise([seed for seed in self.seeds for _ in range(n)], self.stream)
        for row, generator in enumerate(draws._generators):
            if draw := row % n:
                generator.manual_seed(_mix(draws.seeds[row], f"{self.stream}/{draw}"))
        return draws


class ExampleRng:
    """What one training step draws, example by example from generators of their own.

    An example's draws depend on its seed alone: not on the process, nor on the part of a batch, that it falls
    to.

    Args:
        seeds: int64 [B].
        device: where the draws are wanted; they are made on the CPU.
    """

    def __init__(self, seeds: Tensor, device: torch.device) -> None:
        self.device = device
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds.tolist()]

    def uniform(self) -> Tensor:
        """One number in [0, 1) per example, [B]."""
        return torch.cat([torch.rand(1, generator=g, device="cpu") for g in self._generators]).to(self.device)

    def integers(self, below: int) -> Tensor:
        """One number in 0 … below − 1 per example, int64 [B]. On the CPU, where tables are looked up."""
        return torch.cat([torch.randint(below, (1,), generator=g, device="cpu") for g in self._generators])

    def normal(self, like: Tensor) -> Tensor:
        """Gaussian noise of the shape of `like` [B, ...], in float32."""
        draws = [torch.randn(like.shape[1:], generator=g, device="cpu") for g in self._generators]
        return torch.stack(draws).to(self.device)


def _mix(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=7).digest(), "big")
