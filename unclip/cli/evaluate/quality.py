"""`unclip evaluate fid, kid, cmmd, precision-recall, is`: quality of pictures."""

from __future__ import annotations

from typing import Any

import click

from unclip.cli.evaluate.measuring import (
    features_option,
    load_extractor,
    quality_options,
    read_pictures,
    read_settings,
    report,
)


def _against_reference(kind: str, about: str) -> click.Command:
    @click.command(
        kind,
        help=f"{about}\n\nPICTURES and REFERENCE: a folder, a table or shards; PICTURES may be model:NAME, "
        "which generates pictures of REFERENCE's captions.",
    )
    @click.argument("pictures")
    @click.argument("reference")
    @features_option("mini")
    @quality_options
    def command(pictures: str, reference: str, features: str, prompts: str | None, **options: Any) -> None:
        from unclip.evaluate.pictures import Found
        from unclip.evaluate.quality import against_reference

        true = Found.at(reference)
        settings = read_settings(options)
        measured = read_pictures(pictures, prompts or reference, options)
        extractor = load_extractor(features, options["device"], logits=False)
        report(against_reference(kind, measured, true, extractor, settings), options)

    return command


fid = _against_reference("fid", "Fréchet distance between Gaussians fitted to the features; 0 is best.")
kid = _against_reference("kid", "Kernel Inception Distance, unbiased for few pictures, too; 0 is best.")
cmmd = _against_reference("cmmd", "CLIP-MMD, in thousandths; 0 is best.")
precision_recall = _against_reference(
    "precision-recall",
    "Share of pictures that resemble the reference, and share of the reference that they cover.",
)


@click.command("is")
@click.argument("pictures")
@features_option("inception")
@quality_options
def inception_score(pictures: str, features: str, prompts: str | None, **options: Any) -> None:
    """Inception Score: how recognisable and how varied pictures are.

    PICTURES: a folder, a table, shards, or model:NAME with --prompts.
    """
    from unclip.evaluate import quality

    measured = read_pictures(pictures, prompts, options)
    extractor = load_extractor(features, options["device"], logits=True)
    report(quality.inception_score(measured, extractor, read_settings(options)), options)
