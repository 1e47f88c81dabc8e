"""Presets: steps and samplers of all stages. Imports nothing heavy: the command line reads this at start."""

from __future__ import annotations

from typing import Any

from unclip.errors import RequestError

EXPERT = "expert"  # the key for an upsampler with a last-step expert, whatever its size

# fast: the most accurate sampler at few steps (docs/explanation/samplers.md). balanced: the model's own
# settings. paper: DALL·E 2's (Ramesh et al. 2022, table 3). undistilled: the settings of the decoder that the
# model's decoder was distilled from.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "fast": {
        "prior": {"steps": 10, "sampler": "unipc"},
        "decoder": {"steps": 12, "sampler": "unipc", "candidates": 1},
        EXPERT: {"steps": 6, "sampler": "ddim"},
    },
    "balanced": {},
    "paper": {
        "prior": {"steps": 64, "sampler": "analytic_dpm"},
        "decoder": {"steps": 250, "sampler": "ddpm", "candidates": 1},
        "upsampler-256": {"steps": 27, "sampler": "ddim"},
        "upsampler-1024": {"steps": 15, "sampler": "ddim"},
    },
    "undistilled": {},
}
# Presets that take the undistilled decoder of a model that holds one.
WITH_UNDISTILLED = frozenset({"paper", "undistilled"})


def find_preset(name: str) -> dict[str, dict[str, Any]]:
    """The preset's changes to sampling configs by role; a model need not have every role.

    Raises:
        RequestError: unknown preset.
    """
    if name not in PRESETS:
        raise RequestError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
