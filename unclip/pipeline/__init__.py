"""From captions and pictures to pictures: the pipeline, its options, and a file for each verb.

The names below are imported when they are first used (PEP 562): the command line reads
`unclip.pipeline.presets` and must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unclip.pipeline.generation import Generation
    from unclip.pipeline.options import MAX_SEED, OnStep, SamplingOptions, check_prompt
    from unclip.pipeline.pipeline import Pipeline

__all__ = ["MAX_SEED", "Generation", "OnStep", "Pipeline", "SamplingOptions", "check_prompt"]

_HOMES = {"Generation": "generation", "Pipeline": "pipeline"}  # all others: options


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'options')}"), name)
