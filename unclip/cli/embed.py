"""`unclip embed`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.jobs import read_captions
from unclip.cli.options import PATH, ImageOptions, image_options, num_images
from unclip.cli.outputs import batch_label, progress, progress_bar, warn
from unclip.cli.paths import EMBEDDINGS, check_writable, refuse_existing
from unclip.errors import RequestError
from unclip.pipeline.options import check_prompt

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from unclip.clip import Clip
    from unclip.embeddings import Embeddings
    from unclip.pipeline import Pipeline, SamplingOptions

BATCH = 32  # embeddings that the prior samples at once
UNUSED = ("output", "size", "save_stages", "no_watermark", "no_metadata", "as_json")


@click.command()
@click.argument("pictures", nargs=-1, type=PATH, metavar="[PICTURE]...")
@click.option("--prompt", "prompts", multiple=True, help="Caption of an embedding; may be repeated.")
@click.option(
    "--prompts", "--prompts-file", "prompts_file", type=PATH, help="File of more captions, one per line."
)
@click.option(
    "--vectors", type=PATH, help=".npy or .safetensors [N, width] for a prior that was trained on vectors."
)
@click.option("--text", is_flag=True, help="CLIP's text embeddings z_t of the captions; no prior runs.")
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=PATH,
    help=".safetensors, which records the CLIP, names and seeds, or .npy, the bare array [N, D].",
)
@num_images(help="Number of embeddings of each caption or vector.")
@image_options(without=UNUSED)
def embed(
    common: ImageOptions,
    pictures: tuple[Path, ...],
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    vectors: Path | None,
    text: bool,
    out: Path,
    num_images: int,
) -> None:
    """Write CLIP image embeddings z_i to a file, for `unclip decode`.

    Arguments are pictures, or folders of them: their z_i is that of the model's CLIP. Captions are options:
    their z_i is sampled by the model's prior. For training data, see `unclip data embed`.

    \b
    unclip embed photographs/ cat.jpg -o z.safetensors
    unclip embed --prompt "a corgi in space" -n 4 --seed 7 -o z.safetensors
    unclip embed --vectors voxels.npy --model runs/prior-from-vectors -o z.safetensors
    """
    captions = read_captions(prompts, prompts_file) if prompts or prompts_file else []
    _check(common, pictures, captions, vectors, text, num_images)
    if out.suffix.lower() not in EMBEDDINGS:
        raise RequestError(f"{out}: the name must end in {' or '.join(EMBEDDINGS)}")
    refuse_existing(out, common.overwrite)
    check_writable(out)
    if pictures:
        found = _of_pictures(common, _picture_files(pictures))
    elif text:
        found = _of_text(common, captions)
    elif vectors:
        found = _of_vectors(common, vectors, num_images)
    else:
        found = _of_prompts(common, captions, num_images)
    from unclip.embeddings import IMAGE, TEXT, write_embeddings

    write_embeddings(out, found, name=TEXT if text else IMAGE)
    click.echo(str(out))


def _check(
    common: ImageOptions,
    pictures: Sequence[Path],
    captions: Sequence[str],
    vectors: Path | None,
    text: bool,
    num_images: int,
) -> None:
    """RequestError unless there is one kind of input, and the options belong to it."""
    if sum(map(bool, (pictures, captions, vectors))) != 1:
        raise RequestError(
            "give pictures or folders, or captions (--prompt, --prompts), or --vectors: one kind of them"
        )
    if other := common.stages.keys() - {"prior"}:
        raise RequestError(
            f"--steps, --guidance, --sampler: only the prior runs here, no {min(other)}; prior=…"
        )
    if num_images < 1:
        raise RequestError(f"--num-images {num_images}: there must be at least 1")
    if text and not captions:
        raise RequestError("--text: the text embeddings of captions; give --prompt or --prompts")
    if num_images != 1 and (pictures or text):
        raise RequestError(
            "-n: a picture or a text has one embedding; the prior samples several of a caption"
        )
    for caption in captions:
        check_prompt(caption)


def _picture_files(given: Sequence[Path]) -> list[Path]:
    """The picture files: those given, and those in the folders given."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            from unclip.data.source import find_pictures

            inside = find_pictures(path)
            if not inside:
                raise RequestError(f"{path}: no pictures (such as .jpg and .png) in that folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise RequestError(f"{path}: no such file or folder; a caption is given with --prompt")
    return found


def _of_pictures(common: ImageOptions, paths: Sequence[Path]) -> Embeddings:
    from unclip.embeddings import Embeddings
    from unclip.images import open_picture
    from unclip.pipeline.embed import encode_each

    clip = _clip(common)

    def pictures(update: Callable[[int, int], None]) -> Iterator[Image.Image]:
        for done, path in enumerate(paths, start=1):
            yield open_picture(path)
            update(done, len(paths))

    with progress_bar("picture") as update:
        z_i = encode_each(clip, pictures(update))
    return Embeddings(z_i, clip.identity, tuple(map(str, paths)))


def _of_text(common: ImageOptions, captions: Sequence[str]) -> Embeddings:
    from unclip.embeddings import Embeddings
    from unclip.pipeline.embed import encode_captions

    clip = _clip(common)
    return Embeddings(encode_captions(clip, captions), clip.identity, tuple(captions))


def _clip(common: ImageOptions) -> Clip:
    """The model's CLIP alone."""
    import torch

    from unclip.device import best_device
    from unclip.models.resolve import load_clip

    dtype = getattr(torch, common.dtype) if common.dtype else None
    return load_clip(common.model).to(common.device or best_device(), dtype)


def _of_prompts(common: ImageOptions, captions: Sequence[str], num_images: int) -> Embeddings:
    pipe = common.load()
    if not common.quiet:
        warn(pipe, captions)

    def sample(rows: Sequence[int], options: SamplingOptions) -> Tensor:
        return pipe.sample_prior([captions[i] for i in rows], options=options)

    return _sampled(common, pipe, captions, num_images, sample)


def _of_vectors(common: ImageOptions, path: Path, num_images: int) -> Embeddings:
    from unclip.embeddings import read_vectors
    from unclip.pipeline.embed import prior_of_vectors, usable_vectors

    vectors = read_vectors(path)
    pipe = common.load()
    rows_of = usable_vectors(prior_of_vectors(pipe), vectors, pipe.name)

    def sample(rows: Sequence[int], options: SamplingOptions) -> Tensor:
        return pipe.sample_prior(vectors=rows_of[list(rows)], options=options)

    return _sampled(common, pipe, [f"{path.stem} {i}" for i in range(len(rows_of))], num_images, sample)


def _sampled(
    common: ImageOptions,
    pipe: Pipeline,
    names: Sequence[str],
    num_images: int,
    sample: Callable[[Sequence[int], SamplingOptions], Tensor],
) -> Embeddings:
    """`num_images` samples of the prior for each name, with the seeds of `unclip generate`.

    Args:
        sample: samples z_i for some of the names, by number; its options hold their seeds.
    """
    import torch

    from unclip.embeddings import Embeddings

    first, total = common.first_seed(), len(names) * num_images
    seeds = [first + i for _ in names for i in range(num_images)]
    parts = []
    for start in range(0, total, BATCH):
        rows = range(start, min(start + BATCH, total))
        with progress(common.quiet, batch_label(rows, total)) as on_step:
            options = common.sampling(seeds[start : rows.stop], on_step)
            parts.append(sample([i // num_images for i in rows], options))
    own = pipe.prior.config.clip if pipe.prior else None
    labels = tuple(name for name in names for _ in range(num_images))
    return Embeddings(torch.cat(parts), own, labels, tuple(seeds))
