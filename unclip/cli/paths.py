"""Paths of outputs, and the checks before the work that they can be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.options import ImageOptions
from unclip.errors import RequestError

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EMBEDDINGS = (".safetensors", ".npy")
ANIMATIONS = (".gif", ".webp", ".mp4")
LONGEST = 255  # bytes of a file's name, where the system does not say


def path_pattern(output: str | None, name: str, total: int) -> str:
    """The pattern of the file names for --output; `name` is the default pattern."""
    if output is None:
        return name
    if "{" in output:
        return output
    if output.endswith(("/", "\\")) or os.path.isdir(output) or not Path(output).suffix:
        return str(Path(output) / name)
    stem = Path(output)
    return output if total == 1 else str(stem.with_name(f"{stem.stem}-{{index}}{stem.suffix}"))


def image_paths(pattern: str, pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """The path of each image, given (caption, seed) pairs. Captions are shortened to names that fit."""
    try:
        paths = [_path(pattern, caption, seed, i) for i, (caption, seed) in enumerate(pairs)]
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


def _path(pattern: str, caption: str, seed: int, index: int) -> Path:
    slug = _slug(caption)
    path = Path(pattern.format(prompt=slug, seed=seed, index=index))
    excess = max(len(os.fsencode(part)) for part in path.parts or ("",)) - LONGEST
    if excess > 0:  # the checks refuse a name that is too long even without the caption
        path = Path(pattern.format(prompt=_cut(slug, len(slug.encode()) - excess), seed=seed, index=index))
    return path


def _slug(caption: str) -> str:
    """The caption as part of a file name."""
    name = "-".join("".join(c if c.isalnum() else " " for c in caption).split())[:60]
    return _cut(name, 180)  # file systems limit bytes, and a character can take four


def _cut(name: str, length: int) -> str:
    return name.encode()[: max(0, length)].decode(errors="ignore").strip("-") or "picture"


def refuse_existing(path: Path, overwrite: bool) -> None:
    """RequestError if a file or folder exists and --overwrite is not given."""
    if os.path.exists(path) and not overwrite:
        raise RequestError(f"{path}: exists already and is kept; --overwrite replaces it")


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Check before the work that the images can be written.

    Raises:
        RequestError: a file exists, or a file cannot be written.
    """
    for path in paths:
        if os.path.isdir(path):
            raise RequestError(f"{path}: is a folder")
        if os.path.exists(path) and not os.path.isfile(path):
            raise RequestError(f"{path}: is a device, not a file")
        refuse_existing(path, overwrite)
    longest = {path.parent: path for path in sorted(paths, key=lambda path: len(os.fsencode(path.name)))}
    for path in longest.values():
        check_writable(path)


def check_out_folder(_: click.Context, __: click.Parameter, folder: Path | None) -> Path | None:
    """Callback of an option --out: check before the work that files can be written to the folder."""
    if folder is not None:
        check_writable(folder / "report.json")
    return folder


def check_writable(path: Path) -> None:
    """Check before the work that a file or folder can be written as `path`.

    Raises:
        RequestError: it cannot.
    """
    from unclip.files import try_to_write

    folder = path.parent
    # Folders are made with the first file, so that a refused request leaves none behind.
    there = next((parent for parent in (folder, *folder.absolute().parents) if os.path.exists(parent)), None)
    if there is None:
        raise RequestError(f"{path}: cannot be written (there is no {folder.absolute().anchor})")
    if not there.is_dir():
        raise RequestError(f"{folder}: cannot be made ({there} is a file)")
    if not os.access(there, os.W_OK):
        raise RequestError(
            f"{folder}: cannot be {'written to' if there == folder else 'made'} (not permitted)"
        )
    try:
        try_to_write(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None


def check_size(path: Path, width: int, height: int) -> None:
    """RequestError if the format of a path cannot hold a picture of this size in pixels."""
    from unclip.provenance import metadata

    metadata.check_size(metadata.format_of(path), width, height, str(path))


def check_stage_outputs(
    common: ImageOptions, pipe: Pipeline, paths: Sequence[Path], *, overwrite: bool = False
) -> None:
    """`check_outputs` for the images of earlier stages, with --save-stages.

    Raises:
        RequestError: as `check_outputs`, or two images would have the same name.
    """
    if not common.save_stages:
        return
    last = pipe.grid.check(common.size) if common.size else pipe.sizes[-1]
    smaller = [side for side in pipe.sizes if side < last]
    stages = [stage_path(path, side) for path in paths for side in smaller]
    check_distinct([*paths, *stages])
    check_outputs(stages, common.overwrite or overwrite)


def check_distinct(paths: Sequence[Path]) -> None:
    """RequestError if two outputs of a command are the same file."""
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise RequestError(
                f"{path}: two outputs would have this name; --output with {{seed}} or {{index}} tells them "
                "apart"
            )
        seen.add(real)


def stage_path(path: Path, side: int) -> Path:
    """Path of the image of an earlier stage, of a side in pixels."""
    return path.with_name(f"{path.stem}-{side}{path.suffix}")


def check_extra_outputs(common: ImageOptions, animation: Path | None, strip: Path | None) -> list[Path]:
    """Check before the work that an animation and a strip can be written; their paths."""
    from unclip.images import check_animation

    for extra, kinds in ((animation, ANIMATIONS), (strip, (".png",))):
        if extra is not None and extra.suffix.lower() not in kinds:
            raise RequestError(f"{extra}: its name must end in {' or '.join(kinds)}")
    paths = [path for path in (animation, strip) if path is not None]
    check_outputs(paths, common.overwrite)
    if animation is not None:
        check_animation(animation)
    return paths
