"""`unclip evaluate`: one module per measure or group of like measures."""

from __future__ import annotations

import click

from unclip.cli.evaluate.clip import clip_score, retrieval
from unclip.cli.evaluate.compose import compose
from unclip.cli.evaluate.nll import nll
from unclip.cli.evaluate.prior import prior
from unclip.cli.evaluate.quality import cmmd, fid, inception_score, kid, precision_recall
from unclip.cli.evaluate.recognition import probe, zeroshot
from unclip.cli.evaluate.spectrum import spectrum
from unclip.cli.evaluate.sweep import sweep


@click.group()
def evaluate() -> None:
    """Measure a model."""


for _command in (
    fid,
    kid,
    cmmd,
    precision_recall,
    inception_score,
    clip_score,
    retrieval,
    zeroshot,
    probe,
    nll,
    sweep,
    compose,
    prior,
    spectrum,
):
    evaluate.add_command(_command)
