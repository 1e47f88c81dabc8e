"""From WebDataset shards to training batches.

A sample is `KEY.{png,jpg,webp}` with `KEY.txt` (one caption) or `KEY.json` whose `captions` holds several, of which
one is drawn each time. The stream is endless and depends on (seed, rank, worker) alone.
"""

from __future__ import annotations

import io
import json
import logging
import random
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unclip.clip import Clip
from unclip.config import Config
from unclip.errors import DataError
from unclip.images import to_tensor
from unclip.stages.base import Batch

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp")
# What a damaged sample can raise while it is read; Pillow has a SyntaxError for some broken PNGs.
BAD_SAMPLE = (DataError, OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)


class DataConfig(Config):
    """Where the samples are and how they are batched.

    Attributes:
        shards: a path, glob or brace pattern of tar files.
        batch: images per step and device.
        workers: processes that read and decode.
        shuffle: samples kept in the shuffle buffer.
        calibration: images on which a fresh stage measures its statistics.
        validation: shards that are not trained on, for the validation loss.
    """

    shards: str
    batch: int = Field(ge=1)
    workers: int = Field(1, ge=0)
    shuffle: int = Field(2000, ge=1)
    calibration: int = Field(4096, ge=1)
    validation: str | None = None


def find_shards(pattern: str) -> list[str]:
    """The shard files a path, glob or brace pattern names, sorted."""
    try:
        names = list(braceexpand(pattern))
    except UnbalancedBracesError:
        names = [pattern]
    found = sorted({match for one in names for match in (glob(one) or [one]) if Path(match).is_file()})
    if not found:
        raise DataError(f"{pattern}: no such shards; `unclip data menagerie` makes some")
    return found


def read_samples(paths: list[str]) -> Iterator[dict[str, Any]]:
    """Every raw sample of the shards once, in order."""
    yield from wds.DataPipeline(
        wds.SimpleShardList(paths), wds.tarfile_to_samples(handler=wds.handlers.warn_and_continue)
    )


def picture(sample: dict[str, Any]) -> Image.Image:
    """The sample's decoded picture."""
    for suffix in IMAGE_SUFFIXES:
        if suffix in sample:
            return Image.open(io.BytesIO(sample[suffix])).convert("RGB")
    raise DataError(f"sample {sample['__key__']}: holds no picture")


def captions(sample: dict[str, Any]) -> list[str]:
    """All captions of the sample."""
    if "json" in sample:
        about = json.loads(sample["json"])
        several = about.get("captions") if isinstance(about, dict) else None
        if several:
            return [several] if isinstance(several, str) else [str(c) for c in several]
    if "txt" in sample:
        return [sample["txt"].decode("utf-8").strip()]
    raise DataError(f"sample {sample['__key__']}: holds no caption")


class Stream(IterableDataset[tuple[Tensor | None, str, str]]):
    """An endless, shuffled stream of (picture, caption, key), different for each rank and worker.

    Args:
        resolution: side in pixels the picture is brought to (shorter side, then centre crop).
        crop: side of a random crop of that.
        decode: False leaves pictures out, for a stage that needs none.
    """

    def __init__(
        self, config: DataConfig, *, resolution: int, crop: int, decode: bool = True, seed: int = 0, rank: int = 0
    ) -> None:
        self.paths, self.config = find_shards(config.shards), config
        self.resolution, self.crop, self.decode = resolution, crop, decode
        self.seed, self.rank = seed, rank
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[Tensor | None, str, str]]:
        worker = get_worker_info()
        key = f"{self.seed}/{self.rank}/{worker.id if worker else 0}"
        rng = random.Random(key)
        source = wds.DataPipeline(
            wds.ResampledShards(self.paths, seed=rng.getrandbits(32), deterministic=True, worker_seed=lambda: 0),
            wds.tarfile_to_samples(handler=wds.handlers.warn_and_continue),
            wds.shuffle(self.config.shuffle, initial=self.config.shuffle, rng=random.Random(rng.getrandbits(32))),
        )
        for sample in source:
            try:
                image = self._image(sample, rng) if self.decode else None
                yield image, rng.choice(captions(sample)), sample["__key__"]
            except BAD_SAMPLE as error:
                self.skipped += 1
                log.warning("skipped sample %s: %s (%d so far)", sample.get("__key__"), error, self.skipped)

    def _image(self, sample: dict[str, Any], rng: random.Random) -> Tensor:
        image = picture(sample)
        if min(image.size) != self.resolution:
            scale = self.resolution / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        if self.crop < self.resolution:
            left, top = rng.randint(0, image.width - self.crop), rng.randint(0, image.height - self.crop)
        else:
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        return to_tensor(image.crop((left, top, left + self.crop, top + self.crop)))


class Streams(IterableDataset[tuple[Tensor | None, str, str]]):
    """Several streams side by side: a portion of each in turn, which together make a batch."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams, self.config = streams, streams[0].config

    def __iter__(self) -> Iterator[tuple[Tensor | None, str, str]]:
        sources = [iter(stream) for stream in self.streams]
        while True:
            for source in sources:
                yield from islice(source, self.config.batch // len(sources))


def batches(stream: Stream | Streams) -> Iterator[Batch]:
    """The stream in batches."""
    loader = DataLoader(
        stream, batch_size=stream.config.batch, num_workers=stream.config.workers, collate_fn=_collate,
        prefetch_factor=4 if stream.config.workers else None, drop_last=True,
        # A loader without a generator draws from the global one each time it is opened: resuming would not be exact.
        generator=torch.Generator(),
        worker_init_fn=_outlive_signals if stream.config.workers else None,
    )  # fmt: skip
    yield from loader


def _outlive_signals(_: int) -> None:
    """In a worker: what tells the whole process group to stop must not end the worker, whose trainer still saves."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _collate(samples: list[tuple[Tensor | None, str, str]]) -> Batch:
    images, captions_, keys = zip(*samples)
    return Batch(captions_, None if images[0] is None else torch.stack(images), keys=keys)


def embed(batch: Batch, clip: Clip | None, needs: frozenset[str]) -> Batch:
    """Fills in what the stage needs of the frozen encoders: z_i, the encoded captions and the empty one."""
    if clip is None:
        return batch
    if "image_embed" in needs:
        assert batch.image is not None
        batch = replace(batch, image_embed=_plain(clip.encode_image(batch.image)))
    if "text" in needs:
        both = clip.encode_text([*batch.captions, ""])
        both = type(both)(both.captions, both.ids, both.mask, _plain(both.embed), _plain(both.tokens))
        batch = replace(batch, text=both.rows(None, -1), null=both.rows(-1, None))
    return batch


def _plain(x: Tensor) -> Tensor:
    """An ordinary tensor: autograd refuses to save those made in inference mode."""
    return x.clone().float()
