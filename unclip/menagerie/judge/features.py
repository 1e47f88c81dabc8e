"""The judge as a feature extractor of `unclip evaluate is`."""

from __future__ import annotations

from unclip.evaluate.features import Extractor, stacked
from unclip.images import resize
from unclip.menagerie.judge.model import SIZE, load_judge


def judge_extractor() -> Extractor:
    """The bundled judge's subject logits, for an offline Inception Score of menagerie pictures."""
    judge = load_judge()
    return Extractor(
        "judge", lambda pictures: judge(resize(stacked(pictures), SIZE))["subject"].float(), classifies=True
    )
