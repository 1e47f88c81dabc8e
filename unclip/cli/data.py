"""`unclip data`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from unclip.errors import RequestError


@click.group()
def data() -> None:
    """Make and look at training data."""


@data.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the shards.")
@click.option("--count", default=1000, show_default=True, help="Pictures.")
@click.option("--size", default=256, show_default=True, help="Their side in pixels, up to 4096.")
@click.option("--seed", default=0, show_default=True, help="Of the stream of scenes.")
@click.option("--held-out", is_flag=True, help="The compositions that training never shows.")
@click.option("--siblings", default=1, show_default=True, help="Pictures in a row that differ in two attributes only.")
@click.option("--jobs", default=1, show_default=True, help="Processes that draw.")
def menagerie(out: Path, count: int, size: int, seed: int, held_out: bool, siblings: int, jobs: int) -> None:
    """Draw the menagerie into WebDataset shards. Shards that exist are kept: the same call again goes on."""
    if min(count, siblings, jobs) < 1 or not 16 <= size <= 4096:
        raise RequestError("--count, --siblings and --jobs must be at least 1, --size between 16 and 4096")
    from tqdm import tqdm

    from unclip.data.menagerie import write_shards

    with tqdm(total=count, unit="picture", disable=not sys.stderr.isatty()) as bar:
        for done in write_shards(
            out, count=count, size=size, seed=seed, held_out=held_out, siblings=siblings, jobs=jobs
        ):
            bar.update(done - bar.n)
    click.echo(str(out))


@data.command()
@click.argument("shards")
@click.option("-o", "--output", default="sheet.png", show_default=True, type=click.Path(path_type=Path))
@click.option("--count", default=24, show_default=True, help="Pictures on the sheet.")
@click.option("--size", default=160, show_default=True, help="Side of each, in pixels.")
@click.option("--overwrite", is_flag=True, help="Replace a sheet that exists.")
def show(shards: str, output: Path, count: int, size: int, overwrite: bool) -> None:
    """Draw a contact sheet of shards, and print the captions in the same order."""
    if output.exists() and not overwrite:
        raise RequestError(f"{output}: exists already and is kept; --overwrite replaces it")
    if count < 1 or not 8 <= size <= 2048:
        raise RequestError("--count must be at least 1, --size between 8 and 2048")
    from itertools import islice

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
        square = image.crop((0, 0, size, size)) if image.size != (size, size) else image
        pictures.append(square)
        click.echo(caption)
    if not pictures:
        raise RequestError(f"{shards}: no samples in it")
    save_png(grid(pictures, columns=6), output)
    click.echo(str(output), err=True)
