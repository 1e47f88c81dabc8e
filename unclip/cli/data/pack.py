"""`unclip data pack`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from unclip.cli.options import PATH
from unclip.cli.outputs import progress_bar
from unclip.errors import RequestError


@click.command()
@click.argument("source")
@click.argument("out", type=PATH)
@click.option(
    "--shard-size", default=1000, show_default=True, help="Pictures per shard; a tar stays one shard."
)
@click.option(
    "--min-side", default=64, show_default=True, help="Smallest shorter side in pixels; others are left out."
)
@click.option(
    "--max-side", default=16384, show_default=True, help="Largest longer side in pixels; others are left out."
)
@click.option("--max-aspect", default=3.0, show_default=True, help="Largest ratio of longer to shorter side.")
@click.option("--keep-generated", is_flag=True, help="Keep pictures that are marked as made by a model.")
@click.option("--jobs", default=1, show_default=True, help="Number of worker processes.")
def pack(
    source: str,
    out: Path,
    shard_size: int,
    min_side: int,
    max_side: int,
    max_aspect: float,
    keep_generated: bool,
    jobs: int,
) -> None:
    """Pack pictures and captions into WebDataset shards. Run again to resume.

    SOURCE is a folder of pictures with .txt or .json beside them; a .csv, .tsv, .jsonl or .parquet table with
    the columns path and caption; or tars, as img2dataset writes them (their folder, or a pattern).
    """
    if min(shard_size, min_side, max_side, jobs) < 1 or max_aspect < 1:
        raise RequestError("--shard-size, --min-side, --max-side, --max-aspect and --jobs must be at least 1")
    if shard_size > 999_999:
        raise RequestError("--shard-size must be below 1,000,000")
    from unclip.data.pack import Limits, PackJob, counted
    from unclip.data.pack import pack as pack_shards

    job = PackJob(source, Limits(min_side, max_side, max_aspect), shard_size, keep_generated)
    with progress_bar("unit") as progress:
        packed = pack_shards(job, out, jobs=jobs, progress=progress)
    click.echo(f"{packed.samples:,} samples in {packed.shards:,} shards: {out}")
    if packed.left_out:
        click.echo(f"left out: {counted(Counter(packed.left_out))}")
