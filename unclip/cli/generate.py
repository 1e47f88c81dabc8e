"""`unclip generate`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.jobs import generate_all, read_captions
from unclip.cli.options import PATH, ImageOptions, image_options, num_images


@click.command()
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--prompts-file",
    type=PATH,
    help="File of more prompts, one per line. With -o FOLDER, run again to resume.",
)
@num_images(help="Number of images of each prompt.")
@click.option("--grid", is_flag=True, help="Write one contact sheet instead of single images.")
@image_options()
def generate(
    common: ImageOptions, prompts: tuple[str, ...], prompts_file: Path | None, num_images: int, grid: bool
) -> None:
    """Generate images from captions.

    \b
    unclip generate "a shiba inu wearing a beret" -n 4 --seed 7
    unclip generate "a corgi in space" -o "out/{prompt}-{seed}.png" --steps decoder=40 --guidance prior=2
    accelerate-launch -m unclip generate --prompts-file prompts.txt -o out/
    """
    captions = read_captions(prompts, prompts_file)
    generate_all(common, captions, num_images, grid=grid, from_file=prompts_file is not None)
