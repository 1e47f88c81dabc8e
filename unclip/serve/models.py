"""A server's models: under a name, on one device or several, in memory while they are used."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from unclip.vocabulary import prompt_words

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline


@dataclass(frozen=True)
class ModelFacts:
    """What stays known of a model whose weights are not in memory.

    Attributes:
        clip: identity of its CLIP.
        width: width D of an image embedding z_i.
        vocabulary: words that it was trained on; None for an open vocabulary.
    """

    clip: str
    width: int
    vocabulary: frozenset[str] | None

    @classmethod
    def of(cls, pipeline: Pipeline) -> ModelFacts:
        """Reads the facts of a loaded model.

        Raises:
            RequestError: it has no CLIP.
        """
        return cls(pipeline.clip.identity, pipeline.clip.width, pipeline.vocabulary)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that the model was not trained on; empty for an open vocabulary."""
        if self.vocabulary is None:
            return []
        return [word for word in dict.fromkeys(prompt_words(prompt)) if word not in self.vocabulary]


class ServedModel:
    """A model under a name, with one pipeline for each device of the server.

    A pipeline is used and dropped by the thread of its device only.

    Args:
        pipelines: the model on each device.
        name: by which requests choose it. Default: the model's own name.
        load: loads the pipeline of a device, by its number, after it was dropped; None if it never is.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        name: str | None = None,
        load: Callable[[int], Pipeline] | None = None,
    ) -> None:
        self.name, self._load = name or pipelines[0].name, load
        self.sizes, self.grid = pipelines[0].sizes, pipelines[0].grid
        self._pipelines: list[Pipeline | None] = list(pipelines)
        self._used = [time.monotonic()] * len(pipelines)
        self._facts: ModelFacts | None = None

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self._pipelines)

    @property
    def places(self) -> list[str]:
        """Devices in whose memory it is."""
        return [str(pipeline.device) for pipeline in self._pipelines if pipeline is not None]

    @property
    def loaded(self) -> bool:
        """Whether its weights are in the memory of any device."""
        return any(pipeline is not None for pipeline in self._pipelines)

    @property
    def facts(self) -> ModelFacts:
        """What is known of it, loaded or not."""
        pipelines = [pipeline for pipeline in self._pipelines if pipeline is not None]
        if self._facts is None:
            self._facts = ModelFacts.of(pipelines[0])
        return self._facts

    @contextmanager
    def use(self, device: int) -> Iterator[Pipeline]:
        """Yields the pipeline of a device, and loads it first if it was dropped.

        Raises:
            CheckpointError: its files are not there any more.
        """
        pipeline = self._pipelines[device]
        if pipeline is None:
            assert self._load is not None
            pipeline = self._pipelines[device] = self._load(device)
        try:
            yield pipeline
        finally:
            self._used[device] = time.monotonic()

    def drop_idle(self, device: int, after: float) -> float | None:
        """Frees the memory of a device's pipeline that was not used for `after` seconds.

        Returns:
            Seconds until it is time; None if the pipeline is not in memory.
        """
        if self._load is None or self._pipelines[device] is None:
            return None
        if (left := self._used[device] + after - time.monotonic()) > 0:
            return left
        _ = self.facts
        self._pipelines[device] = None
        _return_memory()
        return None


def _return_memory() -> None:
    """Returns freed memory to the system: of tensors on CUDA devices, and of small ones in the C library."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return
