"""Low-rank adaptation (LoRA; Hu et al. 2021): a frozen projection W becomes W + scaling · B A.

A and B are modules inside the layer that they adapt, under peft's names `lora_A` and `lora_B`, and a forward
hook adds their output. The names of the layer's own tensors stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

Projection = nn.Linear | nn.Conv2d

_MARKS = (".lora_A.", ".lora_B.")


def projections(module: nn.Module) -> Iterator[tuple[str, Projection]]:
    """Name the layers that can be adapted: linear layers and 1 × 1 convolutions, of attention or not.

    `nn.MultiheadAttention` is left out: it uses its layers' weights without calling the layers.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            continue
        for part, inner in layer.named_children():
            if isinstance(inner, nn.Linear) or (isinstance(inner, nn.Conv2d) and _is_pointwise(inner)):
                yield f"{name}.{part}" if name else part, inner


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1


def add_lora(module: nn.Module, rank: int, scaling: float) -> None:
    """Freeze a module and add a trainable A and B to each projection; the module's output stays the same."""
    module.requires_grad_(False)
    layers = [layer for _, layer in projections(module)]
    for layer in layers:
        place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        if isinstance(layer, nn.Linear):
            layer.lora_A = nn.Linear(layer.in_features, rank, bias=False, **place)
            layer.lora_B = nn.Linear(rank, layer.out_features, bias=False, **place)
        else:
            stride: Any = layer.stride
            layer.lora_A = nn.Conv2d(layer.in_channels, rank, 1, stride, bias=False, **place)
            layer.lora_B = nn.Conv2d(rank, layer.out_channels, 1, bias=False, **place)
        nn.init.zeros_(layer.lora_B.weight)
        layer.register_forward_hook(partial(_add_low_rank, scaling))


def lora_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors of A and B from a state dict."""
    return {name: tensor for name, tensor in state.items() if any(mark in name for mark in _MARKS)}


def _add_low_rank(scaling: float, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + scaling * layer.lora_B(layer.lora_A(*inputs))  # type: ignore[operator, no-any-return]
