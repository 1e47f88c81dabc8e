"""What one request may cost, and who is the client whose share of the queue it takes."""

from __future__ import annotations

from math import sqrt
from typing import Final

from unclip.pipeline.presets import PRESETS
from unclip.serve.envelope import ApiError
from unclip.serve.requests import EmbeddingRequest, GenerationRequest

USUAL_STEPS: Final = 25  # of a stage, where the request does not say
MAX_COST: Final = 5000.0  # ten images of 1024 pixels with 125 steps in all


def cost(wanted: GenerationRequest) -> float:
    """Returns n × (size / 256) × (steps of the prior and the decoder); for embeddings, n × the prior's.

    The size is the side of a square of the same area.
    """
    steps = {"prior": USUAL_STEPS, "decoder": USUAL_STEPS}
    for role, settings in PRESETS[wanted.preset].items():
        if role in steps:
            steps[role] = settings["steps"]
    steps |= {role: int(value) for role, name, value in wanted.options if name == "steps"}
    if isinstance(wanted, EmbeddingRequest):
        return wanted.n * steps["prior"]
    return wanted.n * sqrt(wanted.pixels.area) / 256 * sum(steps.values())


def check_cost(wanted: GenerationRequest, most: float) -> None:
    """Refuses a request that would occupy the server for too long.

    Raises:
        ApiError: it costs more than `most`.
    """
    if (found := cost(wanted)) > most:
        raise ApiError(
            f"This request costs {found:.0f} (n x size / 256 x steps); this server's limit is {most:.0f}. "
            "Ask for fewer images, a smaller size or fewer steps.",
            code="request_too_large",
        )
