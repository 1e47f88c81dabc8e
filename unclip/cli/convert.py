"""`unclip convert`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.errors import RequestError


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--parity",
    is_flag=True,
    help="Clamp the prior as diffusers does, at ±5, not as Karlo's own code, at ±10; run in float32 everywhere.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model folder that exists.")
def convert(source: str, out: Path, parity: bool, overwrite: bool) -> None:
    """Turn Karlo, or a single stage of it, into our layout.

    SOURCE is a folder in diffusers' layout or a Hub id, the folder of one of its networks, a
    PriorTransformer's (Karlo's, Kandinsky 2.2's), a folder of Karlo's own .ckpt files, or one of them.
    """
    if out.exists() and not overwrite:
        raise RequestError(f"{out}: exists already and is kept; --overwrite replaces it")
    from unclip.models.convert import convert as write
    from unclip.models.resolve import locate

    write(locate(source), out, parity=parity)
    click.echo(str(out))
