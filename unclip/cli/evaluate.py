"""`unclip evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.measuring import MEASURES
from unclip.cli.pixels import nll
from unclip.cli.sweeping import sweep
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.menagerie.compose import Condition


@click.group()
def evaluate() -> None:
    """Measure a model."""


for _measure in (*MEASURES, nll, sweep):
    evaluate.add_command(_measure)


@evaluate.command()
@click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id.")
@click.option("--count", default=512, show_default=True, help="Held-out captions, one picture each.")
@click.option("--seed", default=0, show_default=True, help="Of the captions and the pictures.")
@click.option("--batch", default=32, show_default=True, help="Pictures made together.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.json and the contact sheet.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", help="cpu, cuda, … [default: the best one there is]")
@click.option(
    "--condition",
    type=click.Choice(["both", "caption", "embedding"]),
    default="both",
    show_default=True,
    help="What the decoder is given: the prior's embedding and the caption, or one of the two.",
)
def compose(
    model: str,
    count: int,
    seed: int,
    batch: int,
    out: Path | None,
    as_json: bool,
    device: str | None,
    condition: Condition,
) -> None:
    """Truth to the caption: does the picture show what a never-trained composition asks for?"""
    if count < 1 or batch < 1:
        raise RequestError("--count and --batch must be at least 1")
    from unclip.menagerie.compose import evaluate_compose
    from unclip.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device=device)
    report = evaluate_compose(pipeline, count=count, seed=seed, batch=batch, condition=condition)
    if out is not None:
        report.save(out)
    click.echo(json.dumps(report.to_dict()) if as_json else report.table())


@evaluate.command()
@click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id.")
@click.option("--prior", "refs", multiple=True, help="Another prior: a run, a saved stage or a model's.")
@click.option("--count", default=256, show_default=True, help="Held-out captions, one picture each.")
@click.option("--seed", default=0, show_default=True, help="Of the captions and the pictures.")
@click.option("--batch", default=32, show_default=True, help="Pictures made together.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", help="cpu, cuda, … [default: the best one there is]")
def prior(
    model: str, refs: tuple[str, ...], count: int, seed: int, batch: int, as_json: bool, device: str | None
) -> None:
    """Priors side by side, and what the decoder does without one: z_t in z_i's place, and the caption alone.

    \b
    unclip evaluate prior --prior runs/mini/prior-ar --prior runs/mini/prior-onepass
    """
    from unclip.menagerie.priors import compare_priors, table
    from unclip.models.resolve import resolve
    from unclip.pipeline import Pipeline
    from unclip.stages import load_stage
    from unclip.stages.prior_base import BasePrior

    others = {}
    for ref in refs:
        stage = load_stage(resolve(ref).stage("prior"))
        if not isinstance(stage, BasePrior):
            raise RequestError(f"{ref}: is a {stage.config.kind}, not a prior")
        others[f"{stage.config.kind} ({ref})"] = stage
    reports = compare_priors(
        Pipeline.from_pretrained(model, device=device), others, count=count, seed=seed, batch=batch
    )
    click.echo(json.dumps([one.to_dict() for one in reports]) if as_json else table(reports))


@evaluate.command()
@click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id.")
@click.option("--count", default=32, show_default=True, help="Held-out captions, one picture each.")
@click.option("--seed", default=0, show_default=True, help="Of the captions and the pictures.")
@click.option("--batch", default=8, show_default=True, help="Pictures made together.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", help="cpu, cuda, … [default: the best one there is]")
def spectrum(model: str, count: int, seed: int, batch: int, as_json: bool, device: str | None) -> None:
    """Blur, stripes and grain: energy by octave of spatial frequency over that of renderings of the same
    scenes.

    The last column is the power at the frequency of each stage's patches over that around it, and of the
    renderings.
    """
    from unclip.menagerie.spectrum import spectra, table
    from unclip.pipeline import Pipeline

    found = spectra(Pipeline.from_pretrained(model, device=device), count=count, seed=seed, batch=batch)
    click.echo(json.dumps([one.to_dict() for one in found]) if as_json else table(found))
