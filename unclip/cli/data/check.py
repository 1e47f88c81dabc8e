"""`unclip data check`."""

from __future__ import annotations

import json

import click

from unclip.cli.options import CLIP_HELP, json_option
from unclip.cli.outputs import progress_bar
from unclip.errors import RequestError


@click.command()
@click.argument("shards")
@click.option("--clip", help=f"Also count captions that are too long for a CLIP. {CLIP_HELP}")
@json_option
def check(shards: str, clip: str | None, as_json: bool) -> None:
    """Read all shards and report unusable samples, sizes, caption lengths and duplicates.

    Exits with 1 if no sample is usable.
    """
    from unclip.data.check import check as check_shards
    from unclip.data.tar import find_shards
    from unclip.models.resolve import load_clip

    paths = find_shards(shards)
    reader = None if clip is None else load_clip(clip)
    with progress_bar("shard") as progress:
        report = check_shards(paths, progress, clip=reader)
    click.echo(json.dumps(report.to_dict()) if as_json else report.table())
    if not report.samples:
        raise RequestError(f"{shards}: no sample in it can be used")
