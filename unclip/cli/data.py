"""`unclip data`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
@click.option(
    "--siblings", default=1, show_default=True, help="Pictures in a row that differ in two attributes only."
)
@click.option("--jobs", default=1, show_default=True, help="Processes that draw.")
def menagerie(out: Path, count: int, size: int, seed: int, held_out: bool, siblings: int, jobs: int) -> None:
    """Draw the menagerie into WebDataset shards. Shards that exist are kept: the same call again goes on."""
    if min(count, siblings, jobs) < 1 or not 16 <= size <= 4096:
        raise RequestError("--count, --siblings and --jobs must be at least 1, --size between 16 and 4096")
    from tqdm import tqdm

    from unclip.menagerie.shards import write_shards

    with tqdm(total=count, unit="picture", disable=not sys.stderr.isatty()) as bar:
        for done in write_shards(
            out, count=count, size=size, seed=seed, held_out=held_out, siblings=siblings, jobs=jobs
        ):
            bar.update(done - bar.n)
    click.echo(str(out))


@data.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--shard-size", default=1000, show_default=True, help="Pictures in a shard; a tar stays one shard."
)
@click.option(
    "--min-side", default=64, show_default=True, help="Shorter side of the smallest picture, in pixels."
)
@click.option(
    "--max-side", default=16384, show_default=True, help="Longer side of the largest picture, in pixels."
)
@click.option("--max-aspect", default=3.0, show_default=True, help="Longer side by shorter.")
@click.option("--keep-generated", is_flag=True, help="Keep pictures whose marks say that a model made them.")
@click.option("--jobs", default=1, show_default=True, help="Processes that read and write.")
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
    """Pack pictures and captions into WebDataset shards. The same call again goes on where it stopped.

    SOURCE is a folder of pictures with .txt or .json beside them; a .csv, .tsv, .jsonl or .parquet table with
    the columns path and caption; or tars, as img2dataset writes them (their folder, or a pattern).
    """
    if min(shard_size, min_side, max_side, jobs) < 1 or max_aspect < 1:
        raise RequestError("--shard-size, --min-side, --max-side, --max-aspect and --jobs must be at least 1")
    if shard_size > 999_999:
        raise RequestError("--shard-size must be below 1,000,000")
    from collections import Counter

    from unclip.data.pack import Limits, PackJob, counted
    from unclip.data.pack import pack as pack_shards

    job = PackJob(source, Limits(min_side, max_side, max_aspect), shard_size, keep_generated)
    with _bar("unit") as progress:
        packed = pack_shards(job, out, jobs=jobs, progress=progress)
    click.echo(f"{packed.samples:,} samples in {packed.shards:,} shards: {out}")
    if packed.left_out:
        click.echo(f"left out: {counted(Counter(packed.left_out))}")


@data.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Which part of it.",
)
def labelled(source: str, out: Path, split: str) -> None:
    """Write a data set whose pictures have classes into shards, whole and in order. The same call again goes
    on.

    SOURCE is `digits`, the 8 × 8 ones of scikit-learn; an .npz with train_images and train_labels; a folder
    of MNIST's IDX files; CIFAR-10's or CIFAR-100's folder of batches; or a folder with a folder of pictures
    for each class.

    \b
    unclip data labelled digits data/digits/test --split test
    """
    from unclip.data.labelled import write_labelled

    with _bar("shard") as progress:
        count = write_labelled(source, out, split, progress)
    click.echo(f"{count:,} pictures: {out}")


@data.command()
@click.argument("shards")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def check(shards: str, as_json: bool) -> None:
    """Read shards from end to end: what cannot be used, sizes, caption lengths, duplicates.

    Exits with 1 where there is nothing to use.
    """
    import json

    from unclip.data.check import check as check_shards
    from unclip.data.tar import find_shards

    with _bar("shard") as progress:
        report = check_shards(find_shards(shards), progress)
    click.echo(json.dumps(report.to_dict()) if as_json else report.table())
    if not report.samples:
        raise RequestError(f"{shards}: no sample in it can be used")


@data.command()
@click.argument("shards")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--clip",
    required=True,
    help="Reference of the CLIP: mini, a run or folder of the CLIP stage, a model, openclip:NAME/TAG or hf:NAME.",
)
@click.option("--batch", default=256, show_default=True, help="Pictures encoded together.")
@click.option("--no-tokens", is_flag=True, help="Leave out the captions' token states: far smaller shards.")
@click.option(
    "--keep-pictures", is_flag=True, help="Keep the pictures beside them, for decoders to be trained on both."
)
def embed(shards: str, out: Path, clip: str, batch: int, no_tokens: bool, keep_pictures: bool) -> None:
    """Run CLIP over shards once, and store what it makes of them. The same call again goes on where it
    stopped.

    \b
    unclip data embed 'data/cats/*.tar' data/cats-embedded --clip openclip:ViT-L-14/openai
    accelerate launch -m unclip data embed 'data/cats/*.tar' data/cats-embedded --clip runs/clip
    """
    if batch < 1:
        raise RequestError("--batch must be at least 1")
    from unclip.data.embed import embed_shards
    from unclip.device import join_processes

    with _bar("shard") as progress:
        embed_shards(
            shards,
            out,
            clip,
            batch=batch,
            tokens=not no_tokens,
            keep_pictures=keep_pictures,
            progress=progress,
        )
    if join_processes().is_main_process:
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


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal only, to be told (done, of how many)."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield progress
