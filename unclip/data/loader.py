"""Batches of a stream: worker processes, collation, and the frozen CLIP's part."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unclip.clip import Clip, Text
from unclip.data.embeddings import joined
from unclip.data.sample import Skipped
from unclip.data.shards import Item, Stream, Streams
from unclip.errors import DataError
from unclip.images import from_bytes
from unclip.stages.batch import Batch

_workers: WeakSet[BaseProcess] = WeakSet()  # of our loaders; those of the host program are left alone


def batches(stream: Stream | Streams) -> Iterator[Batch]:
    """Yield batches of a stream. Images are uint8 [B, H, W, 3]; `embed` converts them."""
    workers = stream.config.workers
    loader = DataLoader(
        stream,
        batch_size=stream.config.batch,
        num_workers=workers,
        collate_fn=partial(_collate, null=stream.embeddings.null if stream.embeddings else None),
        prefetch_factor=4 if workers else None,
        drop_last=True,
        generator=torch.Generator(),  # the global generator would lose a draw, and resuming its exactness
        worker_init_fn=_ignore_stop_signals if workers else None,
    )
    try:
        yield from _started(loader)
    except DataError as error:
        # The message of an error in a worker is the worker's whole traceback.
        name = f"{DataError.__module__}.{DataError.__name__}: "
        raise DataError(str(error).strip().splitlines()[-1].removeprefix(name)) from None


def _started(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Start the loader's workers, and have those that are left at exit killed."""
    iterator = iter(loader)
    if loader.num_workers:
        _workers.update(iterator._workers)  # type: ignore[attr-defined]
        _register_exit(os.getpid())
    return iterator


def _ignore_stop_signals(_: int) -> None:
    """Let a worker survive signals to the whole process group, as its trainer still saves a checkpoint."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@cache
def _register_exit(pid: int) -> None:
    """Let process `pid`, this one, kill its loaders' workers at exit, before Python joins child processes."""
    Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    """Kill the workers of loaders that are still open: they ignore the SIGTERM that Python sends at exit."""
    left = [worker for worker in _workers if worker.is_alive()]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for each killed worker
    for worker in left:
        worker.kill()


def _collate(items: list[Item], null: Text | None) -> Batch:
    captions = tuple(item.caption for item in items)
    images = [item.image for item in items if item.image is not None]
    clip_images = [item.clip_image for item in items if item.clip_image is not None]
    lows = [item.low for item in items if item.low is not None]
    embeds = [item.image_embed for item in items if item.image_embed is not None]
    texts = [item.text for item in items if item.text is not None]
    vectors = [item.vectors for item in items if item.vectors is not None]
    labels = [item.label for item in items if item.label is not None]
    return Batch(
        captions=captions,
        image=torch.stack(images) if images else None,
        low=torch.stack(lows) if lows else None,
        image_embed=torch.stack(embeds) if embeds else None,
        # A batch can mix samples with and without token states if shards do not fit their record.
        text=joined(captions, texts) if len(texts) == len(items) else None,
        null=null,
        clip_image=torch.stack(clip_images) if clip_images else None,
        label=torch.tensor(labels) if len(labels) == len(items) else None,
        keys=tuple(item.key for item in items),
        vectors=torch.stack(vectors) if vectors else None,
        skipped=sum((item.skipped for item in items), Skipped()),
    )


def embed(batch: Batch, clip: Clip | None, needs: frozenset[str]) -> Batch:
    """Convert a batch's images to floats and compute the embeddings that the shards do not hold.

    Runs on the batch's device: bytes are a quarter of the data to transfer.

    Args:
        batch: of `batches`, on the stage's device.
        clip: the frozen CLIP; None if the shards hold all embeddings that the stage needs.
        needs: fields of `Batch` that the stage reads.
    """
    if batch.image is not None:
        batch = replace(batch, image=from_bytes(batch.image))
    if batch.low is not None:
        batch = replace(batch, low=from_bytes(batch.low))
    if batch.text is not None:  # stored and moved in half precision
        batch = replace(batch, text=batch.text.to(batch.text.embed.device, torch.float32))
    if clip is None:
        return batch
    if "image_embed" in needs and batch.image_embed is None:
        assert batch.clip_image is not None
        z_i = _plain(clip.encode_image(from_bytes(batch.clip_image)))
        batch = replace(batch, image_embed=z_i, clip_image=None)
    if "text" in needs and batch.text is None:
        both = _plain_text(clip.encode_text([*batch.captions, ""]))
        batch = replace(batch, text=both.rows(None, -1), null=both.rows(-1, None))
    elif "text" in needs and batch.null is None:  # stored with the captions, but not in all of the shards
        batch = replace(batch, null=_plain_text(clip.encode_text([""])))
    return batch


def _plain_text(text: Text) -> Text:
    return text._replace(embed=_plain(text.embed), tokens=_plain(text.tokens))


def _plain(x: Tensor) -> Tensor:
    """Copy a tensor out of inference mode: autograd refuses to save inference tensors."""
    return x.clone().float()
