"""`unclip edit`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH, ImageOptions, image_options, num_images, repeats
from unclip.cli.outputs import read_picture, run


@click.command()
@click.argument("image", type=PATH)
@click.argument("prompt")
@click.option("--mask", type=PATH, help="Mask: painted where transparent or, if fully opaque, where white.")
@click.option(
    "--strength",
    type=float,
    help="Initial noise of the painted part, above 0, at most 1. Default with a mask: 1.",
)
@repeats
@num_images()
@image_options()
def edit(
    common: ImageOptions,
    image: Path,
    prompt: str,
    mask: Path | None,
    strength: float | None,
    repeats: int | None,
    num_images: int,
) -> None:
    """Repaint a part of a picture.

    Without a mask, the picture's transparent pixels are painted, or all of it with --strength.

    Without --size, the result has the smallest size that holds the picture.

    \b
    unclip edit shiba.png "a shiba inu wearing a crown" --mask hat.png
    unclip edit shiba.png "a watercolour of a shiba inu" --strength 0.5
    """
    source, painted = read_picture(image), None if mask is None else read_picture(mask)
    run(
        common,
        "edit",
        num_images,
        lambda pipe, options, rows: pipe.edit(
            source, prompt, painted, len(rows), strength=strength, repeats=repeats, options=options
        ),
        captions=[prompt],
    )
