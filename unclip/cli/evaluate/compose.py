"""`unclip evaluate compose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.evaluate.measuring import held_out_options
from unclip.cli.options import PATH, json_option
from unclip.cli.paths import check_out_folder
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.menagerie.compose import Condition


@click.command()
@held_out_options(count=512)
@click.option(
    "--out",
    type=PATH,
    callback=check_out_folder,
    help="Folder for report.json and the contact sheet. Default: not saved.",
)
@click.option(
    "--condition",
    type=click.Choice(["both", "caption", "embedding"]),
    default="both",
    show_default=True,
    help="What conditions the decoder: the prior's embedding and the caption, or one of the two.",
)
@json_option
def compose(
    model: str,
    lora: tuple[str, ...],
    count: int,
    seed: int,
    batch: int,
    out: Path | None,
    as_json: bool,
    device: str | None,
    condition: Condition,
) -> None:
    """Compositional accuracy: how often a picture shows all that a held-out composition asks for."""
    if count < 1 or batch < 1:
        raise RequestError("--count and --batch must be at least 1")
    from unclip.menagerie.compose import evaluate_compose
    from unclip.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device=device, lora=lora)
    report = evaluate_compose(pipeline, count=count, seed=seed, batch=batch, condition=condition)
    click.echo(json.dumps(report.to_dict()) if as_json else report.table())
    if out is not None:
        report.save(out)
