"""`unclip data labelled`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import PATH
from unclip.cli.outputs import progress_bar


@click.command()
@click.argument("source")
@click.argument("out", type=PATH)
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Part of the data set.",
)
def labelled(source: str, out: Path, split: str) -> None:
    """Write a data set of pictures with classes into shards, complete and in order. Run again to resume.

    SOURCE is `digits`, the 8 × 8 ones of scikit-learn; an .npz with train_images and train_labels; a folder
    of MNIST's IDX files; CIFAR-10's or CIFAR-100's folder of batches; or a folder with a folder of pictures
    for each class.

    \b
    unclip data labelled digits data/digits/test --split test
    """
    from unclip.data.labelled import write_labelled

    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    with progress_bar("shard") as progress:
        count = write_labelled(source, out, split, progress)
    if before and before == {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}:
        click.echo("already written, nothing changed")
    click.echo(f"{count:,} pictures: {out}")
