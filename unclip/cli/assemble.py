"""`unclip assemble`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH, overwrite_option
from unclip.cli.paths import check_writable, refuse_existing


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN|LORA[:SCALE]...")
@click.option("-o", "--output", required=True, type=PATH, help="Model folder to write.")
@click.option("--name", help="Name of the model. Default: the folder's.")
@click.option("--clip", help="CLIP: public ones are saved by name, others copied. Default: the stages' own.")
@click.option("--half", is_flag=True, help="Save the weights in half precision. Default: as trained.")
@click.option(
    "--world", type=click.Choice(["menagerie"]), help="Record the closed vocabulary of the training data."
)
@overwrite_option
def assemble(
    runs: tuple[str, ...],
    output: Path,
    name: str | None,
    clip: str | None,
    half: bool,
    world: str | None,
    overwrite: bool,
) -> None:
    """Assemble stages into a model folder, ready for `generate --model`.

    RUN is a training run, a saved stage, a stage of a model, such as mini/upsampler-256, or a whole model, of
    which the other RUNs replace stages. LORA is an adapter, which is added to the weights of its stage.
    """
    refuse_existing(output, overwrite)
    check_writable(output)
    import torch

    from unclip.menagerie.captions import vocabulary
    from unclip.models.assemble import assemble as write_model

    words = sorted(vocabulary()) if world else None
    dtype = torch.float16 if half else None
    write_model(runs, output, name=name, clip=clip, dtype=dtype, vocabulary=words)
    click.echo(str(output))
