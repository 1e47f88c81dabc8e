"""The repeated blocks of a stage: what is compiled, recomputed and sharded one by one.

A block is what an `nn.ModuleList` holds that holds no further list: a transformer's layers, a U-Net level's
blocks.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from unclip.stages.base import Stage
from unclip.train.config import TrainConfig


def blocks(stage: Stage) -> list[nn.Module]:
    """All of them, in the order of the stage's modules."""
    lists = [module for module in stage.modules() if isinstance(module, nn.ModuleList)]
    return [
        block
        for blocks in lists
        for block in blocks
        if not any(isinstance(m, nn.ModuleList) for m in block.modules())
    ]


def prepare_blocks(stage: Stage, config: TrainConfig) -> None:
    """Recomputes and compiles them as the config says, and lets accelerate shard them; parameters keep their
    names.
    """
    for block in blocks(stage):
        if config.recompute:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if config.compile:
            block.compile()
    stage._no_split_modules = sorted({type(block).__name__ for block in blocks(stage)})  # type: ignore[assignment]
