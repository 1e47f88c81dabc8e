"""Presets of the sampling: how many steps, by which sampler. Imports nothing heavy, so that the command line
may read it.
"""

from __future__ import annotations

from typing import Any

from unclip.errors import RequestError

# `fast` has the sampler that is nearest to many steps (docs/explanation/samplers.md); `balanced` is the
# model's own; `paper` is DALL·E 2's (Ramesh et al. 2022, table 3), whose decoder learned its variance.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "fast": {"prior": {"steps": 10, "sampler": "unipc"}, "decoder": {"steps": 12, "sampler": "unipc"}},
    "balanced": {},
    "paper": {
        "prior": {"steps": 64, "sampler": "analytic_dpm"},
        "decoder": {"steps": 250, "sampler": "ddpm"},
        "upsampler-256": {"steps": 27, "sampler": "ddim"},
        "upsampler-1024": {"steps": 15, "sampler": "ddim"},
    },
}


def find_preset(name: str) -> dict[str, dict[str, Any]]:
    """The preset's changes to the stages' sampling, by role; a model may lack some of the roles.

    Raises:
        RequestError: there is no such preset.
    """
    if name not in PRESETS:
        raise RequestError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
