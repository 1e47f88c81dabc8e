"""The exponential moving average of a stage's weights: the model that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from unclip.stages.base import Stage


class Ema:
    """A stage's averaged weights, sharded among the processes as the stage's own are.

    Args:
        stage: what it averages, as the optimizer sees it; the average starts there.
    """

    def __init__(self, stage: Stage, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}

    @torch.no_grad()
    def update(self, stage: Stage, step: int) -> None:
        """After optimizer step number `step` (from 1). Early steps average over a shorter time."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = stage.state_dict()
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [_local(self.tensors[n]) for n in floats], [_local(theirs[n]) for n in floats], 1 - decay
        )

    def stage(self, stage: Stage) -> Stage:
        """The averaged twin of the stage. Where the weights are sharded, every process must ask for it."""
        with torch.device("meta"):
            twin = type(stage)(stage.config)
        twin.load_state_dict({name: full(tensor) for name, tensor in self.tensors.items()}, assign=True)
        return twin.eval().requires_grad_(False)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Becomes this average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(laid_out_like(tensor, tensors[name]))

    @contextmanager
    def swapped_in(self, stage: Stage) -> Iterator[None]:
        """Within the block, the stage's weights are the averaged ones."""
        self._swap(stage)
        try:
            yield
        finally:
            self._swap(stage)

    @torch.no_grad()
    def _swap(self, stage: Stage) -> None:
        for name, tensor in stage.state_dict().items():
            ours, theirs = _local(self.tensors[name]), _local(tensor)
            kept = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(kept)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, which FSDP may have sharded; then every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_like(model: Tensor, value: Tensor) -> Tensor:
    """The value sharded as the model is, on its device, and in memory as it is (channels last)."""
    if isinstance(model, DTensor):
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)
    return torch.empty_like(model).copy_(value)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
