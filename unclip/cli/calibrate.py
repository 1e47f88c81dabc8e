"""`unclip calibrate`."""

from __future__ import annotations

import click

from unclip.cli.options import CLIP_HELP


@click.command()
@click.argument("prior")
@click.argument("shards")
@click.option("--clip", help=f"{CLIP_HELP} Needed if the shards hold no embeddings.")
@click.option("--count", default=512, show_default=True, help="Number of samples to measure.")
def calibrate(prior: str, shards: str, clip: str | None, count: int) -> None:
    """Measure the prior's x0 variance for the sampler analytic_dpm, and store it with the prior.

    \b
    unclip calibrate runs/prior 'data/menagerie/train-64/*.tar' --clip runs/clip
    """
    from unclip.train.x0_variance import calibrate as measure

    click.echo(str(measure(prior, shards, clip, count=count)))
