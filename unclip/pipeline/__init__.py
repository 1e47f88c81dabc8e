"""The pipeline, its sampling options, and one module per verb.

Public names are imported on first use (PEP 562): the command line reads `unclip.pipeline.presets` without
importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unclip.pipeline.generation import Generation
    from unclip.pipeline.options import MAX_SEED, OnStep, SamplingOptions, check_prompt
    from unclip.pipeline.pipeline import Pipeline

__all__ = ["MAX_SEED", "Generation", "OnStep", "Pipeline", "SamplingOptions", "check_prompt"]

# All other public names live in unclip.pipeline.options.
_HOMES = {"Generation": "generation", "Pipeline": "pipeline"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'options')}"), name)
