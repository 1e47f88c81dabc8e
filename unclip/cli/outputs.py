"""Outputs of the commands: files, JSON and progress bars."""

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
from unclip.cli.paths import (
    EMBEDDINGS,
    SUFFIXES,
    check_distinct,
    check_outputs,
    check_size,
    check_stage_outputs,
    image_paths,
    path_pattern,
    stage_path,
)
from unclip.errors import RequestError
from unclip.text import to_json

if TYPE_CHECKING:
    from PIL import Image

    from unclip.embeddings import Embeddings
    from unclip.pipeline import Generation, OnStep, Pipeline, SamplingOptions

BATCH = 8  # images drawn at once; each batch is written before the next one begins
LARGEST_SHEET = 2**28  # pixels of a contact sheet or of all frames, which are held in memory
MOST = 10_000  # images per command, so that a typing error does not fill a disk


def run(
    common: ImageOptions,
    name: str,
    count: int,
    draw: Callable[[Pipeline, SamplingOptions, range], Generation],
    *,
    captions: Sequence[str] = (),
    one_seed: bool = False,
    batch: int | None = None,
    extra: Sequence[Path] = (),
    size: tuple[int, int] | None = None,
) -> Generation:
    """Check the outputs, load the model, draw in batches, write each batch's images and print their paths.

    Args:
        name: stem of the default file names.
        count: number of images.
        draw: draws the images of a range of numbers. Its options hold the seeds of these.
        captions: the user's captions, for warnings and for {prompt} in file names.
        one_seed: whether all images share one seed.
        batch: images per call of `draw`. Default: BATCH.
        extra: other outputs of the command, which the images must not overwrite.
        size: (width, height) of the images in pixels. Default: they are square.

    Returns:
        The last batch.
    """
    if count < 1:
        raise RequestError(f"{count} images: there must be at least 1")
    if count > MOST:
        raise RequestError(
            f"{count} images: one command makes at most {MOST}; go on with another --seed for more"
        )
    first = common.first_seed()
    seeds = [first] * count if one_seed else [first + i for i in range(count)]
    pairs = [(captions[0] if captions else name, seed) for seed in seeds]
    paths = image_paths(path_pattern(common.output, f"{name}-{{index}}.png", count), pairs)
    check_outputs(paths, common.overwrite)
    check_distinct([*paths, *extra])
    if size is not None:
        check_size(paths[0], *size)
    pipe = common.load()
    check_stage_outputs(common, pipe, paths)
    if not common.quiet:
        warn(pipe, captions)
    for start in range(0, count, step := batch or BATCH):
        rows = range(start, min(start + step, count))
        with progress(common.quiet, batch_label(rows, count)) as on_step:
            made = draw(pipe, common.sampling(first if one_seed else seeds[start : rows.stop], on_step), rows)
        for number, i in enumerate(rows):
            write(common, made, number, paths[i])
    return made


def batch_label(rows: Sequence[int], total: int) -> str:
    """Label of a batch's progress bar; empty if there is one batch only."""
    return f"{rows[0] + 1}–{rows[-1] + 1} of {total}" if len(rows) < total else ""


def write(common: ImageOptions, made: Generation, number: int, path: Path) -> None:
    """Write an image and those of its earlier stages; print its path or a line of JSON."""
    metadata = not common.no_metadata
    for side in made.stages:
        made.save(number, stage_path(path, side), size=side, metadata=metadata)
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


def check_sheet(path: Path, total: int, size: tuple[int, int], columns: int | None = None) -> None:
    """Check before the work that a contact sheet of `total` images of a (width, height) can be written.

    Raises:
        RequestError: too large for the format, or for the memory.
    """
    from unclip.images import sheet_size

    width, height = sheet_size(total, size, columns)
    check_size(path, width, height)
    if width * height > LARGEST_SHEET:
        raise RequestError(
            f"{path}: a sheet of {total} images would have {width} × {height} pixels, {LARGEST_SHEET >> 20} "
            "million at most; draw fewer, or smaller ones (--size)"
        )


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


def read_key(key: str) -> Image.Image | Embeddings | str:
    """Read a key: the picture or the one embedding if it names a file, else the prompt itself."""
    if os.path.isfile(key):  # unlike Path.is_file, False for a prompt that is too long for a name
        if Path(key).suffix.lower() in EMBEDDINGS:
            return read_one_embedding(Path(key))
        return read_picture(Path(key))
    if Path(key).suffix.lower() in (*SUFFIXES, ".gif", *EMBEDDINGS):
        raise RequestError(f"{key}: no such file")
    return key


def read_one_embedding(path: Path) -> Embeddings:
    """Read a file of one embedding; RequestError if it holds several."""
    from unclip.embeddings import read_embeddings

    found = read_embeddings(path)
    if len(found) != 1:
        raise RequestError(f"{path}: holds {len(found)} embeddings; a key is one, saved in a file of its own")
    return found


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
