"""`unclip data embed`."""

from __future__ import annotations

from pathlib import Path

import click

from unclip.cli.options import CLIP_HELP, PATH
from unclip.cli.outputs import progress_bar
from unclip.errors import RequestError


@click.command()
@click.argument("shards")
@click.argument("out", type=PATH)
@click.option("--clip", required=True, help=CLIP_HELP)
@click.option("--batch", default=256, show_default=True, help="Pictures per batch.")
@click.option("--no-tokens", is_flag=True, help="Leave out the captions' token states: far smaller shards.")
@click.option(
    "--keep-pictures", is_flag=True, help="Also store the pictures, to train decoders on the shards."
)
def embed(shards: str, out: Path, clip: str, batch: int, no_tokens: bool, keep_pictures: bool) -> None:
    """Encode shards with CLIP once and store the embeddings as shards.

    Run again to resume, and to embed shards that are new or have changed.

    \b
    unclip data embed 'data/cats/*.tar' data/cats-embedded --clip openclip:ViT-L-14/openai
    accelerate-launch -m unclip data embed 'data/cats/*.tar' data/cats-embedded --clip runs/clip
    """
    if batch < 1:
        raise RequestError("--batch must be at least 1")
    from unclip.data.embed import embed_shards
    from unclip.device import join_processes

    tokens = not no_tokens
    with progress_bar("shard") as progress:
        fresh = embed_shards(
            shards, out, clip, batch=batch, tokens=tokens, keep_pictures=keep_pictures, progress=progress
        )
    if join_processes().is_main_process:
        click.echo(str(out) if fresh else f"already embedded, nothing changed: {out}")
