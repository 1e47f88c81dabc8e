"""`unclip sample` and `unclip evaluate nll`: the models of small pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.measuring import report
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.stages.pixels import Pixels


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A PNG of all, or a folder for one each.",
)
@click.option("--count", default=64, show_default=True, help="Pictures.")
@click.option(
    "--class",
    "asked",
    type=int,
    multiple=True,
    help="Number of a class; several take turns. [default: all do]",
)
@click.option("--steps", type=int, help="Denoising steps. [default: the stage's]")
@click.option("--sampler", help="ddpm, ddim, dpmpp_2m … [default: the stage's]")
@click.option(
    "--guidance", type=float, help="Scale of classifier-free guidance; 1 is none. [default: the stage's]"
)
@click.option("--seed", default=0, show_default=True, help="Of the first picture; the next ones count up.")
@click.option(
    "--batch",
    default=64,
    show_default=True,
    help="Pictures drawn together; changes the time, not the pictures.",
)
@click.option("--scale", default=1, show_default=True, help="Pixels of a side that one pixel becomes.")
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
@click.option("--device", help="cpu, cuda, … [default: the best one there is]")
def sample(
    run: Path,
    output: Path,
    count: int,
    asked: tuple[int, ...],
    seed: int,
    batch: int,
    scale: int,
    overwrite: bool,
    device: str | None,
    **options: Any,
) -> None:
    """Draw small pictures from a trained `pixels` stage: of classes, or of nothing.

    A folder gets a folder of pictures for each class, as `evaluate fid` and `data labelled` read them.

    \b
    unclip sample runs/ddpm-digits --count 100 --guidance 2 -o digits.png
    unclip sample runs/ddpm-mnist --class 3 --class 5 -o threes-and-fives
    """
    if min(count, batch, scale) < 1:
        raise RequestError("--count, --batch and --scale must be at least 1")
    if output.exists() and not overwrite:
        raise RequestError(f"{output}: exists already and is kept; --overwrite replaces it")
    import torch
    from PIL import Image

    from unclip.images import grid, save_picture, to_pil

    stage = _stage(run, device)
    known = range(stage.classes)
    if wrong := [one for one in asked if one not in known]:
        raise RequestError(
            f"--class {wrong[0]}: the stage has {stage.classes or 'no'} classes{', from 0 on' * bool(known)}"
        )
    turns = asked or tuple(known)
    labels = [turns[i % len(turns)] for i in range(count)] if turns else None
    sampling = stage.config.sampling.updated(
        {key: value for key, value in options.items() if value is not None}
    )
    seeds = range(seed, seed + count)
    with torch.inference_mode():
        drawn = [one for part in stage.draw(labels, seeds, sampling, batch=batch) for one in part]
    side = scale * stage.size
    pictures = [
        to_pil(image.expand(3, -1, -1)).resize((side, side), Image.Resampling.NEAREST) for image in drawn
    ]
    settings = {"verb": "sample", "run": str(run), "sampling": sampling.model_dump(mode="json")}
    if output.suffix.lower() == ".png":
        sheet = grid(pictures, columns=len(turns) if len(turns) > 1 else None, gap=scale)
        save_picture(
            sheet,
            output,
            settings={**settings, "seed": seed, "classes": turns},
            source="trainedAlgorithmicMedia",
        )
    else:
        for i, picture in enumerate(pictures):
            path = output / (str(labels[i]) if labels else "") / f"{seeds[i]:08d}.png"
            about = {**settings, "seed": seeds[i], "class": labels and labels[i]}
            save_picture(picture, path, settings=about, source="trainedAlgorithmicMedia")
    click.echo(str(output))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pictures")
@click.option("--count", type=int, help="Pictures, evenly from all. [default: all]")
@click.option(
    "--terms", type=int, help="Of the bound's sum, one of each of so many stretches. [default: all]"
)
@click.option("--ode", is_flag=True, help="The probability-flow ODE's exact likelihood too.")
@click.option("--resamples", default=1000, show_default=True, help="Of the bootstrap; 0 for no interval.")
@click.option("--seed", default=0, show_default=True, help="Of the noise and of the resamples.")
@click.option("--batch", default=64, show_default=True, help="Pictures measured together.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for report.json, report.md and sheet.png."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", help="cpu, cuda, … [default: the best one there is]")
def nll(
    run: Path,
    pictures: str,
    count: int | None,
    terms: int | None,
    ode: bool,
    resamples: int,
    seed: int,
    batch: int,
    device: str | None,
    **shown: Any,
) -> None:
    """Bits per dimension of a `pixels` stage on PICTURES (shards, a folder), given their classes where it has
    such.

    The variational bound, L_T + the sum of L_t + L_0, and with --ode the exact likelihood of the
    probability-flow ODE on uniformly dequantised pictures.

    \b
    unclip evaluate nll runs/ddpm-digits 'data/digits/test/*.tar' --ode
    """
    for name, value, least in (
        ("count", count, 2),
        ("terms", terms, 1),
        ("resamples", resamples, 0),
        ("batch", batch, 1),
    ):
        if value is not None and value < least:
            raise RequestError(f"--{name} must be at least {least}")
    from unclip.evaluate.nll import NllSettings
    from unclip.evaluate.nll import nll as measure
    from unclip.evaluate.pictures import Found

    found = Found.at(pictures)
    settings = NllSettings(resamples=resamples, seed=seed, batch=batch, count=count, terms=terms, ode=ode)
    report(measure(_stage(run, device), found, settings), shown)


def _stage(run: Path, device: str | None) -> Pixels:
    """The trained stage of a run or a folder, ready to use."""
    from unclip.device import join_processes
    from unclip.models.resolve import resolve
    from unclip.stages import load_stage
    from unclip.stages.pixels import Pixels

    stage = load_stage(resolve(str(run)).stage("pixels"))
    if not isinstance(stage, Pixels):
        raise RequestError(f"{run}: is a {stage.config.kind}, not a pixels stage")
    return stage.to(device or join_processes().device)
