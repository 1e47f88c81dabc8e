"""`unclip evaluate clip` and `unclip evaluate retrieval`: agreement of pictures and captions."""

from __future__ import annotations

from typing import Any

import click

from unclip.cli.evaluate.measuring import (
    features_option,
    load_clip,
    quality_options,
    read_pictures,
    read_settings,
    report,
)


@click.command("clip")
@click.argument("pictures")
@features_option()
@quality_options
def clip_score(pictures: str, ref: str, prompts: str | None, **options: Any) -> None:
    """CLIP score: 100 · cosine of pictures and captions, averaged over all captions of each picture.

    PICTURES: a folder with caption files, a table, shards, or model:NAME with --prompts.
    """
    from unclip.evaluate import quality

    measured = read_pictures(pictures, prompts, options)
    clip = load_clip(ref, options["device"])
    report(quality.clip_score(measured, clip, read_settings(options)), options)


@click.command("retrieval")
@click.argument("pictures")
@features_option()
@quality_options
def retrieval(pictures: str, ref: str, prompts: str | None, **options: Any) -> None:
    """Recall@1, 5, 10 of captions by pictures and of pictures by captions, with the share by chance.

    PICTURES as for `clip`. All captions of a picture are right for it. Captions of the form "CONCEPT in STYLE style" are also scored for each part alone.

    \b
    unclip evaluate retrieval data/emoji/val-000000.tar --features runs/emoji/clip --size 64
    """
    from unclip.evaluate.retrieval import retrieval

    measured = read_pictures(pictures, prompts, options)
    clip = load_clip(ref, options["device"])
    report(retrieval(measured, clip, read_settings(options)), options)
