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
@click.option("--images", type=PATH, help="Folder of a table's pictures. Default: the table's own folder.")
@click.option(
    "--captions-from-folders",
    "folder_caption",
    metavar="TEXT",
    help='Caption of pictures without one, such as "a photo of a {}": {} is the name of their folder.',
)
@click.option(
    "--split",
    default=0.0,
    show_default=True,
    help="Share of the pictures that goes to OUT/validation; the rest goes to OUT/train. 0: no split.",
)
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
    images: Path | None,
    folder_caption: str | None,
    split: float,
    shard_size: int,
    min_side: int,
    max_side: int,
    max_aspect: float,
    keep_generated: bool,
    jobs: int,
) -> None:
    """Pack pictures and captions into WebDataset shards. Run again to resume, or after the source changed.

    SOURCE is a folder of pictures with .txt or .json beside them, or with a metadata.csv or metadata.jsonl; a
    .csv, .tsv, .txt, .json, .jsonl or .parquet table with a column path, file_name, image or url and a
    column captions, caption or text; COCO's captions; or tars, as img2dataset writes them (their folder, or
    a pattern).

    \b
    unclip data pack pictures data/mine
    unclip data pack classes data/mine --captions-from-folders "a photo of a {}" --split 0.05
    unclip data pack annotations/captions_val2017.json data/coco --images val2017
    """
    if not (min(shard_size, min_side, max_side, jobs) >= 1 and max_aspect >= 1):
        raise RequestError("--shard-size, --min-side, --max-side, --max-aspect and --jobs must be at least 1")
    if shard_size > 999_999:
        raise RequestError("--shard-size must be below 1,000,000")
    if not 0 <= split < 1:
        raise RequestError("--split must be at least 0 and below 1")
    if folder_caption is not None and "{}" not in folder_caption:
        raise RequestError('--captions-from-folders needs {} for the folder\'s name: "a photo of a {}"')
    if folder_caption is not None and not Path(source).is_dir():
        raise RequestError(f"--captions-from-folders: {source} is no folder")
    if images is not None and not images.is_dir():
        raise RequestError(f"--images {images}: no such folder")
    if images is not None and Path(source).is_dir():
        raise RequestError("--images is for a table; a folder holds its own pictures")
    from unclip.data.examine import Limits
    from unclip.data.pack import LEFT_OUT, PackJob, counted
    from unclip.data.pack import pack as pack_shards

    limits = Limits(min_side, max_side, max_aspect)
    place = str(images) if images else None
    job = PackJob(source, limits, shard_size, keep_generated, place, folder_caption, split)
    with progress_bar("unit") as progress:
        packed = pack_shards(job, out, jobs=jobs, progress=progress)
    if packed.work == "again":
        click.echo("the source has changed since it was packed: packed again")
    elif packed.work == "none":
        click.echo("already packed, nothing changed")
    click.echo(f"{packed.samples:,} samples in {packed.shards:,} shards: {out}")
    if split:
        click.echo(f"train: {packed.samples - packed.validation:,}, validation: {packed.validation:,}")
    if packed.left_out:
        click.echo(f"left out: {counted(Counter(packed.left_out))}")
        click.echo(f"listed in {out / LEFT_OUT}")
