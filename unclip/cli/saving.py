"""What the verbs that work on pictures share: their inputs, the model, where results go, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unclip.cli.generate import check_outputs, progress, sampling_options
from unclip.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

    from unclip.generation import Generation, OnStep
    from unclip.pipeline import Pipeline
    from unclip.provenance.metadata import Source

F = TypeVar("F", bound=Callable[..., Any])
ANIMATIONS = (".gif", ".webp", ".mp4")

_SHARED = (
    click.option("-o", "--output", type=click.Path(path_type=Path), help="A PNG file, or a folder."),
    click.option("--overwrite", is_flag=True, help="Replace files that exist."),
    click.option("--seed", type=int, help="Of the first picture; the next ones count up. Random if not given."),
    click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id owner/name."),
    click.option("--steps", multiple=True, metavar="[STAGE=]N", help="Denoising steps; without a stage, the decoder's."),
    click.option("--guidance", multiple=True, metavar="[STAGE=]X", help="Guidance scale; without a stage, the decoder's."),
    click.option("--device", help="cpu, cuda, cuda:1, mps. [default: the best one there is]"),
    click.option("--no-watermark", is_flag=True, help="Leave out the invisible mark that says a model made the picture."),
    click.option("--no-metadata", is_flag=True, help="Leave out the settings, and what says so in the file."),
    click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per picture instead of its path."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)  # fmt: skip


def shared(command: F) -> F:
    """The options of every verb that works on pictures."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


class Job:
    """One run of such a verb: what to load, how to sample, where to write."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        self.name, self.given = name, given
        self.options = sampling_options({"steps": given["steps"], "guidance": given["guidance"]})

    def paths(self, count: int) -> list[Path]:
        """Where so many pictures go; found out before the work."""
        output: Path | None = self.given["output"]
        if output is None or not output.suffix or output.is_dir():
            found = [(output or Path()) / f"{self.name}-{i}.png" for i in range(count)]
        elif output.suffix.lower() != ".png":
            raise RequestError(
                f"--output {output}: pictures are written as PNG; give a name that ends in .png, or a folder"
            )
        elif count == 1:
            found = [output]
        else:
            found = [output.with_name(f"{output.stem}-{i}.png") for i in range(count)]
        check_outputs(found, self.given["overwrite"])
        return found

    def load(self) -> Pipeline:
        """The model."""
        from unclip.pipeline import Pipeline

        return Pipeline.from_pretrained(self.given["model"], device=self.given["device"])

    def draw(self, verb: Callable[[OnStep | None], Generation]) -> Generation:
        """Calls the verb with a progress bar, and marks what the model painted."""
        from unclip.images import mark

        with progress(self.given["quiet"], "") as on_step:
            made = verb(on_step)
        if self.given["no_watermark"]:
            return made
        return replace(made, images=[mark(image, made.painted) for image in made.images])

    def write(self, made: Generation, paths: Sequence[Path]) -> None:
        """Saves and names the pictures."""
        from unclip.images import save_picture

        # A part of what these two return is the picture they were given.
        source: Source = (
            "compositeWithTrainedAlgorithmicMedia" if self.name in ("edit", "outpaint") else "trainedAlgorithmicMedia"
        )
        told = not self.given["no_metadata"]
        for path, image, settings in zip(paths, made.images, made.settings, strict=True):
            save_picture(image, path, settings=settings if told else None, source=source if told else None)
            line = {"path": str(path), "seed": settings["seed"], "settings": settings}
            click.echo(json.dumps(line, ensure_ascii=False) if self.given["as_json"] else str(path))


def read_picture(path: Path) -> Image.Image:
    """A picture file, or a RequestError that names it."""
    from unclip.images import open_picture

    return open_picture(path)
