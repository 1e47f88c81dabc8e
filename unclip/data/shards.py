"""Endless, shuffled streams of training samples from WebDataset shards.

A sample is `KEY.{png,jpg,webp}` with `KEY.txt` (one caption) or `KEY.json`, whose `captions` are several; the
stream draws one each time. `KEY.low.png` is the image as an upsampler's previous stage draws it.
`KEY.safetensors` holds CLIP's embeddings, beside the image or instead of it (see `unclip data embed`).
`KEY.npy` holds vectors of one's own. A stream depends on (seed, number, worker) alone. Bad samples are
skipped and counted.

An image is decoded once. The stage gets it at the stage's size, optionally as a random crop. The frozen CLIP
gets the uncropped image at CLIP's size, so z_i is the same for every stage, stored or not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, Self

import torch
import webdataset as wds
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from unclip.clip.preprocess import Preprocess
from unclip.data.config import DataConfig as DataConfig
from unclip.data.embeddings import EmbeddedText, Embeddings, find_embeddings, read_embedded
from unclip.data.sample import (
    SPARE,
    BadSample,
    Skipped,
    captions,
    described,
    label,
    pair,
    picture,
    scaled,
    vectors,
)
from unclip.data.shuffle import shuffled
from unclip.data.source import Unit, find_units
from unclip.data.tar import Sample
from unclip.errors import ConfigError, DataError
from unclip.images import to_bytes

log = logging.getLogger(__name__)

FOLDER_UNIT = 256  # image files of a folder that are read one after the other
ALL_SEEN = 30  # draws with replacement per unit after which every unit was most likely drawn
MIN_SAMPLES, MIN_SHARDS = 1000, 20  # read before a stream may fail for its share of bad samples


class Item(NamedTuple):
    """One sample of the stream, with the count of samples skipped since the last one."""

    key: str
    caption: str
    image: Tensor | None  # uint8 [crop, crop, 3]
    image_embed: Tensor | None  # [D]
    text: EmbeddedText | None
    skipped: Skipped
    label: int | None = None
    clip_image: Tensor | None = None  # uint8 [S, S, 3]
    low: Tensor | None = None  # uint8 [crop / factor, crop / factor, 3]
    vectors: Tensor | None = None  # float32 [count, width]


class Shards(NamedTuple):
    """The shards of one or several sources.

    Attributes:
        sources: pattern of shards, or path of a folder or table of images.
        sets: units of each source.
        weights: probability of each source, up to a factor.
        embeddings: record of the CLIP embeddings in the shards; None if there are none.
        share: share of the samples that is held out for validation.
        held_out: whether to read the samples that are held out; otherwise the others are read.
    """

    sources: tuple[str, ...]
    sets: tuple[tuple[Unit, ...], ...]
    weights: tuple[float, ...]
    embeddings: Embeddings | None
    share: float = 0.0
    held_out: bool = False

    @property
    def pattern(self) -> str:
        """The sources, for messages."""
        return ", ".join(self.sources)

    @property
    def paths(self) -> list[str]:
        """Path of each unit: the tar, or the folder of its first image."""
        return [unit.tar or str(Path(unit.entries[0].path).parent) for units in self.sets for unit in units]

    @classmethod
    def find(cls, source: str | Mapping[str, float], needs: frozenset[str]) -> Self:
        """Find shards. Their record of embeddings is read only if `needs` contains embeddings.

        Args:
            source: pattern of shards, folder or table of images, or a mapping of several to their weights.

        Raises:
            DataError: nothing matches, or the shards mix images and embeddings.
        """
        weights: Mapping[str, float] = {source: 1.0} if isinstance(source, str) else source
        found = cls(tuple(weights), tuple(map(_units, weights)), tuple(weights.values()), None)
        if not needs & {"image_embed", "text"}:
            return found
        return found._replace(
            embeddings=find_embeddings([f"{p}/" if Path(p).is_dir() else p for p in found.paths])
        )

    def wanted(self, source: int, unit: Unit, sample: Sample) -> bool:
        """Whether a sample of a source is on this side of the hold-out."""
        if not self.share:
            return True
        key, path = sample["__key__"], Path(self.sources[source])
        if unit.tar is None:  # the key of an image file is its path
            key = os.path.relpath(key, path if path.is_dir() else path.parent)
        return held_out(key, self.share) == self.held_out


def held_out(key: str, share: float) -> bool:
    """Whether the sample of a key is among the share that is held out; the same on every machine."""
    number = int.from_bytes(hashlib.blake2b(os.fsencode(key), digest_size=8).digest(), "big")
    return number < share * 2**64


def _units(source: str) -> tuple[Unit, ...]:
    """Split a source into units that are read one after the other; image files are shuffled first."""
    units = find_units(source, FOLDER_UNIT)
    entries = [entry for unit in units for entry in unit.entries]
    random.Random(0).shuffle(entries)
    parts = [Unit(None, tuple(entries[i : i + FOLDER_UNIT])) for i in range(0, len(entries), FOLDER_UNIT)]
    return (*(unit for unit in units if unit.tar is not None), *parts)


class Stream(IterableDataset[Item]):
    """An endless, shuffled stream of samples, different for each seed, number and worker.

    Args:
        needs: fields of `Batch` to fill; images are decoded only if a field needs them.
        size: side of the stage's image in pixels (resize the shorter side, then centre crop).
        crop: side of a random crop of that image. Default: `size`.
        preprocess: preprocessing of the frozen CLIP; needed if the shards do not hold z_i.
        vector_shape: (count, width) of a sample's vectors; needed if `needs` contains vectors. Captions are
            then optional.
        number: of the stream among those of a run. Every stream reads all shards, in an order of its own.
        shards: the shards of `config.shards`, if already found.

    Raises:
        ConfigError: images are needed, and there is no `size`.
        DataError: no shards match, or they hold embeddings without the images that are needed. While
            reading: the share of bad samples exceeds `max_bad`.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        needs: frozenset[str] = frozenset({"image"}),
        size: int | None = None,
        crop: int | None = None,
        preprocess: Preprocess | None = None,
        vector_shape: tuple[int, int] | None = None,
        seed: int = 0,
        number: int = 0,
        shards: Shards | None = None,
    ) -> None:
        self.config = config
        self.shards = shards or Shards.find(config.shards, needs)
        pattern, self.embeddings = self.shards.pattern, self.shards.embeddings
        self.seed, self.number = seed, number
        self.size = size if "image" in needs else None
        self.crop = crop or self.size
        self.scale_to = None if config.crop == "native" else self.size  # length of the shorter side
        if "image" in needs and size is None:
            raise ConfigError("the stage needs pictures, but has no `size`")
        if self.embeddings and not self.embeddings.pictures and "image" in needs:
            raise DataError(
                f"{pattern}: hold embeddings, and the stage needs pictures; give the original shards, or "
                "embed them with --keep-pictures"
            )
        self.preprocess = preprocess if self.embeddings is None and "image_embed" in needs else None
        self.labelled, self.paired = "label" in needs, "low" in needs
        self.vector_shape = vector_shape if "vectors" in needs else None

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        key = f"{self.seed}/{self.number}/{worker.id if worker else 0}"
        rng = random.Random(key)
        samples = self._mixed(rng.getrandbits(32))
        size, order = self.config.shuffle, random.Random(rng.getrandbits(32))
        self.opened = 0
        bad, fresh = Skipped(), Skipped()
        first: BadSample | None = None
        # Bad samples pass through the shuffle buffer too, so their counts follow the stream's order.
        for seen, sample in enumerate(shuffled(samples, size, order), start=1):
            try:
                item = self._item(sample, rng)
            except BadSample as error:
                log.info("%s: skipped %s", sample["__url__"], error)
                bad[sample["__url__"], error.reason] += 1
                fresh[sample["__url__"], error.reason] += 1
                first = first or error
                self._check_bad(bad, seen, first)
            else:
                yield item._replace(skipped=fresh)
                fresh = Skipped()

    def _mixed(self, seed: int) -> Iterator[Sample]:
        """Samples of the sources, in proportion to their weights."""
        sets, weights = self.shards.sets, self.shards.weights
        if len(sets) == 1:
            return self._read(0, seed)
        sources = [self._read(number, seed + 1 + number) for number in range(len(sets))]
        rng = random.Random(seed)
        return (next(rng.choices(sources, weights)[0]) for _ in count())

    def _read(self, source: int, seed: int) -> Iterator[Sample]:
        """Samples of a source's units, which are drawn with replacement, endlessly."""
        units = self.shards.sets[source]
        numbers = [str(number) for number in range(len(units))]
        drawn = wds.ResampledShards(numbers, seed=seed, deterministic=True, worker_seed=lambda: 0)
        found = False
        for opened, shard in enumerate(drawn):
            if not found and opened > ALL_SEEN * len(units):
                raise DataError(
                    f"{self.shards.pattern}: data.validation={self.shards.share:g} leaves no samples for "
                    f"{'validation' if self.shards.held_out else 'training'}; there are too few"
                )
            self.opened += 1
            unit = units[int(shard["url"])]
            for sample in unit.samples():
                if "__bad__" in sample or self.shards.wanted(source, unit, sample):
                    found = True
                    yield sample

    def _check_bad(self, bad: Skipped, seen: int, first: BadSample) -> None:
        """Raise DataError if too many samples are bad, once enough samples and shards are read."""
        enough = seen >= MIN_SAMPLES and self.opened > min(MIN_SHARDS, sum(map(len, self.shards.sets)))
        if enough and (bad.total() > self.config.max_bad * seen or bad.total() == seen):
            raise DataError(
                f"{bad.total()} of {seen} samples cannot be used, data.max_bad allows "
                f"{self.config.max_bad:.0%} (`unclip data check` lists them): {described(bad)}; the first is "
                f"{first}"
            )

    def _item(self, sample: Sample, rng: random.Random) -> Item:
        if self.paired:
            assert self.size and self.crop
            high, low = map(to_bytes, pair(sample, self.scale_to, self.crop, rng))
            return Item(sample["__key__"], "", high, None, None, Skipped(), low=low)
        if self.vector_shape:
            return self._with_vectors(sample, rng, self.vector_shape)
        image, clip_image = self._pictures(sample, rng)
        if self.embeddings is None:
            number, caption = label(sample) if self.labelled else None, rng.choice(captions(sample))
            return Item(sample["__key__"], caption, image, None, None, Skipped(), number, clip_image)
        found = read_embedded(sample, self.embeddings.width)
        i = rng.choice(range(len(found.captions)))
        text = found.texts[i] if found.texts else None
        return Item(sample["__key__"], found.captions[i], image, found.image_embed, text, Skipped())

    def _with_vectors(self, sample: Sample, rng: random.Random, shape: tuple[int, int]) -> Item:
        found = torch.from_numpy(vectors(sample, self.config.vectors, shape))
        item = Item(sample["__key__"], "", None, None, None, Skipped(), vectors=found)
        if self.embeddings is None:
            image, clip_image = self._pictures(sample, rng)
            return item._replace(image=image, clip_image=clip_image)
        return item._replace(image_embed=read_embedded(sample, self.embeddings.width).image_embed)

    def _pictures(self, sample: Sample, rng: random.Random) -> tuple[Tensor | None, Tensor | None]:
        """Decode an image for the stage and for the frozen CLIP; None for each that is not needed."""
        if self.preprocess is None:
            if self.size is None:
                return None, None
            return self._cropped(sample, picture(sample, self.scale_to), rng), None
        side = self.preprocess.size
        whole = picture(sample, side)  # decoded as in `unclip data embed`
        clip_image = to_bytes(self.preprocess.view(whole))
        if self.size is None:
            return None, clip_image
        # A JPEG may have been decoded too small for the stage.
        if self.scale_to is None or (side < self.scale_to and min(whole.size) < SPARE * self.scale_to):
            whole = picture(sample, self.scale_to)
        return self._cropped(sample, whole, rng), clip_image

    def _cropped(self, sample: Sample, whole: Image.Image, rng: random.Random) -> Tensor:
        assert self.size and self.crop
        if self.config.crop == "pad":
            image = ImageOps.pad(whole, (self.size, self.size), Image.Resampling.BICUBIC, "white")
        elif self.scale_to:
            image = scaled(whole, self.scale_to)
        elif min(whole.size) >= self.crop:
            image = whole
        else:
            raise BadSample(sample, "smaller than the crop", f"{whole.width} × {whole.height}")
        if self.crop < self.size or self.config.crop in ("random", "native"):
            left, top = rng.randint(0, image.width - self.crop), rng.randint(0, image.height - self.crop)
        else:
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        image = image.crop((left, top, left + self.crop, top + self.crop))
        if self.config.random_flip and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        return to_bytes(image)


class Streams(IterableDataset[Item]):
    """Interleaved streams: each batch holds an equal, contiguous share of every stream."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = streams
        self.config, self.embeddings = streams[0].config, streams[0].embeddings

    def __iter__(self) -> Iterator[Item]:
        sources = [iter(stream) for stream in self.streams]
        while True:
            for source in sources:
                yield from islice(source, self.config.batch // len(sources))
