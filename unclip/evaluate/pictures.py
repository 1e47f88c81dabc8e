"""Image sets to measure: files in folders or shards, or images that a model generates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from unclip.data.sample import BadSample, captions, image_suffix, picture
from unclip.data.source import Unit, find_units
from unclip.data.tar import Sample
from unclip.errors import DataError, RequestError
from unclip.text import legible, lines, parse_json, read_text

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

FILES_IN_A_UNIT = 1000


class Pictures(Protocol):
    """A set of images in a fixed order."""

    @property
    def name(self) -> str:
        """Name of the set, as the user gave it."""

    def content(self) -> str | None:
        """Hash of all images, as the key of a cache; None if the set cannot be cached."""

    def captions(self) -> Sequence[Sequence[str]]:
        """Return all captions of each image, at least one.

        Raises:
            DataError: an image has no caption.
        """

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        """Yield images `start`, `start` + `step`, …: the share of one of several processes."""


@dataclass(frozen=True)
class PictureFiles:
    """Images in files. An unreadable image is an error, as skipping it would measure another set."""

    name: str
    units: tuple[Unit, ...]

    @classmethod
    def at(cls, source: str) -> PictureFiles:
        """Find the images of a folder, a table or shards.

        Raises:
            DataError: there are none.
        """
        return cls(source, tuple(find_units(source, FILES_IN_A_UNIT)))

    def content(self) -> str:
        whole = hashlib.blake2b(digest_size=16)
        try:
            for sample in self.samples():
                whole.update(hashlib.blake2b(sample[image_suffix(sample)], digest_size=16).digest())
        except BadSample as error:
            raise DataError(f"{self.name}: {error}") from None
        return whole.hexdigest()

    def labels(self, key: str | None) -> list[str]:
        """Return the class of each image.

        Args:
            key: key in the sample's JSON, e.g. `scene.subject`. None takes the name of the image's folder.

        Raises:
            DataError: an image has no class.
        """
        return [str(one) for one in self.fields(key)]

    def fields(self, key: str | None) -> list[Any]:
        """Return a field of each sample's JSON, or the name of its folder.

        Raises:
            DataError: a sample has no such field.
        """
        return [_label(sample, key, self.name) for sample in self.samples()]

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        try:
            for sample in islice(self.samples(), start, None, step):
                yield picture(sample)
        except BadSample as error:
            raise DataError(f"{self.name}: {error}") from None

    def captions(self) -> list[list[str]]:
        try:
            return [captions(sample) for sample in self.samples()]
        except BadSample as error:
            raise DataError(f"{self.name}: {error}") from None

    def samples(self) -> Iterator[Sample]:
        """Yield the samples, in the images' order."""
        for unit in self.units:
            yield from unit.samples()


@dataclass(frozen=True)
class CaptionedPictures:
    """Image files with captions that come from elsewhere, one per image."""

    pictures: PictureFiles
    prompts: Sequence[str]

    @property
    def name(self) -> str:
        return self.pictures.name

    def content(self) -> str:
        return self.pictures.content()

    def captions(self) -> list[list[str]]:
        count = sum(1 for _ in self.pictures.samples())
        if count != len(self.prompts):
            raise DataError(
                f"{self.name}: {count} pictures and {len(self.prompts)} captions; captions need a line for "
                "each picture, in the order of their names"
            )
        return [[prompt] for prompt in self.prompts]

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        return self.pictures.read(start, step)


@dataclass(frozen=True)
class GeneratedPictures:
    """Images that a model generates, one per caption; image i has the seed `seed` + i."""

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

    def captions(self) -> list[list[str]]:
        return [[prompt] for prompt in self.prompts]

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        numbers = range(start, len(self.prompts), step)
        for first in range(0, len(numbers), self.batch):
            part = numbers[first : first + self.batch]
            prompts = [self.prompts[i] for i in part]
            made = self.pipeline.generate(
                prompts, seeds=[self.seed + i for i in part], size=self.size, watermark=False
            )
            yield from made.images


def read_prompts(source: str) -> list[str]:
    """Read the lines of a .txt file, or the first caption of each image of a folder or of shards.

    Raises:
        DataError: there is no such source.
        RequestError: it holds no captions.
    """
    path = Path(source)
    if path.suffix.lower() == ".txt" and path.is_file():
        found = [line.strip() for line in lines(read_text(path)) if line.strip()]
    else:
        found = [several[0] for several in PictureFiles.at(source).captions()]
    if not found:
        raise RequestError(f"{source}: no captions in it")
    return found


def _label(sample: Sample, key: str | None, name: str) -> Any:
    where = f"{name}: {sample['__key__']}"
    if key is None:
        if "/" not in sample["__key__"]:
            raise DataError(f"{where}: shards have no folders for classes; --label names the key of the JSON")
        return legible(Path(sample["__key__"]).parent.name)
    try:
        found: Any = parse_json(sample.get("json", b"{}"))
        for part in key.split("."):
            found = found[part]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{where}: its JSON has no {key!r}") from None
    return found
