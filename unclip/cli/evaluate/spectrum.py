"""`unclip evaluate spectrum`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unclip.cli.evaluate.measuring import held_out_options
from unclip.cli.options import PATH, json_option
from unclip.cli.paths import check_outputs
from unclip.text import legible


@click.command()
@held_out_options(count=32, batch=8)
@click.option("--out", type=PATH, help="Markdown file for the table. Default: not saved.")
@json_option
def spectrum(
    model: str,
    lora: tuple[str, ...],
    count: int,
    seed: int,
    batch: int,
    out: Path | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Energy by octave of spatial frequency over that of renderings: blur, stripes, grain.

    The last column is the power at the frequency of each stage's patches over the power around it, with the
    renderings' value in brackets.
    """
    if out is not None:
        check_outputs([out], overwrite=True)
    from unclip.images import write
    from unclip.menagerie.spectrum import spectra, table
    from unclip.pipeline import Pipeline

    found = spectra(
        Pipeline.from_pretrained(model, device=device, lora=lora), count=count, seed=seed, batch=batch
    )
    click.echo(json.dumps([one.to_dict() for one in found]) if as_json else table(found))
    if out is not None:
        write(out, (legible(table(found)) + "\n").encode())
