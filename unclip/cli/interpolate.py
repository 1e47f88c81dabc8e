"""`unclip interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.options import PATH, ImageOptions, image_options
from unclip.cli.outputs import LARGEST_SHEET, check_sheet, read_key, run, write_animation, write_sheet
from unclip.cli.paths import check_extra_outputs
from unclip.errors import RequestError
from unclip.pipeline.sizes import parse_size

if TYPE_CHECKING:
    from unclip.pipeline import Generation, Pipeline, SamplingOptions


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="A B...")
@click.option("--frames", default=16, show_default=True, help="Number of frames per segment.")
@click.option("--fixed-noise", is_flag=True, help="Use one random x_T for all frames.")
@click.option("--animation", type=PATH, help="Also write an animation: .gif, .webp or .mp4.")
@click.option("--strip", type=PATH, help="Also write all frames side by side, as a PNG.")
@image_options()
def interpolate(
    common: ImageOptions,
    keys: tuple[str, ...],
    frames: int,
    fixed_noise: bool,
    animation: Path | None,
    strip: Path | None,
) -> None:
    """Interpolate between pictures (files) or prompts (other words). More than two make a loop.

    \b
    unclip interpolate shiba.png "a cat in space" --frames 16 --animation way.gif -o frames/
    """
    extra = check_extra_outputs(common, animation, strip)
    ends = [read_key(key) for key in keys]
    total = frames * (len(keys) if len(keys) > 2 else 1)

    def draw(pipe: Pipeline, options: SamplingOptions, rows: range) -> Generation:
        size = common.size or parse_size(pipe.sizes[-1])
        if total * size.area > LARGEST_SHEET:  # all are in memory at once
            raise RequestError(
                f"{total} frames of {size.width} × {size.height} pixels are too many; lower --frames or "
                "--size"
            )
        if strip is not None:
            check_sheet(strip, total, size, columns=total)
        return pipe.interpolate(ends, frames, fixed_noise=fixed_noise, options=options)

    made = run(
        common,
        "frame",
        total,
        draw,
        captions=[key for key in ends if isinstance(key, str)],
        one_seed=True,
        batch=total,
        extra=extra,
    )
    if animation is not None:
        write_animation(common, made, animation, bounce=len(keys) == 2)
    if strip is not None:
        write_sheet(common, made.images, strip, {"strip": made.settings}, columns=len(made.images))
