"""The command line: options → one API call → print or save.

This package imports click and the errors only; everything heavy is imported inside the commands, so that
`--help` answers at once.
"""

from __future__ import annotations

import os
import sys

import click

from unclip.cli.convert import convert
from unclip.cli.data import data
from unclip.cli.diff import diff
from unclip.cli.edit import edit
from unclip.cli.evaluate import evaluate
from unclip.cli.generate import generate
from unclip.cli.info import info
from unclip.cli.interpolate import interpolate
from unclip.cli.mix import mix
from unclip.cli.outpaint import outpaint
from unclip.cli.pixels import sample
from unclip.cli.provenance import provenance
from unclip.cli.serve import serve
from unclip.cli.training import assemble, calibrate, train
from unclip.cli.vary import vary
from unclip.cli.verify import verify
from unclip.errors import UnclipError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unclip", prog_name="unclip")
def cli() -> None:
    """unclip, the open DALL·E 2: pictures from captions, and the trainer that makes the models.

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
    info,
    verify,
    provenance,
    serve,
    train,
    calibrate,
    assemble,
    convert,
    data,
    evaluate,
    sample,
):
    cli.add_command(_command)


def main() -> None:
    """The entry point: errors become one line and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except UnclipError as error:
        click.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
        code = 1
    except click.Abort:
        code = _interrupted()
    except KeyboardInterrupt:
        code = _interrupted()
    except click.ClickException as error:
        click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough; python would complain once more while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        # A full disk, a folder that may not be written to: the world's fault, not the program's.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> int:
    click.echo("stopped; what was finished is kept", err=True)
    return 130
