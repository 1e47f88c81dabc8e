"""Optimizers by the config's `optim.kind`: AdamW, or Muon for hidden matrices and AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unclip.device import quick_in_bf16
from unclip.errors import ConfigError
from unclip.stages.base import Stage
from unclip.train.config import OptimConfig

MOMENTUM = 0.95
ITERATIONS = (3.4445, -4.7750, 2.0315)  # coefficients of the Newton–Schulz iteration (Jordan et al. 2024)
ENDS = {"conv_in", "conv_out", "out_proj"}  # names of first and last layers, which AdamW trains


def make_optimizer(stage: Stage, options: OptimConfig) -> torch.optim.AdamW:
    """The optimizer of a stage's trained parameters, in the order of the stage."""
    common: dict[str, Any] = {
        "lr": options.lr,
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
        "fused": options.fused,
    }
    if options.kind == "muon":
        return Muon(stage, **common)
    return torch.optim.AdamW(_trained(stage), **common)


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for hidden weights of linear and convolution layers, AdamW for the rest.

    The update of a matrix is its momentum, orthogonalised. A convolution's kernel is a matrix with a row for
    each output channel. Updates are scaled to AdamW's root mean square (Liu et al. 2025, eq. 4), so both
    share one learning rate and weight decay.
    """

    def __init__(self, stage: Stage, **options: Any) -> None:
        super().__init__(_trained(stage), **options)
        self.hidden = _hidden(stage)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; the weights without a gradient stay as they are.

        Raises:
            ConfigError: the weights are sharded; `hidden` then names the tensors from before.
        """
        assert closure is None
        group = self.param_groups[0]
        if any(isinstance(weight, DTensor) for weight in group["params"]):
            raise ConfigError("optim.kind: muon cannot train sharded weights (FSDP); take adamw")
        moved = [(weight, weight.grad) for weight in self.hidden if weight.grad is not None]
        for weight, _ in moved:
            weight.grad = None  # AdamW passes it over
        super().step()
        for weight, gradient in moved:
            self._move(weight, gradient, group["lr"], group["weight_decay"])
            weight.grad = gradient

    @torch.no_grad()
    def _move(self, weight: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalised(torch.lerp(gradient, momentum, MOMENTUM).flatten(1))
        scale = 0.2 * math.sqrt(max(update.shape))
        weight.mul_(1 - lr * decay).add_(update.view_as(weight), alpha=-lr * scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with all singular values moved towards 1, by five Newton–Schulz iterations.

    They run in bfloat16 where that is quick, as Jordan et al. run them.
    """
    a, b, c = ITERATIONS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T) / matrix.norm().clamp(min=1e-7)
    if quick_in_bf16(matrix.device):
        x = x.bfloat16()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.to(matrix.dtype)
    return result if wide else result.T.contiguous()


def _trained(stage: Stage) -> list[nn.Parameter]:
    return [parameter for parameter in stage.parameters() if parameter.requires_grad]


def _hidden(stage: Stage) -> list[Tensor]:
    """The weights of all linear and convolution layers but the first and the last."""
    layers: Iterator[nn.Linear | nn.Conv2d] = (
        module
        for name, module in stage.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name.rpartition(".")[2] not in ENDS
    )
    weights: dict[int, nn.Parameter] = {id(layer.weight): layer.weight for layer in layers}  # type: ignore[misc]
    return list(weights.values())
