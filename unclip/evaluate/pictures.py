"""What is measured: pictures in a folder or in shards, or those that a model paints of captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from unclip.data.sample import BadSample, captions, image_suffix, picture
from unclip.data.source import Unit, find_units
from unclip.data.tar import Sample
from unclip.errors import DataError, RequestError

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

FILES_IN_A_UNIT = 1000


class Pictures(Protocol):
    """A set of pictures in a fixed order."""

    @property
    def name(self) -> str:
        """As the user gave it."""

    def content(self) -> str | None:
        """A hash of all it holds, by which its features may be kept; None if they may not."""

    def captions(self) -> Sequence[str]:
        """One of each picture.

        Raises:
            DataError: one of them has none.
        """

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        """Every step-th picture from number `start` on: the share of one process of several."""


@dataclass(frozen=True)
class Found:
    """Pictures in files. One that cannot be read is an error: a measure of the others would be one of another
    set.
    """

    name: str
    units: tuple[Unit, ...]

    @classmethod
    def at(cls, source: str) -> Found:
        """Those of a folder, a table or shards.

        Raises:
            DataError: none there.
        """
        return cls(source, tuple(find_units(source, FILES_IN_A_UNIT)))

    def content(self) -> str:
        whole = hashlib.blake2b(digest_size=16)
        try:
            for sample in self._samples():
                whole.update(hashlib.blake2b(sample[image_suffix(sample)], digest_size=16).digest())
        except BadSample as error:
            raise DataError(f"{self.name}: {error}") from None
        return whole.hexdigest()

    def labels(self, key: str | None) -> list[str]:
        """The class of each picture.

        Args:
            key: where its JSON has it, as `scene.subject`; None takes the name of the picture's own folder.

        Raises:
            DataError: one of them has none.
        """
        return [_label(sample, key, self.name) for sample in self._samples()]

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        try:
            for sample in islice(self._samples(), start, None, step):
                yield picture(sample)
        except BadSample as error:
            raise DataError(f"{self.name}: {error}") from None

    def captions(self) -> list[str]:
        try:
            return [captions(sample)[0] for sample in self._samples()]
        except BadSample as error:
            raise DataError(f"{self.name}: {error}") from None

    def _samples(self) -> Iterator[Sample]:
        for unit in self.units:
            yield from unit.samples()


@dataclass(frozen=True)
class Painted:
    """Pictures that a model paints, one of each caption; picture i has the seed `seed` + i, in whatever
    process.
    """

    pipeline: Pipeline
    prompts: Sequence[str]
    size: int
    seed: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.pipeline.name}: {len(self.prompts)} captions"

    def content(self) -> None:
        return None

    def captions(self) -> Sequence[str]:
        return self.prompts

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        numbers = range(start, len(self.prompts), step)
        for first in range(0, len(numbers), self.batch):
            part = numbers[first : first + self.batch]
            said = [self.prompts[i] for i in part]
            made = self.pipeline.generate(
                said, seeds=[self.seed + i for i in part], size=self.size, watermark=False
            )
            yield from made.images


def read_prompts(source: str) -> list[str]:
    """A text file's lines, or the captions of a folder or of shards.

    Raises:
        DataError: nothing there. RequestError: not a single caption in it.
    """
    path = Path(source)
    if path.suffix == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line]
    else:
        found = Found.at(source).captions()
    if not found:
        raise RequestError(f"{source}: no captions in it")
    return found


def _label(sample: Sample, key: str | None, name: str) -> str:
    where = f"{name}: {sample['__key__']}"
    if key is None:
        if "/" not in sample["__key__"]:
            raise DataError(f"{where}: shards have no folders for classes; --label names the key of the JSON")
        return Path(sample["__key__"]).parent.name
    try:
        found = json.loads(sample.get("json", b"{}"))
        for part in key.split("."):
            found = found[part]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{where}: its JSON has no {key!r}") from None
    return str(found)
