"""`unclip decode`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unclip.cli.jobs import Job, check_count, draw_job, fingerprint, read_captions
from unclip.cli.options import PATH, ImageOptions, image_options, num_images
from unclip.cli.paths import SUFFIXES
from unclip.errors import RequestError
from unclip.pipeline.options import check_prompt

if TYPE_CHECKING:
    from unclip.embeddings import Embeddings
    from unclip.pipeline import Generation, Pipeline, SamplingOptions

RECORD = "unclip-decode.json"  # file beside a job's images with the request


@click.command()
@click.argument("file", type=PATH, metavar="EMBEDDINGS")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Caption for the decoder: one for all embeddings, or one for each. Default: none.",
)
@click.option(
    "--prompts", "--prompts-file", "prompts_file", type=PATH, help="File of captions, one for each embedding."
)
@num_images(help="Number of images of each embedding.")
@click.option("--grid", is_flag=True, help="Write one contact sheet instead of single images.")
@image_options()
def decode(
    common: ImageOptions,
    file: Path,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    num_images: int,
    grid: bool,
) -> None:
    """Decode CLIP image embeddings: .safetensors of `unclip embed`, or any .safetensors or .npy [N, D].

    Without --seed, the seeds in the file are used, if it holds any: then `embed` and `decode` with the same
    prompt make the image of `generate`. With -o FOLDER, run again to resume.

    \b
    unclip decode z.safetensors -n 4 -o pictures/
    unclip decode z.npy --prompt "a photograph" --guidance 2 --grid
    """
    captions = read_captions(prompts, prompts_file) if prompts or prompts_file else [""]
    for caption in captions:
        if caption:
            check_prompt(caption)
    from unclip.embeddings import read_embeddings

    found = read_embeddings(file)
    if len(captions) not in (1, len(found)):
        raise RequestError(
            f"{len(captions)} prompts for the {len(found)} embeddings of {file}: give one or all"
        )
    check_count(len(found) * num_images, num_images, num_images)
    if common.seed is None and found.seeds:
        common = replace(common, seed=found.seeds[0])
        offsets = [seed - found.seeds[0] + i for seed in found.seeds for i in range(num_images)]
    else:
        offsets = list(range(len(found) * num_images))
    captions = captions * len(found) if len(captions) == 1 else captions
    draw_job(common, _job(file, found, captions, num_images, offsets), grid=grid)


def _job(
    file: Path, found: Embeddings, captions: Sequence[str], num_images: int, offsets: Sequence[int]
) -> Job:
    names = [_label(name) for name in found.names] or [f"{file.stem} {i}" for i in range(len(found))]
    rows = [i for i in range(len(found)) for _ in range(num_images)]

    def check(pipe: Pipeline) -> None:
        from unclip.pipeline.embed import check_source

        check_source(found.image_embeds.shape[1], found.clip, pipe, str(file))

    def draw(pipe: Pipeline, options: SamplingOptions, numbers: Sequence[int]) -> Generation:
        own = [rows[i] for i in numbers]
        made = pipe.decode(found.image_embeds[own], [captions[row] for row in own], options=options)
        for settings, row in zip(made.settings, own, strict=True):
            settings |= {"embeddings": file.name, "row": row}
        return made

    digest = hashlib.sha256(found.image_embeds.numpy().tobytes()).hexdigest()[:16]
    return Job(
        labels=[names[row] for row in rows],
        offsets=offsets,
        captions=[captions[row] for row in rows],
        draw=draw,
        request={
            "embeddings": f"{len(found)}: {digest}",
            "prompts": fingerprint(captions),
            "num_images": num_images,
        },
        record=RECORD,
        numbered=True,
        check=check,
    )


def _label(name: str) -> str:
    """The name of an embedding for a file: of a picture's path the stem, of a caption all."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name
