"""`unclip mix`, `vary`, `interpolate`, `diff`, `edit` and `outpaint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from unclip.cli.saving import ANIMATIONS, Job, read_picture, shared
from unclip.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

_SIZE = click.option("--size", type=int, help="Side in pixels at which the chain stops. [default: the largest]")
_REPEATS = click.option(
    "--repeats",
    type=int,
    help="Of each of the decoder's steps: more fit better. [default: 4; 1 if it was trained to inpaint]",
)
_PICTURE = click.Path(path_type=Path)


@click.command()
@click.argument("image", type=_PICTURE)
@click.option("-n", "--num-images", default=1, show_default=True, help="Variations.")
@click.option("--eta", default=1.0, show_default=True, help="0 gives the picture back, 1 differs most.")
@click.option("--fresh-noise", is_flag=True, help="Start from noise alone instead of the picture's own x_T.")
@_SIZE
@shared
def vary(image: Path, num_images: int, eta: float, fresh_noise: bool, size: int | None, **given: Any) -> None:
    """Make variations of a picture.

    \b
    unclip vary shiba.png -n 6 --eta 0.8 -o variations/
    """
    job, source = Job("variation", given), read_picture(image)
    paths = job.paths(num_images)
    pipe = job.load()
    made = job.draw(
        lambda on_step: pipe.vary(
            source, num_images, eta=eta, fresh_noise=fresh_noise, seed=given["seed"], size=size, options=job.options,
            on_step=on_step,
        )
    )  # fmt: skip
    job.write(made, paths)


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="A B...")
@click.option("--frames", default=16, show_default=True, help="Of each part of the way.")
@click.option("--fixed-noise", is_flag=True, help="One random x_T for all frames.")
@click.option("--animation", type=_PICTURE, help="Also write a film: .gif, .webp or .mp4.")
@click.option("--strip", type=_PICTURE, help="Also write all frames side by side, as a PNG.")
@_SIZE
@shared
def interpolate(
    keys: tuple[str, ...], frames: int, fixed_noise: bool, animation: Path | None, strip: Path | None,
    size: int | None, **given: Any,
) -> None:  # fmt: skip
    """Go from one picture to the next; whatever is no file is a prompt. More than two make a loop.

    \b
    unclip interpolate shiba.png "a cat in space" --frames 16 --animation way.gif -o frames/
    """
    from unclip.images import check_animation, grid, save_animation, save_png

    job = Job("frame", given)
    for extra, kinds in ((animation, ANIMATIONS), (strip, (".png",))):
        if extra is not None and extra.suffix.lower() not in kinds:
            raise RequestError(f"{extra}: its name must end in {' or '.join(kinds)}")
        if extra is not None and extra.exists() and not given["overwrite"]:
            raise RequestError(f"{extra}: exists already and is kept; --overwrite replaces it")
    if animation is not None:
        check_animation(animation)
    found = [_key(key) for key in keys]
    paths = job.paths(frames * (len(keys) if len(keys) > 2 else 1))
    pipe = job.load()
    made = job.draw(
        lambda on_step: pipe.interpolate(
            found, frames, fixed_noise=fixed_noise, seed=given["seed"], size=size, options=job.options, on_step=on_step
        )
    )
    job.write(made, paths)
    if animation is not None:
        save_animation(made.images, animation, bounce=len(keys) == 2)
        click.echo(str(animation))
    if strip is not None:
        save_png(grid(made.images, columns=len(made.images)), strip)
        click.echo(str(strip))


def _key(key: str) -> Image.Image | str:
    if Path(key).is_file():
        return read_picture(Path(key))
    if Path(key).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".gif"):
        raise RequestError(f"{key}: no such file")
    return key


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="A B...")
@click.option("--weights", metavar="X,Y...", help="How much each counts. [default: all alike]")
@click.option(
    "--by", type=click.Choice(["slerp", "sum"]), default="slerp", show_default=True, help="Mean on the sphere, or sum."
)
@click.option("--negative", default="", help="What the picture should not show.")
@click.option("-n", "--num-images", default=1, show_default=True, help="Pictures.")
@_SIZE
@shared
def mix(
    keys: tuple[str, ...], weights: str | None, by: Literal["slerp", "sum"], negative: str, num_images: int,
    size: int | None, **given: Any,
) -> None:  # fmt: skip
    """Make a picture of several prompts at once; whatever is a file is a picture.

    
    unclip mix "a fox wearing a crown" "a panda in the snow" --weights 2,1
    """
    job, found = Job("mix", given), [_key(key) for key in keys]
    shares = None if weights is None else _weights(weights)
    paths = job.paths(num_images)
    pipe = job.load()
    made = job.draw(
        lambda on_step: pipe.mix(
            found, shares, num_images, by=by, negative=negative, seed=given["seed"], size=size, options=job.options,
            on_step=on_step,
        )
    )  # fmt: skip
    job.write(made, paths)


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--weights {text}: write numbers with commas between them, as in 2,1") from None


@click.command()
@click.argument("image", type=_PICTURE)
@click.argument("before")
@click.argument("after")
@click.option("--theta", default="0.25:0.5", show_default=True, help="How far to go: X, or FROM:TO.")
@click.option("-n", "--num-images", default=4, show_default=True, help="Pictures between FROM and TO.")
@_SIZE
@shared
def diff(image: Path, before: str, after: str, theta: str, num_images: int, size: int | None, **given: Any) -> None:
    """Turn a picture of BEFORE into one of AFTER. BEFORE may be its caption, "a photo", or "".

    \b
    unclip diff shiba.png "a shiba inu in summer" "a shiba inu in the snow" --theta 0.25:0.5
    """
    job, source = Job("diff", given), read_picture(image)
    thetas = _thetas(theta, num_images)
    paths = job.paths(len(thetas))
    pipe = job.load()
    made = job.draw(
        lambda on_step: pipe.diff(
            source, before, after, thetas, seed=given["seed"], size=size, options=job.options, on_step=on_step
        )
    )
    job.write(made, paths)


def _thetas(text: str, count: int) -> list[float]:
    first, colon, last = text.partition(":")
    try:
        low, high = float(first), float(last if colon else first)
    except ValueError:
        raise RequestError(f"--theta {text}: write 0.4, or 0.25:0.5") from None
    if not colon:
        return [low]
    if count < 2:
        raise RequestError("--num-images must be at least 2 for a theta FROM:TO")
    return [low + (high - low) * i / (count - 1) for i in range(count)]


@click.command()
@click.argument("image", type=_PICTURE)
@click.argument("prompt")
@click.option("--mask", type=_PICTURE, help="Painted where transparent or, if nothing of it is, where white.")
@click.option("--strength", type=float, help="Above 0, at most 1: how much of what is painted is new.")
@_REPEATS
@click.option("--negative", default="", help="What the picture should not show.")
@click.option("-n", "--num-images", default=1, show_default=True, help="Pictures.")
@click.option("--size", type=int, help="Side in pixels. [default: the smallest that holds the picture]")
@shared
def edit(
    image: Path, prompt: str, mask: Path | None, strength: float | None, repeats: int | None, negative: str, num_images: int,
    size: int | None, **given: Any,
) -> None:  # fmt: skip
    """Paint a part of a picture anew. Without a mask its transparent pixels are painted, or all of it by --strength.

    \b
    unclip edit shiba.png "a shiba inu wearing a crown" --mask hat.png
    unclip edit shiba.png "a watercolour of a shiba inu" --strength 0.5
    """
    job, source = Job("edit", given), read_picture(image)
    over = None if mask is None else read_picture(mask)
    paths = job.paths(num_images)
    pipe = job.load()
    made = job.draw(
        lambda on_step: pipe.edit(
            source, prompt, over, num_images, strength=strength, repeats=repeats, negative=negative, seed=given["seed"],
            size=size, options=job.options, on_step=on_step,
        )
    )  # fmt: skip
    job.write(made, paths)


@click.command()
@click.argument("image", type=_PICTURE)
@click.argument("prompt")
@click.option("--to", required=True, metavar="WxH", help="Pixels of the larger picture.")
@_REPEATS
@click.option("--negative", default="", help="What the picture should not show.")
@click.option("-n", "--num-images", default=1, show_default=True, help="Pictures.")
@shared
def outpaint(
    image: Path, prompt: str, to: str, repeats: int | None, negative: str, num_images: int, **given: Any
) -> None:
    """Paint what is around a picture.

    \b
    unclip outpaint shiba.png "a shiba inu on the beach" --to 1536x1024
    """
    job, source = Job("outpaint", given), read_picture(image)
    width, cross, height = to.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise RequestError(f"--to {to}: write WIDTHxHEIGHT, as in 1536x1024")
    paths = job.paths(num_images)
    pipe = job.load()
    made = job.draw(
        lambda on_step: pipe.outpaint(
            source, prompt, (int(width), int(height)), num_images, repeats=repeats, negative=negative,
            seed=given["seed"], options=job.options, on_step=on_step,
        )
    )  # fmt: skip
    job.write(made, paths)
