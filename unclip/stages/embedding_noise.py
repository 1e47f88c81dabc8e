"""Noise on z_i, whose level the decoder reads as well (Stable unCLIP 2.1).

Source: Stability-AI/stablediffusion, doc/UNCLIP.MD; diffusers' `StableUnCLIPPipeline.noise_image_embeddings`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unclip.diffusion.schedule import Schedule
from unclip.nn.layers import timestep_embedding


class EmbeddingNoise(nn.Module):
    """Noises whitened z_i to a timestep of a schedule and appends that timestep's sinusoidal embedding.

    Attributes:
        mean, std: statistics of z_i, [D], by which it is whitened for the noise and unwhitened after it.
    """

    def __init__(self, width: int, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.std = nn.Parameter(torch.ones(width), requires_grad=False)

    def level(self, share: float) -> int:
        """The timestep of a noise level in [0, 1], its share of the schedule."""
        return round(share * (self.schedule.times - 1))

    def forward(self, z_i: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_i [B, D] → [B, 2 D]: the noised z_i, then the embedding of t.

        Args:
            t: timesteps [B].
            noise: standard Gaussian noise [B, D]. Even t = 0 has a little (σ = 0.006), as in training.
        """
        alpha, sigma = self.schedule.coefficients(t, z_i)
        mean, std = self.mean.to(z_i), self.std.to(z_i)  # on the CPU if the stage is offloaded
        noised = (alpha * (z_i - mean) / std + sigma * noise) * std + mean
        return torch.cat([noised, timestep_embedding(t.to(z_i.device), z_i.shape[1]).to(noised)], dim=1)
