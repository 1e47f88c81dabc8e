"""`unclip data`: one module per command."""

from __future__ import annotations

import click

from unclip.cli.data.check import check
from unclip.cli.data.embed import embed
from unclip.cli.data.labelled import labelled
from unclip.cli.data.menagerie import menagerie
from unclip.cli.data.pack import pack
from unclip.cli.data.show import show


@click.group()
def data() -> None:
    """Make and inspect training data."""


for _command in (menagerie, pack, labelled, check, embed, show):
    data.add_command(_command)
