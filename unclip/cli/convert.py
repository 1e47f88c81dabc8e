"""`unclip convert`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.errors import RequestError


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--parity", is_flag=True, help="Clamp the prior as diffusers does, at ±5, not as Karlo's own code, at ±10."
)
@click.option("--overwrite", is_flag=True, help="Replace a model folder that exists.")
def convert(source: str, out: Path, parity: bool, overwrite: bool) -> None:
    """Turn Karlo in diffusers' layout (a folder or Hub id), or a PriorTransformer's folder, into our layout."""
    if out.exists() and not overwrite:
        raise RequestError(f"{out}: exists already and is kept; --overwrite replaces it")
    from unclip import files
    from unclip.convert import convert as write

    folder = Path(source)
    is_stage = (folder / "config.json").is_file() and not (folder / "model_index.json").is_file()
    write(folder if is_stage else files.find_model(source), out, parity=parity)
    click.echo(str(out))
