"""Sweeps on held-out captions of the menagerie, whose pictures are known."""

from __future__ import annotations

from PIL import Image

from unclip.evaluate.report import ALL_NAMED, Score
from unclip.evaluate.sweep import Task
from unclip.menagerie.compose import compose, held_out_captions
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import load_judge
from unclip.menagerie.scene import VALUES


def held_out_task(count: int, seed: int) -> Task:
    """The first `count` held-out captions of the stream `seed`, against renderings of the same scenes.

    The shares are "named", of named attributes that the pictures show, and "whole", of captions that are
    shown in full.
    """
    judge, asked = load_judge(), held_out_captions(count, seed)

    def score(pictures: list[Image.Image]) -> dict[str, Score]:
        painted = iter(pictures)
        report = compose(lambda captions, _: [next(painted) for _ in captions], judge, count=count, seed=seed)
        named = [one for key, one in report.scores.items() if key in VALUES]
        return {
            "named": Score(sum(one.right for one in named), sum(one.of for one in named)),
            "whole": report.scores[ALL_NAMED],
        }

    return Task(
        [one.text for one in asked],
        [one.seed for one in asked],
        lambda size: (draw(one.scene, size) for one in asked),
        score,
    )
