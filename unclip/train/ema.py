"""The exponential moving average of a stage's weights: the model that is kept."""

from __future__ import annotations

import copy

import torch

from unclip.stages.base import Stage


class Ema:
    """Averaged weights as a stage of its own."""

    def __init__(self, stage: Stage, decay: float) -> None:
        self.stage = copy.deepcopy(stage).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, stage: Stage, step: int) -> None:
        """After optimizer step number `step` (from 1). Early steps average over a shorter time."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.stage.state_dict(), stage.state_dict()
        floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floats], [theirs[n].to(ours[n].dtype) for n in floats], 1 - decay)
