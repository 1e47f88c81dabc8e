"""Group normalisation with a scale and a shift per channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018), then x · (1 + scale) + shift (FiLM; Perez et al. 2018) where these are given."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Normalise x [B, C, H, W]; scale and shift are [B, C], both or none."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            # torch's CPU backward pass in bfloat16 takes longer than the float32 one and both conversions.
            out = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        else:
            out = super().forward(x)
        if scale is not None and shift is not None:
            out = out * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return out.to(x.dtype)
