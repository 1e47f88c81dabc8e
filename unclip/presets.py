"""Presets of the sampling: how many steps, by which sampler. Imports nothing heavy, so that the command line may read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unclip.errors import RequestError

# `fast` has the sampler that is nearest to many steps (docs/samplers.md); `balanced` is the model's own; `paper` is DALL·E 2's (Ramesh et al. 2022, table 3).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "fast": {"prior": {"steps": 10, "sampler": "unipc"}, "decoder": {"steps": 12, "sampler": "unipc"}},
    "balanced": {},
    "paper": {"prior": {"steps": 64, "sampler": "ddpm"}, "decoder": {"steps": 250, "sampler": "ddpm"}},
}


def with_preset(preset: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The preset's changes to the stages' sampling, with `options` (of the same shape) on top of them.

    Raises:
        RequestError: there is no such preset.
    """
    if preset not in PRESETS:
        raise RequestError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    base = PRESETS[preset]
    return {role: {**base.get(role, {}), **options.get(role, {})} for role in {**base, **options}}
