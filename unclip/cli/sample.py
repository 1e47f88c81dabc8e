"""`unclip sample`: draw from the models of small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.options import PATH, device_option, lora_option, overwrite_option
from unclip.cli.outputs import check_sheet
from unclip.cli.paths import check_writable, refuse_existing
from unclip.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from unclip.stages.pixels import Pixels


@click.command()
@click.argument("run", type=PATH)
@click.option(
    "-o", "--output", required=True, type=PATH, help="PNG of all pictures, or folder with one PNG each."
)
@lora_option
@click.option("--count", default=64, show_default=True, help="Number of pictures.")
@click.option(
    "--class", "classes", type=int, multiple=True, help="Class index; repeat to alternate. Default: all."
)
@click.option("--steps", type=int, help="Denoising steps. Default: the stage's.")
@click.option("--sampler", help="ddpm, ddim, dpmpp_2m …. Default: the stage's.")
@click.option(
    "--guidance", type=float, help="Scale of classifier-free guidance; 1 is none. Default: the stage's."
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the first picture; later ones use seed + 1, + 2 …."
)
@click.option("--batch", default=64, show_default=True, help="Pictures per batch; does not change them.")
@click.option("--scale", default=1, show_default=True, help="Enlarge each pixel to a square of this side.")
@overwrite_option
@device_option
def sample(
    run: Path,
    output: Path,
    lora: tuple[str, ...],
    count: int,
    classes: tuple[int, ...],
    seed: int,
    batch: int,
    scale: int,
    overwrite: bool,
    device: str | None,
    **options: Any,
) -> None:
    """Draw pictures from a trained `pixels` stage, with or without classes.

    An output folder gets a subfolder per class, as `evaluate fid` and `data labelled` read them.

    \b
    unclip sample runs/ddpm-digits --count 100 --guidance 2 -o digits.png
    unclip sample runs/ddpm-mnist --class 3 --class 5 -o threes-and-fives
    """
    if min(count, batch, scale) < 1:
        raise RequestError("--count, --batch and --scale must be at least 1")
    refuse_existing(output, overwrite)
    check_writable(output)
    import torch

    from unclip.images import grid, save_picture

    stage = load_pixels(run, device, lora)
    known = range(stage.classes)
    if wrong := [one for one in classes if one not in known]:
        raise RequestError(
            f"--class {wrong[0]}: the stage has {stage.classes or 'no'} classes{', from 0 on' * bool(known)}"
        )
    classes = classes or tuple(known)
    labels = [classes[i % len(classes)] for i in range(count)] if classes else None
    changes = {key: value for key, value in options.items() if value is not None}
    sampling = stage.config.sampling.updated(changes)
    seeds, side = range(seed, seed + count), scale * stage.size
    columns = len(classes) if len(classes) > 1 else None
    if is_sheet := output.suffix.lower() == ".png":
        check_sheet(output, count, (side, side), columns)
    settings: dict[str, Any] = {
        "verb": "sample",
        "run": str(run),
        "sampling": sampling.model_dump(mode="json"),
    }
    if lora:
        settings["lora"] = list(lora)
    with torch.inference_mode():
        drawn = (one for part in stage.draw(labels, seeds, sampling, batch=batch) for one in part)
        pictures = (_enlarged(one, side) for one in drawn)
        if is_sheet:
            about = {**settings, "seed": seed, "classes": classes}
            sheet = grid(list(pictures), columns=columns, gap=scale)
            save_picture(sheet, output, settings=about, source="trainedAlgorithmicMedia")
        else:
            for i, picture in enumerate(pictures):  # written as they are drawn
                path = output / (str(labels[i]) if labels else "") / f"{seeds[i]:08d}.png"
                about = {**settings, "seed": seeds[i], "class": labels and labels[i]}
                save_picture(picture, path, settings=about, source="trainedAlgorithmicMedia")
    click.echo(str(output))


def _enlarged(image: Tensor, side: int) -> Image.Image:
    """[C, H, W] as an RGB picture, each pixel enlarged to a square."""
    from PIL import Image

    from unclip.images import to_pil

    return to_pil(image.expand(3, -1, -1)).resize((side, side), Image.Resampling.NEAREST)


def load_pixels(run: Path, device: str | None, lora: Sequence[str] = ()) -> Pixels:
    """Load the `pixels` stage of a run or a folder, with LoRA adapters."""
    from unclip.device import join_processes
    from unclip.models.lora import fit_all, merge
    from unclip.models.resolve import resolve
    from unclip.stages import load_stage
    from unclip.stages.pixels import Pixels

    stage = load_stage(resolve(str(run)).stage("pixels"))
    if not isinstance(stage, Pixels):
        raise RequestError(f"{run}: is a {stage.config.kind}, not a pixels stage")
    for _, change, scale in fit_all(lora, {"pixels": stage}, str(run)):
        merge(stage, change, scale)
    return stage.to(device or join_processes().device)
