"""`unclip evaluate fid, kid, cmmd, precision-recall, is`: quality of pictures."""

from __future__ import annotations

from typing import Any

import click

from unclip.cli.evaluate.measuring import (
    MODEL,
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
    @features_option(more=" Or inception[:WEIGHTS], or mobilenet[:WEIGHTS].")
    @quality_options
    def command(pictures: str, reference: str, ref: str, prompts: str | None, **options: Any) -> None:
        from unclip.evaluate.pictures import PictureFiles
        from unclip.evaluate.quality import against_reference

        true = PictureFiles.at(reference)
        settings = read_settings(options)
        of_reference = reference if pictures.startswith(MODEL) else None
        measured = read_pictures(pictures, prompts or of_reference, options)
        extractor = load_extractor(ref, options["device"], logits=False)
        report(against_reference(kind, measured, true, extractor, settings), options)

    return command


fid = _against_reference(
    "fid",
    "Fréchet distance between Gaussians fitted to the features; 0 is best. It needs more pictures than "
    "features (2,048 of inception), and about 10,000 for a value that does not depend on their number.",
)
kid = _against_reference(
    "kid",
    "Kernel Inception Distance, unbiased; 0 is best. It needs about 100 pictures for a useful interval.",
)
cmmd = _against_reference("cmmd", "CLIP-MMD, in thousandths; 0 is best. It needs about 1,000 pictures.")
precision_recall = _against_reference(
    "precision-recall",
    "Share of pictures that resemble the reference, and share of the reference that they cover. They need "
    "about 1,000 pictures.",
)


@click.command("is")
@click.argument("pictures")
@features_option("inception", " Or inception[:WEIGHTS], or judge.")
@quality_options
def inception_score(pictures: str, ref: str, prompts: str | None, **options: Any) -> None:
    """Inception Score: how recognisable and how varied pictures are. It needs about 5,000 pictures.

    PICTURES: a folder, a table, shards, or model:NAME with --prompts.
    """
    from unclip.evaluate import quality

    measured = read_pictures(pictures, prompts, options)
    extractor = load_extractor(ref, options["device"], logits=True)
    report(quality.inception_score(measured, extractor, read_settings(options)), options)
