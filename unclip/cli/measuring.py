"""`unclip evaluate fid, kid, cmmd, precision-recall, is, clip, retrieval, zeroshot, probe`: measures of
pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.clip import Clip
    from unclip.evaluate.features import Encoded
    from unclip.evaluate.pictures import Pictures
    from unclip.evaluate.quality import Quality, Settings
    from unclip.evaluate.recognition import Recognised

MODEL = "model:"  # pictures that are yet to be painted: model:mini


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Those of every measure, last one first."""
    for option in (
        click.option("--device", help="cpu, cuda, … [default: the best one there is]"),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
        click.option(
            "--out", type=click.Path(path_type=Path), help="Folder for report.json, report.md and sheet.png."
        ),
        click.option("--no-cache", is_flag=True, help="Neither keep features nor use kept ones."),
        click.option(
            "--cache", type=click.Path(path_type=Path), help="Folder of kept features. [default: the user's]"
        ),
        click.option("--batch", default=32, show_default=True, help="Pictures painted or encoded together."),
        click.option(
            "--seed", default=0, show_default=True, help="Of the painted pictures and of the resamples."
        ),
        click.option(
            "--resamples", default=100, show_default=True, help="Of the bootstrap; 0 for no interval."
        ),
        click.option("--size", type=int, help="Bring all pictures' middle square to this many pixels."),
        click.option(
            "--prompts", help="What model:NAME paints: a .txt, a line each, or what holds captions."
        ),
    ):
        command = option(command)
    return command


_CLIP = click.option(
    "--clip",
    "ref",
    default="mini",
    show_default=True,
    help="Reference of the CLIP: mini, a run or folder of the CLIP stage, a model, openclip:NAME/TAG or hf:NAME.",
)


def _features(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--features",
        default=default,
        show_default=True,
        help="Any CLIP, by a reference as for --clip of `clip`; inception[:WEIGHTS]; for `is` also judge.",
    )


def _against_reference(kind: str, about: str) -> click.Command:
    @click.command(
        kind,
        help=f"{about}\n\nPICTURES and REFERENCE: a folder, a table or shards; PICTURES may be model:NAME, "
        "which paints REFERENCE's captions.",
    )
    @click.argument("pictures")
    @click.argument("reference")
    @_features("mini")
    @_options
    def command(pictures: str, reference: str, features: str, prompts: str | None, **options: Any) -> None:
        from unclip.evaluate.pictures import Found
        from unclip.evaluate.quality import against_reference

        true = Found.at(reference)
        settings = _settings(options)
        shown = _pictures(pictures, prompts or reference, options)
        extractor = _extractor(features, options["device"], logits=False)
        report(against_reference(kind, shown, true, extractor, settings), options)

    return command


fid = _against_reference("fid", "Fréchet distance of the features' Gaussians; 0 is best.")
kid = _against_reference("kid", "Kernel Inception Distance, unbiased with few pictures too; 0 is best.")
cmmd = _against_reference("cmmd", "CLIP-MMD, in thousandths; 0 is best.")
precision_recall = _against_reference(
    "precision-recall",
    "Shares of the pictures that look like the reference, and of the reference that they cover.",
)


@click.command("is")
@click.argument("pictures")
@_features("inception")
@_options
def inception_score(pictures: str, features: str, prompts: str | None, **options: Any) -> None:
    """Inception Score of a folder, a table, shards, or model:NAME with --prompts: how clear and how
    varied.
    """
    from unclip.evaluate import quality

    shown = _pictures(pictures, prompts, options)
    extractor = _extractor(features, options["device"], logits=True)
    report(quality.inception_score(shown, extractor, _settings(options)), options)


@click.command("clip")
@click.argument("pictures")
@_CLIP
@_options
def clip_score(pictures: str, ref: str, prompts: str | None, **options: Any) -> None:
    """CLIP score: 100 · cosine of pictures and their captions. PICTURES as for `is`, with captions beside."""
    from unclip.evaluate import quality

    shown = _pictures(pictures, prompts, options)
    report(quality.clip_score(shown, _clip(ref, options["device"]), _settings(options)), options)


@click.command("retrieval")
@click.argument("pictures")
@_CLIP
@_options
def retrieval(pictures: str, ref: str, prompts: str | None, **options: Any) -> None:
    """Recall@1, 5, 10 of captions by pictures and of pictures by captions. PICTURES as for `clip`.

    Captions that read "CONCEPT in STYLE style" are also asked for either part by itself.

    \b
    unclip evaluate retrieval data/emoji/val-000000.tar --clip runs/emoji/clip --size 64
    """
    from unclip.evaluate.retrieval import retrieval

    shown = _pictures(pictures, prompts, options)
    report(retrieval(shown, _clip(ref, options["device"]), _settings(options)), options)


def _recognition(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--device", help="cpu, cuda, … [default: the best one there is]"),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
        click.option(
            "--out", type=click.Path(path_type=Path), help="Folder for report.json, report.md and sheet.png."
        ),
        click.option("--no-cache", is_flag=True, help="Neither keep features nor use kept ones."),
        click.option(
            "--cache", type=click.Path(path_type=Path), help="Folder of kept features. [default: the user's]"
        ),
        click.option("--batch", default=64, show_default=True, help="Pictures encoded together."),
        click.option("--size", type=int, help="Bring all pictures' middle square to this many pixels."),
        click.option(
            "--label", help="Where shards' JSON has the class, as scene.subject. [default: the folder's name]"
        ),
        _CLIP,
    ):
        command = option(command)
    return command


@click.command("zeroshot")
@click.argument("pictures")
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="How to say a class, as 'a photo of a {}'; several are averaged.",
)
@_recognition
def zeroshot(pictures: str, ref: str, templates: tuple[str, ...], label: str | None, **options: Any) -> None:
    """What a CLIP calls pictures, choosing among their classes' names: a folder for each class, or shards and
    --label.

    \b
    unclip evaluate zeroshot data/held-out --label scene.subject
    """
    from unclip.evaluate import recognition

    labels, (shown,) = _labelled([pictures], ref, label, options)
    clip = _clip(ref, options["device"])
    found = recognition.zeroshot(shown.features, labels[0], clip, templates or recognition.TEMPLATES)
    report(replace(found, pictures=tuple(shown.pictures)), options)


@click.command("probe")
@click.argument("train")
@click.argument("test")
@_recognition
def probe(train: str, test: str, ref: str, label: str | None, **options: Any) -> None:
    """What a linear layer on a CLIP's frozen features reads: logistic regression on TRAIN, measured on
    TEST.
    """
    from unclip.evaluate import recognition

    labels, (learned, shown) = _labelled([train, test], ref, label, options)
    found = recognition.probe(learned.features, labels[0], shown.features, labels[1])
    report(replace(found, pictures=tuple(shown.pictures)), options)


MEASURES = (fid, kid, cmmd, precision_recall, inception_score, clip_score, retrieval, zeroshot, probe)


def _labelled(
    sources: list[str], ref: str, label: str | None, options: dict[str, Any]
) -> tuple[list[list[str]], list[Encoded]]:
    """Labels and features of each source."""
    from unclip.evaluate.features import clip_extractor, encode
    from unclip.evaluate.pictures import Found

    settings = _settings({**options, "resamples": 0, "seed": 0})
    extractor = clip_extractor(_clip(ref, options["device"]))
    sets = [Found.at(source) for source in sources]
    labels = [one.labels(label) for one in sets]  # first: it is quick, and may fail
    return labels, [
        encode(one, extractor, size=settings.size, batch=settings.batch, cache=settings.cache) for one in sets
    ]


def _settings(options: dict[str, Any]) -> Settings:
    from unclip.evaluate.features import default_cache
    from unclip.evaluate.quality import Settings

    for name, least in (("batch", 1), ("resamples", 0), ("size", 8)):
        if options[name] is not None and options[name] < least:
            raise RequestError(f"--{name} must be at least {least}")
    cache = None if options["no_cache"] else options["cache"] or default_cache()
    return Settings(options["size"], options["resamples"], options["seed"], options["batch"], cache)


def _pictures(source: str, prompts: str | None, options: dict[str, Any]) -> Pictures:
    from unclip.evaluate.pictures import Found, Painted, read_prompts

    if not source.startswith(MODEL):
        return Found.at(source)
    if prompts is None:
        raise RequestError(
            f"{source} needs --prompts, what to paint: a .txt with a caption per line, or shards"
        )
    from unclip.device import join_processes
    from unclip.pipeline import Pipeline

    captions = read_prompts(prompts)
    device = options["device"] or (join_processes().device if join_processes().num_processes > 1 else None)
    pipeline = Pipeline.from_pretrained(source.removeprefix(MODEL), device=device)
    size = next((size for size in pipeline.sizes if size >= (options["size"] or 0)), pipeline.sizes[-1])
    return Painted(pipeline, captions, size, options["seed"], options["batch"])


def _extractor(features: str, device: str | None, *, logits: bool) -> Any:
    from unclip.evaluate.features import clip_extractor, inception_extractor

    kind, _, weights = features.partition(":")
    if kind == "inception":
        return inception_extractor(Path(weights) if weights else None, logits=logits)
    if kind == "judge" and logits:
        from unclip.menagerie.judge.features import judge_extractor

        return judge_extractor()
    return clip_extractor(_clip(features, device))


def _clip(ref: str, device: str | None) -> Clip:
    from unclip.device import join_processes
    from unclip.models.resolve import load_clip

    return load_clip(ref).to(device or join_processes().device)


def report(found: Quality | Recognised, options: dict[str, Any]) -> None:
    """Prints it as asked, and saves it, on the main process."""
    from unclip.device import join_processes

    if not join_processes().is_main_process:
        return
    if options["out"] is not None:
        found.save(options["out"])
    click.echo(json.dumps(found.to_dict()) if options["as_json"] else found.table())
