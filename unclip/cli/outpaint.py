"""`unclip outpaint`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH, SIZE, ImageOptions, image_options, num_images, repeats
from unclip.cli.outputs import read_picture, run
from unclip.pipeline.sizes import Size


@click.command()
@click.argument("image", type=PATH)
@click.argument("prompt")
@click.option(
    "--to", required=True, type=SIZE, metavar="WxH", help="Width and height of the canvas in pixels."
)
@repeats
@num_images()
@image_options(without=("size", "save_stages"))
def outpaint(
    common: ImageOptions, image: Path, prompt: str, to: Size, repeats: int | None, num_images: int
) -> None:
    """Extend a picture to a larger canvas.

    \b
    unclip outpaint shiba.png "a shiba inu on the beach" --to 1536x1024
    """
    source = read_picture(image)
    run(
        common,
        "outpaint",
        num_images,
        lambda pipe, options, rows: pipe.outpaint(
            source, prompt, to, len(rows), repeats=repeats, options=options
        ),
        captions=[prompt],
        batch=1,  # a canvas may have 64 megapixels
        size=to,
    )
