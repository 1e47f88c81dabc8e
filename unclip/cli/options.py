"""Options that all commands which make images share, as one decorator and one object.

Imports nothing heavy: `unclip --help` must answer at once.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unclip.errors import RequestError
from unclip.pipeline.options import SamplingOptions
from unclip.pipeline.presets import PRESETS

if TYPE_CHECKING:
    from unclip.pipeline import OnStep, Pipeline

PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class ImageOptions:
    """What `image_options` read from the command line; each field is the option of its name.

    An option that a command does not have keeps its default.
    """

    model: str
    device: str | None
    dtype: str | None
    offload: bool
    seed: int | None
    steps: tuple[str, ...]
    preset: str | None
    guidance: tuple[str, ...]
    sampler: tuple[str, ...]
    output: str | None
    overwrite: bool
    no_watermark: bool
    no_metadata: bool
    as_json: bool
    quiet: bool
    size: int | None = None
    negative: str = ""
    save_stages: bool = False

    @property
    def chosen_preset(self) -> str:
        """The last preset that was named, by --preset or in --steps."""
        named = [value for value in _split(self.steps) if value in PRESETS]
        return self.preset or (named[-1] if named else "balanced")

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """`--steps prior=8 --steps 30` as {"prior": {"steps": "8"}, "decoder": {"steps": "30"}}; stages check
        the values.
        """
        numbers = [value for value in _split(self.steps) if value not in PRESETS]
        changes: dict[str, dict[str, Any]] = {}
        for name, values in (
            ("steps", numbers),
            ("guidance", _split(self.guidance)),
            ("sampler", _split(self.sampler)),
        ):
            for value in values:
                stage, equals, setting = value.rpartition("=")
                changes.setdefault(stage if equals else "decoder", {})[name] = setting
        return changes

    def first_seed(self) -> int:
        """The seed of the first image: the one given, or a random one."""
        return secrets.randbelow(2**31) if self.seed is None else self.seed

    def sampling(self, seed: int | Sequence[int], on_step: OnStep | None = None) -> SamplingOptions:
        """The options as the verbs of a pipeline take them."""
        return SamplingOptions(
            seed,
            self.size,
            self.chosen_preset,
            self.stages,
            self.negative,
            self.save_stages,
            not self.no_watermark,
            on_step,
        )

    def load(self, device: str | None = None) -> Pipeline:
        """The model, on `device` if --device is not given.

        Raises:
            RequestError: it makes no images of --size.
        """
        import torch

        from unclip.pipeline import Pipeline
        from unclip.pipeline.call import reachable

        dtype = getattr(torch, self.dtype) if self.dtype else None
        pipe = Pipeline.from_pretrained(
            self.model, device=self.device or device, dtype=dtype, offload=self.offload
        )
        if self.size is not None and self.size not in (sides := reachable(pipe)):
            raise RequestError(
                f"--size {self.size}: {pipe.name} makes pictures of {', '.join(map(str, sides))} pixels"
            )
        if pipe.quick and pipe.dtype is not None and not self.quiet:
            click.echo(
                f"{pipe.name} runs in bfloat16 here; --dtype float32 is slower and the same everywhere",
                err=True,
            )
        return pipe


def _split(values: Sequence[str]) -> list[str]:
    return ",".join(values).split(",") if values else []


_OPTIONS = {
    "output": click.option(
        "-o",
        "--output",
        help="A PNG, JPEG or WebP file, a folder, or a pattern with {prompt}, {seed} and {index}.",
    ),
    "overwrite": click.option("--overwrite", is_flag=True, help="Replace files that exist."),
    "seed": click.option(
        "--seed", type=int, help="Seed of the first image; later images use seed + 1, + 2 …. Default: random."
    ),
    "size": click.option(
        "--size", type=int, help="Side in pixels at which the chain stops. Default: the largest."
    ),
    "model": click.option(
        "--model",
        default="mini",
        show_default=True,
        help="The bundled mini, a folder, or a Hub id owner/name.",
    ),
    "steps": click.option(
        "--steps",
        multiple=True,
        metavar="[STAGE=]N",
        help="Denoising steps; without a stage, the decoder's. Or a preset's name.",
    ),
    "preset": click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Steps and samplers of all stages. Default: balanced.",
    ),
    "guidance": click.option(
        "--guidance",
        multiple=True,
        metavar="[STAGE=]X",
        help="Guidance scale; without a stage, the decoder's.",
    ),
    "sampler": click.option(
        "--sampler",
        multiple=True,
        metavar="[STAGE=]NAME",
        help="ddpm, ddim, dpmpp_2m …; without a stage, the decoder's.",
    ),
    "negative": click.option("--negative", default="", help="Caption that guidance leads away from."),
    "device": click.option("--device", help="cpu, cuda, cuda:1 or mps. Default: the best one there is."),
    "dtype": click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Precision of the networks. Default: float32; bfloat16 for Karlo where the device is quick in it.",
    ),
    "offload": click.option(
        "--offload", is_flag=True, help="Keep one stage in memory at a time; slower to start each."
    ),
    "save_stages": click.option(
        "--save-stages", is_flag=True, help="Write the smaller images of the earlier stages, too."
    ),
    "no_watermark": click.option(
        "--no-watermark",
        is_flag=True,
        help="Leave out the invisible mark that says a model made the picture.",
    ),
    "no_metadata": click.option(
        "--no-metadata", is_flag=True, help="Leave out the settings, and what says so in the file."
    ),
    "as_json": click.option(
        "--json", "as_json", is_flag=True, help="Print one line of JSON per image instead of its path."
    ),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings."),
}


def image_options(*, without: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the shared options; it receives them as its first argument, an `ImageOptions`.

    Args:
        without: options that the command has no use for.
    """
    names = [name for name in _OPTIONS if name not in without]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            return command(ImageOptions(**{name: given.pop(name) for name in names}), **given)

        decorated: Callable[..., Any] = run
        for name in reversed(names):
            decorated = _OPTIONS[name](decorated)
        return decorated

    return decorate


def num_images(
    default: int = 1, help: str = "Number of images."
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option -n."""
    return click.option("-n", "--num-images", default=default, show_default=True, help=help)


repeats = click.option(
    "--repeats",
    type=int,
    help="Repeats of each of the decoder's steps: more fit better. Default: 4; 1 if it was trained to inpaint.",
)
