"""Batches of a run, independent of the number of processes and of interruptions.

The data come in `streams`. The global batch of a step is the concatenation of an equal portion of every
stream. Process r reads the r-th share of the streams, so it holds the r-th part of the rows. Accumulation
splits each stream's portion into consecutive parts. The random draws for an example are seeded by
(seed, step, row of the global batch).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from accelerate import Accelerator

from unclip.clip import Clip
from unclip.data.loader import batches, embed
from unclip.data.sample import Skipped
from unclip.data.shards import DataConfig, Shards, Stream, Streams
from unclip.errors import ConfigError
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.train.config import RunConfig
from unclip.train.encoders import Sources, needed_preprocess

CALIBRATION, VALIDATION = -1, -2  # seeds of these streams; seeds of training are not negative


def draw_seed(*parts: int | str) -> int:
    """Hash parts to a seed below 2**56."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest(), "big")


class Feed:
    """Batches of one process, on the device and with embeddings.

    Attributes:
        waited: seconds spent waiting for data.
        skipped: bad samples since the reader last cleared this counter.
    """

    def __init__(
        self,
        config: RunConfig,
        stage: Stage,
        clip: Clip | None,
        accelerator: Accelerator,
        streams: int,
        sources: Sources,
    ) -> None:
        processes = accelerator.num_processes
        if not streams_fit(streams, config.data.batch, processes):
            raise ConfigError(
                f"{config.name}: train.streams={streams} must be a multiple of the {processes} processes, "
                f"and data.batch={config.data.batch} one of the streams of each"
            )
        self.config, self.stage, self.clip = config, stage, clip
        self.accelerator, self.sources = accelerator, sources
        share = streams // processes
        self.own = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        self.portion = config.data.batch // share
        self.waited, self.skipped = 0.0, Skipped()

    def training(self, step: int) -> Iterator[Batch]:
        """Yield batches from step number `step` (from 0) on, endlessly.

        Streams are reopened at every multiple of save_every with a seed of their own, so that resuming is
        exact.
        """
        options = self.config.train
        every, parts, seed = options.save_every, options.accumulate, options.seed
        while True:
            opened = step - step % every
            source = self._open(self.config.data, self.sources.training, opened + seed * 1_000_003, self.own)
            source = islice(source, (step - opened) * parts, None)
            while step < opened + every:
                for part in range(parts):
                    # Not bound to a name, which would keep the images for CLIP in memory during the step.
                    yield self._ready(self._next(source), draw_seed(seed, step), part, parts)
                step += 1

    def _next(self, source: Iterator[Batch]) -> Batch:
        started = time.monotonic()
        batch = next(source)
        self.waited += time.monotonic() - started
        self.skipped.update(batch.skipped)
        return batch

    def calibration(self) -> Iterator[Batch]:
        """Yield batches on which a new stage measures its statistics; equal on every process."""
        data = self.config.data
        for batch in islice(
            self._open(data, self.sources.training, CALIBRATION, [0]), -(-data.calibration // data.batch)
        ):
            yield self._ready(batch, 0, 0, 1)

    def validation(self) -> Iterator[Batch]:
        """Yield batches of `data.validation`: always the same samples with the same draws."""
        train, shards = self.config.train, self.sources.validation
        assert shards is not None
        data = self.config.data.model_copy(update={"shuffle": 1, "workers": 0})
        count = -(-train.validation_images // (data.batch * self.accelerator.num_processes))
        for i, batch in enumerate(islice(self._open(data, shards, VALIDATION, self.own), count)):
            yield self._ready(batch, draw_seed("validation", i), 0, 1)

    def _open(self, data: DataConfig, shards: Shards, seed: int, streams: Sequence[int]) -> Iterator[Batch]:
        stage = self.stage
        preprocess = needed_preprocess(self.clip, stage, shards)
        made = [
            Stream(
                data,
                needs=stage.needs,
                size=stage.size,
                crop=stage.crop,
                preprocess=preprocess,
                vector_shape=stage.vector_shape,
                seed=seed,
                number=stream,
                shards=shards,
            )
            for stream in streams
        ]
        return batches(Streams(made))

    def _ready(self, batch: Batch, seed: int, part: int, parts: int) -> Batch:
        """Move a batch to the device, add the seeds of its draws, and embed it."""
        first = torch.tensor([(stream * parts + part) * self.portion for stream in self.own])
        rows = (first[:, None] + torch.arange(self.portion)).flatten()
        batch = replace(batch.to(self.accelerator.device), seeds=seed + rows)
        with self.accelerator.autocast():
            return embed(batch, self.clip, self.stage.needs)


def streams_fit(streams: int, batch: int, processes: int) -> bool:
    """Whether `streams` divide evenly among the processes, and a process's batch among its streams."""
    return streams % processes == 0 and batch % (streams // processes) == 0
