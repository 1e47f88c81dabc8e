"""Shared options: those of all commands that make images as one object, and single ones for others.

Imports nothing heavy, so that `unclip --help` is fast.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from unclip.errors import RequestError
from unclip.pipeline.options import SamplingOptions
from unclip.pipeline.presets import PRESETS
from unclip.pipeline.sizes import HOW, Size, parse_size

if TYPE_CHECKING:
    from unclip.pipeline import OnStep, Pipeline

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)
COMMON_SIZES = (
    "64",
    "256",
    "512",
    "768",
    "1024",
    "1024x768",
    "768x1024",
    "1536x1024",
    "1024x1536",
    "1792x1024",
)


class SizeType(click.ParamType[Size]):
    """A size in pixels: WIDTHxHEIGHT, or the side of a square."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        try:
            return parse_size(value)
        except RequestError:
            raise RequestError(f"{param.opts[0] if param else 'size'} {value}: {HOW}") from None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(one) for one in COMMON_SIZES if one.startswith(incomplete)]


SIZE = SizeType()
CLIP_HELP = "CLIP: mini, a run or folder of the CLIP stage, a model, openclip:NAME/TAG or hf:NAME."


def _loras(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """The given adapters, after a look at their paths and scales."""
    if given:
        from unclip.models.scaled import ScaledReference

        for one in given:
            ScaledReference.parse(one).check_exists()
    return given


lora_option = click.option(
    "--lora",
    multiple=True,
    metavar="PATH[:SCALE]",
    callback=_loras,
    help="LoRA adapter: a run, its folder or a .safetensors; may be repeated. Default: none; SCALE 1.",
)
device_option = click.option("--device", help="cpu, cuda, cuda:1 or mps. Default: the best one available.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")


def add_options(*options: Decorator) -> Decorator:
    """One decorator for several options, in the order of the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Values of `image_options` from the command line; a command without an option gets its default."""

    model: str
    device: str | None
    dtype: str | None
    offload: bool
    seed: int | None
    steps: tuple[str, ...]
    preset: str | None
    guidance: tuple[str, ...]
    sampler: tuple[str, ...]
    overwrite: bool
    quiet: bool
    output: str | None = None
    no_watermark: bool = False
    no_metadata: bool = False
    as_json: bool = False
    lora: tuple[str, ...] = ()
    size: Size | None = None
    negative: str = ""
    save_stages: bool = False
    noise_level: tuple[str, ...] = ()

    @property
    def chosen_preset(self) -> str:
        """The preset of --preset, or the last one named in --steps; "balanced" by default."""
        named = [value for value in _split(self.steps) if value in PRESETS]
        return self.preset or (named[-1] if named else "balanced")

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Changes by stage: `--steps prior=8,30` → {"prior": {"steps": "8"}, "decoder": {"steps": "30"}}."""
        numbers = [value for value in _split(self.steps) if value not in PRESETS]
        changes: dict[str, dict[str, Any]] = {}
        for name, values in (
            ("steps", numbers),
            ("guidance", _split(self.guidance)),
            ("sampler", _split(self.sampler)),
            ("noise_level", _split(self.noise_level)),
        ):
            for value in values:
                stage, equals, setting = value.rpartition("=")
                changes.setdefault(stage if equals else "decoder", {})[name] = setting
        return changes

    def first_seed(self) -> int:
        """The seed of the first image: --seed, or a random one."""
        return secrets.randbelow(2**31) if self.seed is None else self.seed

    def sampling(self, seed: int | Sequence[int], on_step: OnStep | None = None) -> SamplingOptions:
        """The options as the pipeline's verbs take them."""
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
        """Load the model, on `device` unless --device is given.

        Raises:
            RequestError: the model makes no images of --size.
        """
        import torch

        from unclip.pipeline import Pipeline

        dtype = getattr(torch, self.dtype) if self.dtype else None
        pipe = Pipeline.from_pretrained(
            self.model, device=self.device or device, dtype=dtype, offload=self.offload, lora=self.lora
        )
        if self.size is not None:
            try:
                pipe.grid.check(self.size)
            except RequestError as error:
                raise RequestError(f"--{error}") from None
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
        "-o", "--output", help="PNG, JPEG or WebP file, folder, or pattern with {prompt}, {seed}, {index}."
    ),
    "overwrite": overwrite_option,
    "seed": click.option(
        "--seed", type=int, help="Seed of the first image; later images use seed + 1, + 2 …. Default: random."
    ),
    "size": click.option(
        "--size",
        type=SIZE,
        metavar="WxH",
        help="Size of the images in pixels, or the side of a square. Default: the largest square; of an "
        "edit, the picture's shape.",
    ),
    "model": click.option(
        "--model",
        default="mini",
        show_default=True,
        help="Model: the bundled mini, a folder, or a Hub id owner/name.",
    ),
    "lora": lora_option,
    "steps": click.option(
        "--steps",
        multiple=True,
        metavar="[STAGE=]N",
        help="Denoising steps of STAGE (default: decoder), or a preset. Default: the command's or preset's.",
    ),
    "preset": click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Steps and samplers of all stages. Default: balanced, the model's own.",
    ),
    "guidance": click.option(
        "--guidance",
        multiple=True,
        metavar="[STAGE=]X",
        help="Guidance scale of STAGE (default: decoder). Default: the command's or model's.",
    ),
    "sampler": click.option(
        "--sampler",
        multiple=True,
        metavar="[STAGE=]NAME",
        help="ddpm, ddim, dpmpp_2m … of STAGE (default: decoder). Default: the command's or preset's.",
    ),
    "noise_level": click.option(
        "--noise-level",
        multiple=True,
        metavar="[STAGE=]X",
        help="Noise in [0, 1] on the z_i of a decoder that reads its level (Stable unCLIP), or on the input "
        "of an upsampler STAGE. Default: the model's.",
    ),
    "negative": click.option("--negative", default="", help="Negative prompt. Default: none."),
    "device": device_option,
    "dtype": click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Precision of the networks. Default: float32; bfloat16 for Karlo where it is fast.",
    ),
    "offload": click.option(
        "--offload",
        is_flag=True,
        help="Load each diffusion stage when it runs and drop it afterwards. The CLIP stays.",
    ),
    "save_stages": click.option(
        "--save-stages", is_flag=True, help="Also write the smaller images of the earlier stages."
    ),
    "no_watermark": click.option(
        "--no-watermark", is_flag=True, help="Leave out the invisible watermark of generated pictures."
    ),
    "no_metadata": click.option(
        "--no-metadata",
        is_flag=True,
        help="Leave out the settings and the mark of generated pictures in the file.",
    ),
    "as_json": click.option(
        "--json", "as_json", is_flag=True, help="Print one line of JSON per image instead of its path."
    ),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings."),
}


def image_options(*, without: Sequence[str] = ()) -> Decorator:
    """Add the shared options to a command, which receives them as its first argument, an `ImageOptions`.

    Args:
        without: names of options that the command does not support.
    """
    names = [name for name in _OPTIONS if name not in without]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            return command(ImageOptions(**{name: given.pop(name) for name in names}), **given)

        return add_options(*(_OPTIONS[name] for name in names))(run)

    return decorate


def num_images(default: int = 1, help: str = "Number of images.") -> Decorator:
    """The option --num-images."""
    return click.option("-n", "--num-images", default=default, show_default=True, help=help)


repeats = click.option(
    "--repeats",
    type=int,
    help="Repeats of each decoder step; more blend better. Default: 4; 1 for an inpainting decoder.",
)
