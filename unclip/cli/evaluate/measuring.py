"""Options of the measures, and what they are made into: pictures, extractors, settings and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.options import CLIP_HELP, PATH, add_options, device_option, json_option, lora_option
from unclip.cli.paths import check_out_folder
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.clip import Clip
    from unclip.evaluate.features import Encoded
    from unclip.evaluate.pictures import PictureFiles, Pictures
    from unclip.evaluate.quality import Quality, Settings
    from unclip.evaluate.recognition import Recognised
    from unclip.menagerie.probe import ProbedScenes

MODEL = "model:"  # prefix of a source whose pictures are generated: model:mini


class _Features(click.Option):
    """The option --features. It is also called --clip, as of other commands; the help leaves that out."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(", --clip", ""), record[1])


def features_option(
    default: str = "mini", more: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --features: the encoder that measures, and what it may be besides a CLIP."""
    about = f"Encoder: {CLIP_HELP} mini knows the menagerie only.{more}"
    return click.option(
        "--features", "--clip", "ref", cls=_Features, default=default, show_default=True, help=about
    )


out_option = click.option(
    "--out",
    type=PATH,
    callback=check_out_folder,
    help="Folder for report.json, report.md and sheet.png. Default: not saved.",
)
_no_cache = click.option("--no-cache", is_flag=True, help="Neither read nor write cached features.")
_cache = click.option("--cache", type=PATH, help="Folder of cached features. Default: in the user's cache.")
_size = click.option(
    "--size", type=int, help="Resize all pictures' middle square to this side in pixels. Default: unchanged."
)

quality_options = add_options(
    click.option(
        "--prompts",
        help="Captions: a .txt with one per line, or captioned pictures. model:NAME generates a picture of "
        "each. In `clip` and `retrieval`, they caption pictures that have no captions, in the order of "
        "the names.",
    ),
    lora_option,
    _size,
    click.option(
        "--resamples", default=100, show_default=True, help="Bootstrap resamples; 0 for no interval."
    ),
    click.option(
        "--seed", default=0, show_default=True, help="Seed of the generated pictures and of the bootstrap."
    ),
    click.option("--batch", default=32, show_default=True, help="Pictures per batch, generated or encoded."),
    _cache,
    _no_cache,
    out_option,
    json_option,
    device_option,
)

recognition_options = add_options(
    features_option(),
    click.option(
        "--label", help="Key of the class in the shards' JSON, as scene.subject. Default: the folder's name."
    ),
    _size,
    click.option("--batch", default=64, show_default=True, help="Pictures per batch."),
    _cache,
    _no_cache,
    out_option,
    json_option,
    device_option,
)


def held_out_options(count: int, batch: int = 32) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of measures on held-out captions, with the defaults of --count and --batch."""
    return add_options(
        click.option("--model", default="mini", show_default=True, help="Bundled mini, folder or Hub id."),
        lora_option,
        click.option(
            "--count", default=count, show_default=True, help="Number of held-out captions, one picture each."
        ),
        click.option("--seed", default=0, show_default=True, help="Seed of the captions and the pictures."),
        click.option("--batch", default=batch, show_default=True, help="Pictures generated per batch."),
        device_option,
    )


def read_labelled(
    sources: list[str], ref: str, label: str | None, options: dict[str, Any]
) -> tuple[list[list[str]], list[Encoded]]:
    """Labels and CLIP features of each source."""
    from unclip.evaluate.pictures import PictureFiles

    sets = [PictureFiles.at(source) for source in sources]
    labels = [one.labels(label) for one in sets]  # before the slow part, because it may fail
    return labels, encode_sets(sets, ref, options)


def encode_sets(sets: list[PictureFiles], ref: str, options: dict[str, Any]) -> list[Encoded]:
    """CLIP features of each set of pictures."""
    from unclip.evaluate.features import clip_extractor, encode

    settings = read_settings({**options, "resamples": 0, "seed": 0})
    extractor = clip_extractor(load_clip(ref, options["device"]))
    return [
        encode(one, extractor, size=settings.size, batch=settings.batch, cache=settings.cache) for one in sets
    ]


def read_settings(options: dict[str, Any]) -> Settings:
    """The settings of a measure; RequestError for values out of range."""
    from unclip.evaluate.features import default_cache
    from unclip.evaluate.quality import Settings

    for name, least in (("batch", 1), ("resamples", 0), ("size", 8)):
        if options[name] is not None and options[name] < least:
            raise RequestError(f"--{name} must be at least {least}")
    cache = None if options["no_cache"] else options["cache"] or default_cache()
    return Settings(options["size"], options["resamples"], options["seed"], options["batch"], cache)


def read_pictures(source: str, prompts: str | None, options: dict[str, Any]) -> Pictures:
    """Pictures of a folder, table or shards, with captions from `prompts` if given; or model:NAME's."""
    from unclip.evaluate.pictures import CaptionedPictures, GeneratedPictures, PictureFiles, read_prompts

    if not source.startswith(MODEL):
        if options["lora"]:
            raise RequestError(f"--lora: {source} are pictures, not a model; adapters are for model:NAME")
        files = PictureFiles.at(source)
        return files if prompts is None else CaptionedPictures(files, read_prompts(prompts))
    if prompts is None:
        raise RequestError(
            f"{source} needs --prompts, what to generate: a .txt with a caption per line, or shards"
        )
    from unclip.device import join_processes
    from unclip.pipeline import Pipeline

    captions = read_prompts(prompts)
    device = options["device"] or (join_processes().device if join_processes().num_processes > 1 else None)
    pipeline = Pipeline.from_pretrained(source.removeprefix(MODEL), device=device, lora=options["lora"])
    size = next((size for size in pipeline.sizes if size >= (options["size"] or 0)), pipeline.sizes[-1])
    return GeneratedPictures(pipeline, captions, size, options["seed"], options["batch"])


def load_extractor(features: str, device: str | None, *, logits: bool) -> Any:
    """The feature extractor that --features names; with `logits`, one that also classifies."""
    from unclip.evaluate.features import clip_extractor, inception_extractor

    kind, _, weights = features.partition(":")
    if kind == "inception":
        return inception_extractor(Path(weights) if weights else None, logits=logits)
    if kind == "mobilenet" and not logits:
        from unclip.evaluate.mobilenet import mobilenet_extractor

        return mobilenet_extractor(Path(weights) if weights else None)
    if kind == "judge" and logits:
        from unclip.menagerie.judge.features import judge_extractor

        return judge_extractor()
    return clip_extractor(load_clip(features, device))


def load_clip(ref: str, device: str | None) -> Clip:
    """The CLIP of a reference, on this process's device by default."""
    from unclip.device import join_processes
    from unclip.models import resolve

    return resolve.load_clip(ref).to(device or join_processes().device)


def report(found: Quality | Recognised | ProbedScenes, options: dict[str, Any]) -> None:
    """Print the result and save it if --out is given, on the main process only."""
    from unclip.device import join_processes

    if not join_processes().is_main_process:
        return
    click.echo(json.dumps(found.to_dict()) if options["as_json"] else found.table())
    for warning in getattr(found, "warnings", ()):
        click.echo(f"warning: {warning}", err=True)
    if options["out"] is not None:
        found.save(options["out"])
