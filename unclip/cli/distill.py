"""`unclip distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unclip.cli.train import train
from unclip.errors import ConfigError


@click.pass_context
def _distill(context: click.Context, /, config: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Make a decoder or upsampler faster: it learns to reach in few steps what its teacher does in many.

    CONFIG is that of a training run with a block `distill`, which names the teacher. Its `stage` names only the
    keys in which the student differs. Run the same command again to resume.

    \b
    unclip distill configs/mini/decoder-fast.yaml
    unclip distill configs/mini/decoder-fast.yaml distill.steps=4 --out runs/four
    """
    from unclip.config import read_yaml

    if read_yaml(config, overrides).get("distill") is None:
        raise ConfigError(
            f"{config}: distill: the block is missing; it names the teacher, as teacher: mini/decoder"
        )
    context.invoke(train, config=config, overrides=overrides, **options)


distill = click.Command("distill", params=train.params, callback=_distill, help=_distill.__doc__)
