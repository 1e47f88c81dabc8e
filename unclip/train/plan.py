"""Estimate a run's parameters, FLOPs, memory and time before it starts, on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from unclip.clip import Text
from unclip.stages import stage_class
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.lora import add_adapter
from unclip.stages.upsampler import Upsampler
from unclip.train.blocks import blocks
from unclip.train.config import RunConfig

CAPTION = 77  # tokens of a caption, if the stage does not say
OUTSIDE = -1  # number of "no block"
H100_TFLOPS = 989.0  # peak in dense bf16; default of train.peak_tflops
UTILISATION = 0.4  # share of the peak that good training reaches


@dataclass(frozen=True)
class Plan:
    """Estimated cost of a run on a number of devices.

    Attributes:
        parameters: number of the stage's parameters.
        trained: number of those that train: all, or those of its adapter.
        flops: FLOPs of a forward and backward pass per image, without the frozen CLIP.
        memory: strategy (ddp, zero2, fsdp2) → part → bytes per device.
        images: number of images that the run reads.
    """

    parameters: int
    trained: int
    flops: int
    memory: dict[str, dict[str, int]]
    images: int

    @property
    def counted(self) -> str:
        """The numbers of parameters, in words."""
        adapter = "" if self.trained == self.parameters else f", of which {self.trained:,} train (LoRA)"
        return f"{self.parameters:,} parameters{adapter}"


def plan(config: RunConfig, devices: int) -> Plan:
    """Estimate the cost without allocating weights: seconds even for billions of parameters."""
    flops = flops_per_image(config)
    half = config.train.precision in ("auto", "bf16", "fp16")
    stage = stage_on_meta(config)
    count = sum(p.numel() for p in stage.parameters())
    trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    activations = _activations(config, half) * config.data.batch
    largest = max((sum(p.numel() for p in block.parameters()) for block in blocks(stage)), default=0)
    memory = {}
    for name, share, gathered in (
        ("ddp", 1, count),
        ("zero2", devices, count),
        ("fsdp2", devices, 2 * largest),
    ):
        copies = gathered * (2 if half else 4)  # weights in half precision, or gathered from other devices
        memory[name] = {
            "weights": 4 * count // share,
            "gradients": 4 * trained // share,
            "optimizer": 8 * trained // share,
            "averages": 4 * trained * len(config.train.decays) // share,
            **({} if config.distill is None else {"teacher": 4 * count}),
            "copies of weights": copies if half or (devices > 1 and name != "ddp") else 0,
            "activations": activations,
        }
    images = config.train.steps * config.data.batch * config.train.accumulate * devices
    return Plan(count, trained, flops, memory, images)


def describe(config: RunConfig, devices: int) -> str:
    """Format the plan as comments to print below the YAML config."""
    found = plan(config, devices)
    peak = config.train.peak_tflops or H100_TFLOPS
    hours = found.images * found.flops / (peak * 1e12 * UTILISATION * 3600)
    rows = [f"{'GiB per device':20}{''.join(f'{name:>9}' for name in found.memory)}"]
    for part in next(iter(found.memory.values())):
        rows.append(f"{part:20}{''.join(f'{parts[part] / 2**30:9.2f}' for parts in found.memory.values())}")
    rows.append(
        f"{'in all':20}{''.join(f'{sum(parts.values()) / 2**30:9.2f}' for parts in found.memory.values())}"
    )
    lines = [
        found.counted,
        f"{found.flops:,} FLOPs per image, forward and backward, without the frozen CLIP's",
        f"{config.train.steps:,} steps of {found.images // config.train.steps:,} images on {devices} "
        f"devices: {found.images:,} images",
        f"{hours:,.0f} device-hours, {hours / devices:,.0f} hours, at {UTILISATION:.0%} of {peak:g} TFLOP/s",
        *rows,
        "(activations: what the forward pass keeps, an estimate; fused attention keeps less)",
    ]
    return "\n".join(f"# {line}" for line in lines)


def flops_per_image(config: RunConfig) -> int:
    """Count the FLOPs of a forward and backward pass, with a teacher's part (multiply and add are two)."""
    stage, batch = _on_meta(config)
    with FlopCounterMode(display=False) as counter:
        stage(batch).mean().backward()
    own = int(counter.get_total_flops())
    if config.distill is None:
        return own
    # A forward pass is a third of both; the teacher's guidance doubles it.
    guided = getattr(config.stage, "distilled").guidance != 1  # noqa: B009
    return own + own * config.distill.substeps * (2 if guided else 1) // 3


def stage_on_meta(config: RunConfig) -> Stage:
    """Build the run's stage, with its adapter if it trains one, without weights."""
    with torch.device("meta"):
        return add_adapter(stage_class(config.stage.kind)(config.stage))


def _on_meta(config: RunConfig) -> tuple[Stage, Batch]:
    """Build the stage and a batch of one image on the meta device."""
    tree: Any = config.stage
    stage = stage_on_meta(config).train()
    with torch.device("meta"):
        embed, width = getattr(tree, "embed", 1), getattr(tree, "token_width", 1)
        length = stage.context or CAPTION
        text = Text(
            ("",),
            torch.zeros(1, length, dtype=torch.long),
            torch.ones(1, length, dtype=torch.bool),
            torch.zeros(1, embed),
            torch.zeros(1, length, width),
        )
        image = None if stage.crop is None else torch.zeros(1, 3, stage.crop, stage.crop)
        batch = Batch(
            (" ".join(["word"] * CAPTION),),
            image,
            torch.zeros(1, embed),
            text,
            text,
            label=torch.zeros(1, dtype=torch.long, device="cpu"),
            seeds=torch.zeros(1, dtype=torch.long, device="cpu"),
            vectors=None if stage.vector_shape is None else torch.zeros(1, *stage.vector_shape),
            low=stage.reduced(image) if isinstance(stage, Upsampler) and image is not None else None,
        )
    return stage, batch


def _activations(config: RunConfig, half: bool) -> int:
    """Measure the bytes that the forward pass of one image keeps for the backward pass."""
    stage, batch = _on_meta(config)
    if half:
        stage.to(torch.bfloat16)
    own = {p.untyped_storage()._cdata for p in stage.parameters()}
    kept: dict[int, Tensor] = {}
    sizes: Counter[int] = Counter()
    inputs, current = 0, OUTSIDE

    def entering(number: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            nonlocal current, inputs
            current = number
            inputs += arguments[0].nbytes  # the other inputs are shared by all blocks

        return enter

    def leave(*_: object) -> None:
        nonlocal current
        current = OUTSIDE

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept and storage._cdata not in own:
            kept[storage._cdata] = tensor  # held, so that no later storage reuses the address
            sizes[current] += storage.nbytes()
        return tensor

    for number, block in enumerate(blocks(stage)):
        block.register_forward_pre_hook(entering(number))
        block.register_forward_hook(leave)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = stage(batch)
    del loss
    inside = [size for number, size in sizes.items() if number != OUTSIDE]
    if config.train.recompute and inside:
        return sizes[OUTSIDE] + inputs + max(inside)
    return sizes.total()
