"""`unclip data show`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import click

from unclip.cli.options import PATH, overwrite_option
from unclip.cli.paths import check_outputs
from unclip.errors import RequestError


@click.command()
@click.argument("shards")
@click.option("-o", "--output", default="sheet.png", show_default=True, type=PATH, help="PNG to write.")
@click.option("--count", default=24, show_default=True, help="Number of pictures on the sheet.")
@click.option("--size", default=160, show_default=True, help="Side of each picture in pixels, 8 to 2048.")
@overwrite_option
def show(shards: str, output: Path, count: int, size: int, overwrite: bool) -> None:
    """Draw a contact sheet of shards, and print the captions in the same order."""
    check_outputs([output], overwrite)
    if count < 1 or not 8 <= size <= 2048:
        raise RequestError("--count must be at least 1, --size between 8 and 2048")
    from unclip.data.sample import BadSample, captions, picture
    from unclip.data.tar import find_shards, read_samples
    from unclip.images import grid, save_png

    pictures = []
    for sample in islice(read_samples(find_shards(shards)), count):
        try:
            image, caption = picture(sample), captions(sample)[0]
        except BadSample as error:
            click.echo(f"warning: skipped {error}", err=True)
            continue
        image.thumbnail((size, size))
        pictures.append(image.crop((0, 0, size, size)) if image.size != (size, size) else image)
        click.echo(caption)
    if not pictures:
        raise RequestError(f"{shards}: no samples in it")
    save_png(grid(pictures, columns=6), output)
    click.echo(str(output), err=True)
