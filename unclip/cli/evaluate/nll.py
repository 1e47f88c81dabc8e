"""`unclip evaluate nll`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unclip.cli.evaluate.measuring import out_option, report
from unclip.cli.options import PATH, device_option, json_option, lora_option
from unclip.cli.sample import load_pixels
from unclip.errors import RequestError


@click.command()
@click.argument("run", type=PATH)
@click.argument("pictures")
@lora_option
@click.option("--count", type=int, help="Number of pictures, evenly spaced over all. Default: all.")
@click.option("--terms", type=int, help="Timesteps of the bound per picture, stratified. Default: all.")
@click.option("--ode", is_flag=True, help="Also compute the probability-flow ODE's exact likelihood.")
@click.option("--resamples", default=1000, show_default=True, help="Bootstrap resamples; 0 for no interval.")
@click.option("--seed", default=0, show_default=True, help="Seed of the noise and of the bootstrap.")
@click.option("--batch", default=64, show_default=True, help="Pictures per batch.")
@out_option
@json_option
@device_option
def nll(
    run: Path,
    pictures: str,
    lora: tuple[str, ...],
    count: int | None,
    terms: int | None,
    ode: bool,
    resamples: int,
    seed: int,
    batch: int,
    device: str | None,
    **output: Any,
) -> None:
    """Bits per dimension of a `pixels` stage on PICTURES (shards or a folder), given their classes if any.

    The variational bound, L_T + the sum of L_t + L_0, and with --ode the exact likelihood of the
    probability-flow ODE on uniformly dequantised pictures.

    \b
    unclip evaluate nll runs/ddpm-digits 'data/digits/test/*.tar' --ode
    """
    least = {"count": (count, 2), "terms": (terms, 1), "resamples": (resamples, 0), "batch": (batch, 1)}
    for name, (value, minimum) in least.items():
        if value is not None and value < minimum:
            raise RequestError(f"--{name} must be at least {minimum}")
    from unclip.evaluate.nll import NllSettings
    from unclip.evaluate.nll import nll as measure
    from unclip.evaluate.pictures import PictureFiles

    found = PictureFiles.at(pictures)
    settings = NllSettings(resamples=resamples, seed=seed, batch=batch, count=count, terms=terms, ode=ode)
    report(measure(load_pixels(run, device, lora), found, settings), output)
