"""`unclip diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.options import PATH, ImageOptions, image_options, num_images
from unclip.cli.outputs import read_picture, run
from unclip.errors import RequestError
from unclip.pipeline.options import check_prompt, check_thetas

if TYPE_CHECKING:
    from PIL import Image

    from unclip.pipeline import Generation, Pipeline, SamplingOptions
    from unclip.pipeline.invert import Inversion


@click.command()
@click.argument("image", type=PATH)
@click.argument("before")
@click.argument("after")
@click.option(
    "--theta", default="0.25:0.5", show_default=True, help="Strength of the edit, 0 to 1: X, or FROM:TO."
)
@num_images(default=4, help="Number of images from FROM to TO.")
@image_options()
def diff(common: ImageOptions, image: Path, before: str, after: str, theta: str, num_images: int) -> None:
    """Edit a picture along the difference of two captions. BEFORE: its caption, "a photo" or "".

    \b
    unclip diff shiba.png "a shiba inu in summer" "a shiba inu in the snow" --theta 0.25:0.5
    """
    thetas = _thetas(theta, num_images)
    check_prompt(after)
    picture = read_picture(image)
    source: Image.Image | Inversion = picture

    def draw(pipe: Pipeline, options: SamplingOptions, rows: range) -> Generation:
        nonlocal source
        if rows.start == 0:  # inverted once for all batches
            source = pipe.invert(picture, options=options)
        return pipe.diff(source, before, after, thetas[rows.start : rows.stop], options=options)

    run(
        common,
        "diff",
        len(thetas),
        draw,
        captions=[after, *([before] if before.strip() else [])],
        one_seed=True,
    )


def _thetas(text: str, count: int) -> list[float]:
    try:
        low, *high = [float(part) for part in text.split(":", 1)]
    except ValueError:
        raise RequestError(f"--theta {text}: write 0.4, or 0.25:0.5") from None
    if high and count < 2:
        raise RequestError("--num-images must be at least 2 for a theta FROM:TO")
    thetas = [low + (high[0] - low) * i / (count - 1) for i in range(count)] if high else [low]
    return check_thetas(thetas)
