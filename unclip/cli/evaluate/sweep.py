"""`unclip evaluate sweep`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.evaluate.measuring import held_out_options
from unclip.cli.options import PATH
from unclip.cli.paths import check_out_folder
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.evaluate.sweep import Task


@click.command()
@click.option(
    "--stage", default="decoder", show_default=True, help="Stage to vary: prior, decoder, upsampler-256, …."
)
@click.option("--guidance", help="Guidance scales, as 1,2,4. Default: the stage's.")
@click.option("--steps", help="Numbers of steps, as 5,10,25. Default: the stage's.")
@click.option("--sampler", help="Samplers, as ddim,dpmpp_2m. Default: the stage's.")
@held_out_options(count=64)
@click.option(
    "--prompts",
    help="Captions of your own: a .txt with one per line, or captioned pictures; the first --count of them. "
    "Default: held-out captions of the menagerie.",
)
@click.option(
    "--reference",
    help="Pictures to compare with, for CMMD and FID: a folder, a table or shards. Default: the pictures of "
    "--prompts, if it has some.",
)
@click.option("--resamples", default=100, show_default=True, help="Bootstrap resamples; 0 for no interval.")
@click.option(
    "--out",
    type=PATH,
    required=True,
    callback=check_out_folder,
    help="Folder for sweep.csv, plot.png and sheet.png.",
)
def sweep(
    model: str,
    lora: tuple[str, ...],
    stage: str,
    guidance: str | None,
    steps: str | None,
    sampler: str | None,
    count: int,
    seed: int,
    batch: int,
    prompts: str | None,
    reference: str | None,
    resamples: int,
    out: Path,
    device: str | None,
) -> None:
    """Measure quality for every combination of the given guidance scales, steps and samplers.

    Without --prompts it generates held-out compositions of the menagerie, compares them with renderings of the
    same scenes, and counts the named attributes that they show.

    \b
    unclip evaluate sweep --guidance 1,2,3,4 --steps 5,10,25 --out sweep
    unclip evaluate sweep --model my-model --prompts data/mine --steps 10,25 --out sweep
    """
    if count < 2 or batch < 1 or resamples < 0:
        raise RequestError("--count must be at least 2, --batch 1 and --resamples 0")
    values = {
        "samplers": _list("sampler", sampler, str),
        "steps": _list("steps", steps, int),
        "guidances": _list("guidance", guidance, float),
    }
    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("the plot needs matplotlib: pip install 'unclip[lecture]'")
    from unclip.evaluate import sweep as measuring
    from unclip.evaluate.sweep_plot import plot
    from unclip.images import save_png
    from unclip.pipeline import Pipeline

    task = _task(prompts, reference, count, seed)
    points: list[measuring.Point] = []

    def keep(point: measuring.Point) -> None:
        points.append(point)
        measuring.write_csv(points, out / "sweep.csv")  # after each point, so that an interruption loses none
        figures = ", ".join(f"{name} {value[0]:.4g}" for name, value in point.values().items())
        click.echo(f"{point.sampler}, {point.steps} steps, guidance {point.guidance:g}: {figures}")

    measuring.sweep(
        Pipeline.from_pretrained(model, device=device, lora=lora),
        stage,
        task,
        **values,
        seed=seed,
        batch=batch,
        resamples=resamples,
        on_point=keep,
    )
    save_png(measuring.sheet(points), out / "sheet.png")
    plot(points, out / "plot.png")


def _task(prompts: str | None, reference: str | None, count: int, seed: int) -> Task:
    """What the sweep generates, checked before the model is loaded."""
    from unclip.evaluate.pictures import PictureFiles, read_prompts
    from unclip.evaluate.sweep import prompts_task

    if prompts is None:
        if reference is not None:
            raise RequestError(
                "--reference needs --prompts: without, the menagerie's own pictures are compared"
            )
        from unclip.menagerie.sweep import held_out_task

        return held_out_task(count, seed)
    captions = read_prompts(prompts)[:count]
    if len(captions) < 2:
        raise RequestError(f"{prompts}: a sweep needs at least 2 captions")
    if reference is None and not prompts.lower().endswith(".txt"):
        reference = prompts
    return prompts_task(captions, PictureFiles.at(reference) if reference else None, seed)


def _list(name: str, text: str | None, kind: type[Any]) -> list[Any]:
    if text is None:
        return []
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--{name} {text}: separate the values with commas, as --{name} 1,2,4") from None
