"""`unclip edit`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH, ImageOptions, image_options, num_images, repeats
from unclip.cli.outputs import read_picture, run


@click.command()
@click.argument("image", type=PATH)
@click.argument("prompt")
@click.option("--mask", type=PATH, help="Painted where transparent or, if nothing of it is, where white.")
@click.option("--strength", type=float, help="Above 0, at most 1: how much of the painted part is new.")
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
    """Paint a part of a picture anew. Without a mask its transparent pixels are painted, or all of it by
    --strength.

    Without --size, the result has the smallest size that holds the picture.

    \b
    unclip edit shiba.png "a shiba inu wearing a crown" --mask hat.png
    unclip edit shiba.png "a watercolour of a shiba inu" --strength 0.5
    """
    source, over = read_picture(image), None if mask is None else read_picture(mask)
    run(
        common,
        "edit",
        num_images,
        lambda pipe, options: pipe.edit(
            source, prompt, over, num_images, strength=strength, repeats=repeats, options=options
        ),
        captions=[prompt],
    )
