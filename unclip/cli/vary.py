"""`unclip vary`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.options import PATH, ImageOptions, image_options, num_images
from unclip.cli.outputs import read_picture, run

if TYPE_CHECKING:
    from PIL import Image

    from unclip.pipeline import Generation, Pipeline, SamplingOptions
    from unclip.pipeline.invert import Inversion


@click.command()
@click.argument("image", type=PATH)
@num_images(help="Number of variations.")
@click.option("--prompt", default="", help="Caption for the decoder, besides the picture. Default: none.")
@click.option("--eta", default=1.0, show_default=True, help="Stochasticity: 0 reconstructs, 1 varies most.")
@click.option("--fresh-noise", is_flag=True, help="Start from noise instead of the picture's x_T.")
@image_options()
def vary(
    common: ImageOptions, image: Path, num_images: int, prompt: str, eta: float, fresh_noise: bool
) -> None:
    """Make variations of a picture.

    \b
    unclip vary shiba.png -n 6 --eta 0.8 -o variations/
    """
    picture = read_picture(image)
    source: Image.Image | Inversion = picture

    def draw(pipe: Pipeline, options: SamplingOptions, rows: range) -> Generation:
        nonlocal source
        if rows.start == 0 and not fresh_noise:  # inverted once for all batches
            source = pipe.invert(picture, options=options.with_stage("decoder", eta=eta))
        how: dict[str, Any] = {"prompt": prompt, "eta": eta, "fresh_noise": fresh_noise}
        return pipe.vary(source, len(rows), **how, options=options)

    run(common, "variation", num_images, draw, captions=[prompt] if prompt else [])
