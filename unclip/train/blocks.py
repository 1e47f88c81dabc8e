"""The repeated blocks of a stage, which are compiled, recomputed and sharded one by one.

A block is an entry of an `nn.ModuleList` that contains no further list: a layer of a transformer, a block of
a U-Net level.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from unclip.stages.base import Stage
from unclip.train.config import TrainConfig


def blocks(stage: Stage) -> list[nn.Module]:
    """Return all blocks, in the order of the stage's modules."""
    lists = [module for module in stage.modules() if isinstance(module, nn.ModuleList)]
    return [
        block
        for blocks in lists
        for block in blocks
        if not any(isinstance(m, nn.ModuleList) for m in block.modules())
    ]


def prepare_blocks(stage: Stage, config: TrainConfig) -> None:
    """Set up recomputation, compilation and sharding of the blocks. Parameters keep their names."""
    for block in blocks(stage):
        if config.recompute:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if config.compile:
            block.compile()
    names = sorted({type(block).__name__ for block in blocks(stage)})
    stage._no_split_modules = names  # type: ignore[assignment]
