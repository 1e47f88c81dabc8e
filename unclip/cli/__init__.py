"""The command line: one module per command; each parses options and makes one API call.

Only light modules are imported at the top; commands import torch and the like themselves, so that `--help` is
fast.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

import click

from unclip.cli.assemble import assemble
from unclip.cli.calibrate import calibrate
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
from unclip.cli.provenance import provenance
from unclip.cli.sample import sample
from unclip.cli.serve import serve
from unclip.cli.train import train
from unclip.cli.vary import vary
from unclip.cli.verify import verify
from unclip.errors import UnclipError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    """Entry point: print errors as one line and exit with their code."""
    _print_anything()
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
        # The reader of a pipe has closed it; without this, python fails again when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        # A full disk or a folder without write permission is no bug: no traceback.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _print_anything() -> None:
    """Let both outputs print every text, on terminals of any encoding."""
    codecs.register_error("unclip", _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="unclip")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode a file name's bytes that are not UTF-8 as they are, and any other character as `?`."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    if error.encoding.lower().startswith("utf-8") and all("\udc80" <= one <= "\udcff" for one in found):
        return found.encode("utf-8", "surrogateescape"), error.end
    return "?" * len(found), error.end


def _interrupted() -> int:
    click.echo("stopped; what was finished is kept", err=True)
    return 130
