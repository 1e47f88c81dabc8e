"""Measures models. `evaluate_compose` is the first question: does the picture show what the caption asks for?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unclip.evaluate.compose import Condition
    from unclip.evaluate.report import Report
    from unclip.pipeline import Pipeline

__all__ = ["evaluate_compose"]


def evaluate_compose(
    pipeline: Pipeline, count: int = 512, seed: int = 0, batch: int = 32, condition: Condition = "both"
) -> Report:
    """How truly a model paints captions of compositions that no training picture shows.

    Args:
        count: held-out captions, one picture each.
        seed: of captions and pictures: the same call on the same model gives the same report.
        batch: pictures made together; changes the time it takes, not the pictures.
        condition: what the decoder is given: the prior's z_i and the caption, or one of the two.
    """
    from unclip.evaluate.classifier import load_judge  # imports torch, as a mere look at this package should not
    from unclip.evaluate.compose import compose, pipeline_painter

    paint = pipeline_painter(pipeline, condition)
    return compose(paint, load_judge(), count=count, seed=seed, batch=batch, model=pipeline.name)
