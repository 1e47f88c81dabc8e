"""`unclip evaluate sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unclip.errors import RequestError


@click.command()
@click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id.")
@click.option(
    "--stage", default="decoder", show_default=True, help="prior, decoder, upsampler-256, …: which is varied."
)
@click.option("--guidance", help="Scales, as 1,2,4. [default: the stage's own]")
@click.option("--steps", help="Numbers of steps, as 5,10,25. [default: the stage's own]")
@click.option("--sampler", help="Names, as ddim,dpmpp_2m. [default: the stage's own]")
@click.option(
    "--count", default=64, show_default=True, help="Held-out captions, one picture each at every point."
)
@click.option("--seed", default=0, show_default=True, help="Of the captions and the pictures.")
@click.option("--batch", default=32, show_default=True, help="Pictures made together.")
@click.option("--resamples", default=100, show_default=True, help="Of the bootstrap; 0 for no interval.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for sweep.csv, plot.png, sheet.png."
)
@click.option("--device", help="cpu, cuda, … [default: the best one there is]")
def sweep(
    model: str,
    stage: str,
    guidance: str | None,
    steps: str | None,
    sampler: str | None,
    count: int,
    seed: int,
    batch: int,
    resamples: int,
    out: Path,
    device: str | None,
) -> None:
    """Quality against guidance, steps and sampler: every combination of the values given.

    \b
    unclip evaluate sweep --guidance 1,2,3,4 --steps 5,10,25 --out sweep
    """
    if count < 2 or batch < 1 or resamples < 0:
        raise RequestError("--count must be at least 2, --batch 1 and --resamples 0")
    values = {
        "samplers": _list("sampler", sampler, str),
        "steps": _list("steps", steps, int),
        "guidances": _list("guidance", guidance, float),
    }
    from unclip.images import save_png
    from unclip.menagerie import sweep as measuring
    from unclip.pipeline import Pipeline

    points: list[measuring.Point] = []

    def keep(point: measuring.Point) -> None:
        points.append(point)
        measuring.write_csv(points, out / "sweep.csv")  # what is done survives an interruption
        figures = ", ".join(f"{name} {value[0]:.4g}" for name, value in point.values().items())
        click.echo(f"{point.sampler}, {point.steps} steps, guidance {point.guidance:g}: {figures}")

    measuring.sweep(
        Pipeline.from_pretrained(model, device=device),
        stage,
        **values,
        count=count,
        seed=seed,
        batch=batch,
        resamples=resamples,
        on_point=keep,
    )
    save_png(measuring.sheet(points), out / "sheet.png")
    measuring.plot(points, out / "plot.png")


def _list(name: str, text: str | None, kind: type[Any]) -> list[Any]:
    if text is None:
        return []
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--{name} {text}: wants values with commas between, as --{name} 1,2,4") from None
