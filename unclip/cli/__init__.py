"""The command line: one module per command; each parses options and makes one API call.

Only light modules are imported at the top; commands import torch and the like themselves, so that `--help` is
fast.
"""

from __future__ import annotations

import sys

import click

from unclip.cli.assemble import assemble
from unclip.cli.calibrate import calibrate
from unclip.cli.convert import convert
from unclip.cli.data import data
from unclip.cli.decode import decode
from unclip.cli.diff import diff
from unclip.cli.distill import distill
from unclip.cli.edit import edit
from unclip.cli.embed import embed
from unclip.cli.evaluate import evaluate
from unclip.cli.generate import generate
from unclip.cli.info import info
from unclip.cli.interpolate import interpolate
from unclip.cli.mix import mix
from unclip.cli.outpaint import outpaint
from unclip.cli.process import (
    INTERRUPTED,
    STOPPED,
    Commands,
    Interrupts,
    discard_unwritten,
    print_anything,
    survive_closed_pipes,
)
from unclip.cli.provenance import provenance
from unclip.cli.sample import sample
from unclip.cli.serve import serve
from unclip.cli.train import train
from unclip.cli.vary import vary
from unclip.cli.verify import verify
from unclip.errors import UnclipError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unclip", prog_name="unclip")
def cli() -> None:
    """unclip, the open DALL·E 2: generate pictures from captions, and train the models.

    \b
    unclip generate "a shiba inu wearing a beret"
    """


for _command in (
    generate,
    mix,
    vary,
    interpolate,
    diff,
    edit,
    outpaint,
    embed,
    decode,
    info,
    verify,
    provenance,
    serve,
    train,
    distill,
    calibrate,
    assemble,
    convert,
    data,
    evaluate,
    sample,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point: print errors as one line and exit with their code."""
    print_anything()
    survive_closed_pipes()
    with Interrupts() as interrupts:
        code = _run(interrupts)
    discard_unwritten()
    sys.exit(code)


def _run(interrupts: Interrupts) -> int:
    """Run the command and return its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        match error:
            case _ if interrupts.received:  # of workers that the signal ended as well
                code = INTERRUPTED
            case UnclipError():
                click.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
                code = 1
            case click.ClickException():
                click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
                code = error.exit_code
            case OSError():
                # A full disk or a folder without write permission is no bug: no traceback.
                where = f"{error.filename}: " if error.filename else ""
                click.echo(f"error: {where}{error.strerror or error}", err=True)
                code = 1
            case _:
                raise
    if code == INTERRUPTED:
        click.echo(STOPPED, err=True)
    return code if isinstance(code, int) else 0
