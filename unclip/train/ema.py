"""Exponential moving average (EMA) of the weights that a run trains: the model or adapter that it produces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from unclip.stages.base import Stage
from unclip.stages.lora import trained_state, twin_of


class Ema:
    """Averaged weights of a stage, or of its adapter only, sharded like the stage's own.

    Args:
        stage: the stage to average, after sharding. Its weights are the initial average.
        decay: weight of the previous average in each update, warmed up as (1 + step) / (10 + step).
    """

    def __init__(self, stage: Stage, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in trained_state(stage).items()}

    @torch.no_grad()
    def update(self, stage: Stage, step: int) -> None:
        """Update the average after optimizer step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = stage.state_dict()
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [_local(self.tensors[n]) for n in floats], [_local(theirs[n]) for n in floats], 1 - decay
        )

    def stage(self, stage: Stage) -> Stage:
        """Return a stage with the averaged weights, which shares the weights that are not averaged.

        With sharding, every process must call this.
        """
        twin, state = twin_of(stage), {**stage.state_dict(), **self.tensors}
        twin.load_state_dict({name: full(tensor) for name, tensor in state.items()}, assign=True)
        return twin.eval().requires_grad_(False)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the average by saved tensors."""
        for name, tensor in self.tensors.items():
            tensor.copy_(laid_out_like(tensor, tensors[name]))

    @contextmanager
    def swapped_in(self, stage: Stage) -> Iterator[None]:
        """Swap the averaged weights into the stage within the block."""
        self._swap(stage)
        try:
            yield
        finally:
            self._swap(stage)

    @torch.no_grad()
    def _swap(self, stage: Stage) -> None:
        for name, tensor in trained_state(stage).items():
            ours, theirs = _local(self.tensors[name]), _local(tensor)
            kept = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(kept)


def full(tensor: Tensor) -> Tensor:
    """Gather a tensor that FSDP may have sharded. With sharding, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_like(model: Tensor, value: Tensor) -> Tensor:
    """Copy `value` to the device, sharding and memory format of `model`."""
    if isinstance(model, DTensor):
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)
    return torch.empty_like(model).copy_(value)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
