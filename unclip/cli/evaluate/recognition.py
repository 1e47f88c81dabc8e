"""`unclip evaluate zeroshot` and `unclip evaluate probe`: classification with a CLIP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from unclip.cli.evaluate.measuring import encode_sets, load_clip, read_labelled, recognition_options, report


@click.command("zeroshot")
@click.argument("pictures")
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Prompt of a class, as 'a photo of a {}'; several are averaged.",
)
@recognition_options
def zeroshot(pictures: str, ref: str, templates: tuple[str, ...], label: str | None, **options: Any) -> None:
    """Zero-shot accuracy of a CLIP among the pictures' classes: a folder per class, or shards and --label.

    \b
    unclip evaluate zeroshot data/held-out --label scene.subject
    """
    from unclip.evaluate import recognition

    labels, (measured,) = read_labelled([pictures], ref, label, options)
    clip = load_clip(ref, options["device"])
    found = recognition.zeroshot(measured.features, labels[0], clip, templates or recognition.TEMPLATES)
    report(replace(found, pictures=tuple(measured.pictures)), options)


@click.command("probe")
@click.argument("train")
@click.argument("test")
@recognition_options
def probe(train: str, test: str, ref: str, label: str | None, **options: Any) -> None:
    """Linear probe of a CLIP's frozen features: logistic regression on TRAIN, accuracy on TEST.

    --label scene probes each attribute of the menagerie, and scores pictures with the pairs of subject and
    headwear of training apart from those with held-out pairs.

    \b
    unclip evaluate probe data/train data/held-out --label scene --features runs/mini/clip
    """
    from unclip.evaluate import recognition
    from unclip.evaluate.pictures import PictureFiles

    if label == "scene":
        from unclip.menagerie.probe import probe_scenes, read_scenes

        sets = [PictureFiles.at(source) for source in (train, test)]
        scenes = [read_scenes(one) for one in sets]  # before the slow part, because it may fail
        learned, measured = encode_sets(sets, ref, options)
        probed = probe_scenes(learned.features, scenes[0], measured.features, scenes[1])
        return report(replace(probed, pictures=tuple(measured.pictures)), options)
    labels, (learned, measured) = read_labelled([train, test], ref, label, options)
    found = recognition.probe(learned.features, labels[0], measured.features, labels[1])
    report(replace(found, pictures=tuple(measured.pictures)), options)
