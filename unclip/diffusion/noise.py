"""Random numbers per image: one seed gives one image on any device, in any batch and in any process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """Gaussian noise from one CPU generator per image, moved to the device where it is needed.

    Args:
        seeds: one per image of the batch.
        stream: a name that keeps the draws of different stages apart.
        numbers: which candidate each image is; those of one seed differ. Default: 0 for each.
    """

    def __init__(self, seeds: Sequence[int], stream: str = "", numbers: Sequence[int] | None = None) -> None:
        self.seeds, self.stream = tuple(seeds), stream
        self._generators = [
            torch.Generator("cpu").manual_seed(_mix(seed, f"{stream}/{number}" if number else stream))
            for seed, number in zip(seeds, numbers or [0] * len(seeds), strict=True)
        ]

    def __call__(self, like: Tensor) -> Tensor:
        """Gaussian noise of the shape, device and dtype of `like` [B, ...]; B must be the number of seeds."""
        if len(like) != len(self._generators):
            raise ValueError(f"noise for {len(self._generators)} images was asked for {len(like)}")
        draws = [torch.randn(like.shape[1:], generator=g, device="cpu") for g in self._generators]
        return torch.stack(draws).to(like)

    def candidates(self, n: int) -> SeededNoise:
        """Noise for n candidates of each image, in consecutive rows; candidate 0 has this object's noise."""
        seeds = [seed for seed in self.seeds for _ in range(n)]
        return SeededNoise(seeds, self.stream, [*range(n)] * len(self.seeds))


class ExampleRng:
    """The random numbers of one training step, from one generator per example.

    An example's numbers depend on its seed only, not on its process or its place in a batch.

    Args:
        seeds: int64 [B].
        device: device of the results; the numbers are drawn on the CPU.
    """

    def __init__(self, seeds: Tensor, device: torch.device) -> None:
        self.device = device
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds.tolist()]

    def uniform(self) -> Tensor:
        """One number in [0, 1) per example, [B]."""
        return torch.cat([torch.rand(1, generator=g, device="cpu") for g in self._generators]).to(self.device)

    def integers(self, below: int) -> Tensor:
        """One number in 0 … below − 1 per example, int64 [B], on the CPU for table lookups."""
        return torch.cat([torch.randint(below, (1,), generator=g, device="cpu") for g in self._generators])

    def normal(self, like: Tensor) -> Tensor:
        """Gaussian noise of the shape of `like` [B, ...], in float32."""
        draws = [torch.randn(like.shape[1:], generator=g, device="cpu") for g in self._generators]
        return torch.stack(draws).to(self.device)


def _mix(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=7).digest(), "big")
