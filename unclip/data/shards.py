"""Endless, shuffled streams of training samples from WebDataset shards.

A sample is `KEY.{png,jpg,webp}` with `KEY.txt` (one caption) or `KEY.json`, whose `captions` are several; the
stream draws one each time. `KEY.safetensors` holds CLIP's embeddings, beside the image or instead of it
(see `unclip data embed`). A stream depends on (seed, number, worker) alone. Bad samples are skipped and counted.

An image is decoded once. The stage gets it at the stage's size, optionally as a random crop. The frozen CLIP
gets the uncropped image at CLIP's size, so z_i is the same for every stage, stored or not.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self

import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from unclip.clip.preprocess import Preprocess
from unclip.data.config import DataConfig as DataConfig
from unclip.data.embeddings import EmbeddedText, Embeddings, find_embeddings, read_embedded
from unclip.data.sample import SPARE, BadSample, Skipped, captions, described, label, picture, scaled
from unclip.data.tar import Sample, find_shards, read_shard
from unclip.errors import ConfigError, DataError
from unclip.images import to_bytes

log = logging.getLogger(__name__)

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


class Shards(NamedTuple):
    """The shards that a pattern matches.

    Attributes:
        pattern: path, glob, brace pattern, command or URL.
        paths: matching shards, sorted.
        embeddings: record of the CLIP embeddings in the shards; None if there are none.
    """

    pattern: str
    paths: list[str]
    embeddings: Embeddings | None

    @classmethod
    def find(cls, pattern: str, needs: frozenset[str]) -> Self:
        """Find shards. Their record of embeddings is read only if `needs` contains embeddings.

        Raises:
            DataError: nothing matches, or the shards mix images and embeddings.
        """
        paths = find_shards(pattern)
        return cls(pattern, paths, find_embeddings(paths) if needs & {"image_embed", "text"} else None)


class Stream(IterableDataset[Item]):
    """An endless, shuffled stream of samples, different for each seed, number and worker.

    Args:
        needs: fields of `Batch` to fill; images are decoded only if a field needs them.
        size: side of the stage's image in pixels (resize the shorter side, then centre crop).
        crop: side of a random crop of that image. Default: `size`.
        preprocess: preprocessing of the frozen CLIP; needed if the shards do not hold z_i.
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
        seed: int = 0,
        number: int = 0,
        shards: Shards | None = None,
    ) -> None:
        self.config = config
        pattern, self.paths, self.embeddings = shards or Shards.find(config.shards, needs)
        self.seed, self.number = seed, number
        self.size = size if "image" in needs else None
        self.crop = crop or self.size
        if "image" in needs and size is None:
            raise ConfigError("the stage needs pictures, but has no `size`")
        if self.embeddings and not self.embeddings.pictures and "image" in needs:
            raise DataError(
                f"{pattern}: hold embeddings, and the stage needs pictures; give the original shards, or "
                "embed them with --keep-pictures"
            )
        self.preprocess = preprocess if self.embeddings is None and "image_embed" in needs else None
        self.labelled = "label" in needs

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        key = f"{self.seed}/{self.number}/{worker.id if worker else 0}"
        rng = random.Random(key)
        shards = wds.ResampledShards(
            self.paths, seed=rng.getrandbits(32), deterministic=True, worker_seed=lambda: 0
        )
        size, order = self.config.shuffle, random.Random(rng.getrandbits(32))
        self.opened = 0
        bad, fresh = Skipped(), Skipped()
        # Bad samples pass through the shuffle buffer too, so their counts follow the stream's order.
        for seen, sample in enumerate(
            wds.shuffle(size, initial=size, rng=order)(self._read(shards)), start=1
        ):
            try:
                item = self._item(sample, rng)
            except BadSample as error:
                log.info("%s: skipped %s", sample["__url__"], error)
                bad[sample["__url__"], error.reason] += 1
                fresh[sample["__url__"], error.reason] += 1
                self._check_bad(bad, seen)
            else:
                yield item._replace(skipped=fresh)
                fresh = Skipped()

    def _read(self, shards: Iterable[dict[str, str]]) -> Iterator[Sample]:
        for shard in shards:
            self.opened += 1
            yield from read_shard(shard["url"])

    def _check_bad(self, bad: Skipped, seen: int) -> None:
        """Raise DataError if too many samples are bad, once enough samples and shards are read."""
        enough = seen >= MIN_SAMPLES and self.opened > min(MIN_SHARDS, len(self.paths))
        if enough and (bad.total() > self.config.max_bad * seen or bad.total() == seen):
            raise DataError(
                f"{bad.total()} of {seen} samples cannot be used, data.max_bad allows "
                f"{self.config.max_bad:.0%} (`unclip data check` lists them): {described(bad)}"
            )

    def _item(self, sample: Sample, rng: random.Random) -> Item:
        image, clip_image = self._pictures(sample, rng)
        if self.embeddings is None:
            number, caption = label(sample) if self.labelled else None, rng.choice(captions(sample))
            return Item(sample["__key__"], caption, image, None, None, Skipped(), number, clip_image)
        found = read_embedded(sample, self.embeddings.width)
        i = rng.choice(range(len(found.captions)))
        text = found.texts[i] if found.texts else None
        return Item(sample["__key__"], found.captions[i], image, found.image_embed, text, Skipped())

    def _pictures(self, sample: Sample, rng: random.Random) -> tuple[Tensor | None, Tensor | None]:
        """Decode an image for the stage and for the frozen CLIP; None for each that is not needed."""
        if self.preprocess is None:
            return None if self.size is None else self._cropped(picture(sample, self.size), rng), None
        side = self.preprocess.size
        whole = picture(sample, side)  # decoded as in `unclip data embed`
        clip_image = to_bytes(self.preprocess.view(whole))
        if self.size is None:
            return None, clip_image
        if side < self.size and min(whole.size) < SPARE * self.size:
            whole = picture(sample, self.size)  # a JPEG may have been decoded too small for the stage
        return self._cropped(whole, rng), clip_image

    def _cropped(self, whole: Image.Image, rng: random.Random) -> Tensor:
        assert self.size and self.crop
        image = scaled(whole, self.size)
        if self.crop < self.size:
            left, top = rng.randint(0, image.width - self.crop), rng.randint(0, image.height - self.crop)
        else:
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        return to_bytes(image.crop((left, top, left + self.crop, top + self.crop)))


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
