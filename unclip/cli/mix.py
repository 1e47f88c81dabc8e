"""`unclip mix`."""

from __future__ import annotations

from typing import Literal

import click

from unclip.cli.options import ImageOptions, image_options, num_images
from unclip.cli.outputs import read_key, run
from unclip.errors import RequestError


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="A B...")
@click.option("--weights", metavar="X,Y...", help="Weight of each prompt or picture. Default: equal.")
@click.option(
    "--by",
    type=click.Choice(["slerp", "sum"]),
    default="slerp",
    show_default=True,
    help="Weighted mean on the sphere, or weighted sum.",
)
@num_images()
@image_options()
def mix(
    common: ImageOptions,
    keys: tuple[str, ...],
    weights: str | None,
    by: Literal["slerp", "sum"],
    num_images: int,
) -> None:
    """Make an image of several prompts or pictures (files) at once.

    \b
    unclip mix "a fox wearing a crown" "a panda in the snow" --weights 2,1
    """
    try:
        shares = None if weights is None else [float(part) for part in weights.split(",")]
    except ValueError:
        raise RequestError(
            f"--weights {weights}: write numbers with commas between them, as in 2,1"
        ) from None
    parts = [read_key(key) for key in keys]
    run(
        common,
        "mix",
        num_images,
        lambda pipe, options, rows: pipe.mix(parts, shares, len(rows), by=by, options=options),
        captions=[key for key in parts if isinstance(key, str)],
    )
