"""`unclip data menagerie`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH
from unclip.cli.outputs import progress_bar
from unclip.errors import RequestError


@click.command()
@click.option("--out", required=True, type=PATH, help="Folder of the shards.")
@click.option("--count", default=1000, show_default=True, help="Number of pictures.")
@click.option("--size", default=256, show_default=True, help="Side of the pictures in pixels, 16 to 4096.")
@click.option("--seed", default=0, show_default=True, help="Seed of the scenes.")
@click.option("--held-out", is_flag=True, help="Draw the compositions that are held out from training.")
@click.option(
    "--siblings", default=1, show_default=True, help="Pictures in a row that differ in two attributes only."
)
@click.option("--vectors", is_flag=True, help="Also write each scene's attributes as a vector, KEY.npy.")
@click.option("--jobs", default=1, show_default=True, help="Number of worker processes.")
def menagerie(
    out: Path, count: int, size: int, seed: int, held_out: bool, siblings: int, vectors: bool, jobs: int
) -> None:
    """Draw the menagerie into WebDataset shards. Run again to resume: existing shards are kept."""
    if min(count, siblings, jobs) < 1 or not 16 <= size <= 4096:
        raise RequestError("--count, --siblings and --jobs must be at least 1, --size between 16 and 4096")
    if count > 10**8:
        raise RequestError("--count must be at most 100,000,000")  # keys have eight digits
    from unclip.menagerie.shards import write_shards

    drawn = False
    with progress_bar("picture") as progress:
        for done in write_shards(
            out,
            count=count,
            size=size,
            seed=seed,
            held_out=held_out,
            siblings=siblings,
            vectors=vectors,
            jobs=jobs,
        ):
            drawn = True
            progress(done, count)
    click.echo(str(out) if drawn else f"already drawn, nothing changed: {out}")
