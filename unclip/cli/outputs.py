"""Outputs of the commands: paths, checks before the work, files, JSON and progress bars."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.cli.options import ImageOptions
from unclip.errors import RequestError
from unclip.text import to_json

if TYPE_CHECKING:
    from PIL import Image

    from unclip.pipeline import Generation, OnStep, Pipeline, SamplingOptions

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ANIMATIONS = (".gif", ".webp", ".mp4")


def run(
    common: ImageOptions,
    name: str,
    count: int,
    verb: Callable[[Pipeline, SamplingOptions], Generation],
    *,
    captions: Sequence[str] = (),
    one_seed: bool = False,
) -> Generation:
    """Check the outputs, load the model, call a verb, write its images and print their paths.

    Args:
        name: stem of the default file names.
        count: number of images that the verb makes.
        captions: the user's captions, for warnings and for {prompt} in file names.
        one_seed: whether all images share one seed.
    """
    if count < 1:
        raise RequestError(f"{count} images: there must be at least 1")
    first = common.first_seed()
    seeds = [first] if one_seed else [first + i for i in range(count)]
    pairs = [(captions[0] if captions else name, seeds[i % len(seeds)]) for i in range(count)]
    paths = image_paths(path_pattern(common.output, f"{name}-{{index}}.png", count), pairs)
    check_outputs(paths, common.overwrite)
    pipe = common.load()
    check_stage_outputs(common, pipe, paths)
    if not common.quiet:
        warn(pipe, captions)
    with progress(common.quiet) as on_step:
        made = verb(pipe, common.sampling(seeds[0], on_step))
    for number, path in enumerate(paths):
        write(common, made, number, path)
    return made


def path_pattern(output: str | None, name: str, total: int) -> str:
    """The pattern of the file names for --output; `name` is the default pattern."""
    if output is None:
        return name
    if "{" in output:
        return output
    if output.endswith(("/", "\\")) or Path(output).is_dir() or not Path(output).suffix:
        return str(Path(output) / name)
    stem = Path(output)
    return output if total == 1 else str(stem.with_name(f"{stem.stem}-{{index}}{stem.suffix}"))


def image_paths(pattern: str, pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """The path of each image, given (caption, seed) pairs."""
    try:
        paths = [Path(pattern.format(prompt=_slug(c), seed=s, index=i)) for i, (c, s) in enumerate(pairs)]
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(
            f"--output {pattern}: a pattern knows {{prompt}}, {{seed}} and {{index}} only, not {error}"
        ) from None
    if any(path.suffix.lower() not in SUFFIXES for path in paths):
        raise RequestError(f"--output {pattern}: give a folder, or a name that ends in {', '.join(SUFFIXES)}")
    if len(set(paths)) < len(paths):
        raise RequestError(
            f"--output {pattern}: several pictures would have the same name; use {{seed}} or {{index}} in it"
        )
    return paths


def _slug(caption: str) -> str:
    """The caption as part of a file name."""
    name = "-".join("".join(c if c.isalnum() else " " for c in caption).split())[:60]
    # File systems limit bytes, and a character can take four.
    return name.encode()[:180].decode(errors="ignore").strip("-") or "picture"


def refuse_existing(path: Path, overwrite: bool) -> None:
    """RequestError if a file or folder exists and --overwrite is not given."""
    if path.exists() and not overwrite:
        raise RequestError(f"{path}: exists already and is kept; --overwrite replaces it")


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Check before the work that the images can be written.

    Raises:
        RequestError: a file exists, or its folder cannot be written to.
    """
    for path in paths:
        if path.is_dir():
            raise RequestError(f"{path}: is a folder")
        refuse_existing(path, overwrite)
    for folder in {path.parent for path in paths}:
        # Folders are made with the first picture, so that a refused request leaves none behind.
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise RequestError(f"{folder}: cannot be made ({there} is a file)")
        if not os.access(there, os.W_OK):
            raise RequestError(
                f"{folder}: cannot be {'written to' if there == folder else 'made'} (not permitted)"
            )


def check_stage_outputs(
    common: ImageOptions, pipe: Pipeline, paths: Sequence[Path], *, overwrite: bool = False
) -> None:
    """`check_outputs` for the images of earlier stages, with --save-stages."""
    if common.save_stages:
        smaller = [side for side in pipe.sizes if side < (common.size or pipe.sizes[-1])]
        check_outputs(
            [_stage_path(path, side) for path in paths for side in smaller], common.overwrite or overwrite
        )


def _stage_path(path: Path, side: int) -> Path:
    return path.with_name(f"{path.stem}-{side}{path.suffix}")


def write(common: ImageOptions, made: Generation, number: int, path: Path) -> None:
    """Write an image and those of its earlier stages; print its path or a line of JSON."""
    metadata = not common.no_metadata
    for side in made.stages:
        made.save(number, _stage_path(path, side), size=side, metadata=metadata)
    made.save(number, path, metadata=metadata)  # last, so that a resumed job finds all stages of it
    settings = made.settings[number]
    prompt = {"prompt": settings["prompt"]} if "prompt" in settings else {}
    seconds = {role: round(s / len(made.images), 3) for role, s in made.seconds.items()}
    say(common, path, **prompt, seed=made.seeds[number], settings=settings, seconds=seconds)


def say(common: ImageOptions, path: Path, **more: Any) -> None:
    """Print a file's path, or with --json a line of JSON with `more` fields."""
    if common.as_json:
        echo_json({"path": str(path), **more})
    else:
        click.echo(str(path))


def echo_json(tree: object) -> None:
    """Print a line of JSON; letters are escaped unless standard output is UTF-8, so that none is lost."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(to_json(tree) if utf8 else json.dumps(tree))


def write_sheet(
    common: ImageOptions,
    images: Sequence[Image.Image],
    path: Path,
    settings: dict[str, Any],
    *,
    columns: int | None = None,
    **more: Any,
) -> None:
    """Write a contact sheet with one watermark over all of it; `more` are fields of the JSON line."""
    from unclip.images import grid, mark, save_picture

    sheet = grid(images, columns)
    sheet = sheet if common.no_watermark else mark(sheet)
    if common.no_metadata:
        save_picture(sheet, path)
    else:
        save_picture(sheet, path, settings=settings, source="trainedAlgorithmicMedia")
    say(common, path, images=len(images), **more)


def check_extra_outputs(common: ImageOptions, animation: Path | None, strip: Path | None) -> None:
    """Check before the work that an animation and a strip can be written."""
    from unclip.images import check_animation

    for extra, kinds in ((animation, ANIMATIONS), (strip, (".png",))):
        if extra is not None and extra.suffix.lower() not in kinds:
            raise RequestError(f"{extra}: its name must end in {' or '.join(kinds)}")
    check_outputs([path for path in (animation, strip) if path is not None], common.overwrite)
    if animation is not None:
        check_animation(animation)


def write_animation(common: ImageOptions, made: Generation, path: Path, *, bounce: bool) -> None:
    """Write all images as an animation and print its path."""
    from unclip.images import save_animation

    if common.no_metadata:
        save_animation(made.images, path, bounce=bounce)
    else:
        save_animation(
            made.images, path, bounce=bounce, settings={"frames": made.settings}, source=made.source
        )
    say(common, path, images=len(made.images))


def read_key(key: str) -> Image.Image | str:
    """Read a key: the picture if it names a file, else the prompt itself."""
    if Path(key).is_file():
        return read_picture(Path(key))
    if Path(key).suffix.lower() in (*SUFFIXES, ".gif"):
        raise RequestError(f"{key}: no such file")
    return key


def read_picture(path: Path) -> Image.Image:
    """Read a picture file; RequestError if it is not one."""
    from unclip.images import open_picture

    return open_picture(path)


def warn(pipe: Pipeline, captions: Sequence[str]) -> None:
    """Warn on standard error of captions that are truncated or hold unknown words."""
    for caption in dict.fromkeys(captions):
        _, cut = pipe.clip.truncate(caption)
        if cut:
            click.echo(
                f"warning: the prompt is too long for {pipe.name}; this is not read: {cut!r}", err=True
            )
        unknown = pipe.unknown_words(caption)
        if unknown:
            click.echo(
                f"warning: {pipe.name} has never seen: {', '.join(unknown)}. It knows its small world only; "
                "for open-ended prompts use --model with a model trained on captioned photographs "
                "(docs/how-to/models.md)",
                err=True,
            )


@contextmanager
def progress(quiet: bool, label: str = "") -> Iterator[OnStep | None]:
    """A progress bar per stage, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def on_step(role: str, number: int, steps: int, step: object) -> None:
        if role not in bars or number == 1:
            for bar in bars.values():
                bar.close()
            bars[role] = tqdm(total=steps, desc=f"{role} {label}".strip(), unit="step", leave=True)
        bars[role].update()

    try:
        yield on_step
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of a known length, on a terminal only; call it with (done, total)."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=not sys.stderr.isatty()) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
