"""`unclip evaluate prior`."""

from __future__ import annotations

import json

import click

from unclip.cli.evaluate.measuring import held_out_options
from unclip.cli.options import json_option
from unclip.errors import RequestError


@click.command()
@held_out_options(count=256)
@click.option(
    "--prior", "refs", multiple=True, help="Another prior to compare: a run, a saved stage or a model's."
)
@json_option
def prior(
    model: str,
    lora: tuple[str, ...],
    refs: tuple[str, ...],
    count: int,
    seed: int,
    batch: int,
    as_json: bool,
    device: str | None,
) -> None:
    """Compare priors, and the decoder without one: given z_t in place of z_i, and given the caption alone.

    A prior that reads vectors gets the scenes' attributes (`unclip data menagerie --vectors`).

    \b
    unclip evaluate prior --prior runs/mini/prior-ar --prior runs/mini/prior-onepass
    """
    from unclip.menagerie.priors import compare_priors, table
    from unclip.models.resolve import resolve
    from unclip.pipeline import Pipeline
    from unclip.stages import load_stage
    from unclip.stages.prior_base import BasePrior
    from unclip.stages.prior_vectors import VectorPrior

    others = {}
    for ref in refs:
        stage = load_stage(resolve(ref).stage("prior"))
        if not isinstance(stage, BasePrior | VectorPrior):
            raise RequestError(f"{ref}: is a {stage.config.kind}, not a prior")
        others[f"{stage.config.kind} ({ref})"] = stage
    pipeline = Pipeline.from_pretrained(model, device=device, lora=lora)
    reports = compare_priors(pipeline, others, count=count, seed=seed, batch=batch)
    click.echo(json.dumps([one.to_dict() for one in reports]) if as_json else table(reports))
