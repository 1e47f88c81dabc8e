"""`unclip convert`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH, overwrite_option
from unclip.cli.paths import check_writable, refuse_existing


@click.command()
@click.argument("source")
@click.argument("out", type=PATH)
@click.option(
    "--parity",
    is_flag=True,
    help="Match diffusers: clamp the prior at ±5 and run in float32. Default: ±10, as Karlo's own code.",
)
@overwrite_option
def convert(source: str, out: Path, parity: bool, overwrite: bool) -> None:
    """Convert another program's model or stage, such as Karlo, to a model folder.

    SOURCE is a folder in diffusers' layout or a Hub id, the folder of one of its networks, a PriorTransformer's
    (Karlo's, Kandinsky's, ECLIPSE's), a folder of Karlo's own .ckpt files, or one of them.
    """
    refuse_existing(out, overwrite)
    check_writable(out)
    from unclip.models.convert import convert as write
    from unclip.models.resolve import locate

    write(locate(source), out, parity=parity)
    click.echo(str(out))
