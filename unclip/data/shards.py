"""From WebDataset shards to training batches.

A sample is `KEY.{png,jpg,webp}` with `KEY.txt` (one caption) or `KEY.json` whose `captions` holds several, of
which one is drawn each time; `KEY.safetensors`, what CLIP makes of them, may stand beside the picture or in
its place, as `unclip data embed` writes it. The stream is endless and depends on (seed, rank, worker) alone.
Bad samples are skipped and counted.

A picture is decoded once. The stage gets it at its own size, perhaps a random crop of it; the frozen CLIP
always gets the whole picture at its own size, so that z_i is the same for every stage, stored or not.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Self

import webdataset as wds
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from unclip.clip.preprocess import Preprocess
from unclip.config import Config
from unclip.data.embeddings import EmbeddedText, Embeddings, find_embeddings, read_embedded
from unclip.data.sample import SPARE, BadSample, Skipped, captions, described, label, picture, scaled
from unclip.data.tar import Sample, find_shards, read_shard
from unclip.errors import ConfigError, DataError
from unclip.images import to_bytes

log = logging.getLogger(__name__)

JUDGED_SAMPLES, JUDGED_SHARDS = 1000, 20  # read before a stream may be called too bad to go on


class DataConfig(Config):
    """Where the samples are and how they are batched.

    Attributes:
        shards: a path, glob or brace pattern of tar files, a `pipe:` command, or a URL that fsspec knows.
        batch: images per process and accumulated part of a step.
        workers: processes that read and decode.
        shuffle: samples in the shuffle buffer.
        calibration: number of images on which a new stage measures its statistics; embedded shards have them
            in shards.json.
        max_bad: share of samples that may be unusable; above it the run stops.
        validation: shards that are not trained on, for the validation loss.
    """

    shards: str
    batch: int = Field(ge=1)
    workers: int = Field(1, ge=0)
    shuffle: int = Field(2000, ge=1)
    calibration: int = Field(4096, ge=1)
    max_bad: float = Field(0.1, ge=0, le=1)
    validation: str | None = None


class Item(NamedTuple):
    """One sample of the stream, and what was skipped since the last one."""

    key: str
    caption: str
    image: Tensor | None  # uint8 [crop, crop, 3]
    image_embed: Tensor | None  # [D]
    text: EmbeddedText | None
    skipped: Skipped
    label: int | None = None
    clip_image: Tensor | None = None  # uint8 [S, S, 3]


class Shards(NamedTuple):
    """What a pattern names, looked up once.

    Attributes:
        pattern: that names them. paths: of the shards, sorted.
        embeddings: the record of what they hold of CLIP, if they do.
    """

    pattern: str
    paths: list[str]
    embeddings: Embeddings | None

    @classmethod
    def find(cls, pattern: str, needs: frozenset[str]) -> Self:
        """The shards; whether they are embedded ones is asked where a stage needs what CLIP makes of them.

        Raises:
            DataError: there are no such shards, or they do not go together.
        """
        paths = find_shards(pattern)
        return cls(pattern, paths, find_embeddings(paths) if needs & {"image_embed", "text"} else None)


class Stream(IterableDataset[Item]):
    """An endless, shuffled stream of samples, different for each rank and worker.

    Args:
        needs: the fields of `Batch` to fill; nothing is decoded that no field wants.
        size: side in pixels that the stage's picture is brought to (shorter side, then centre crop).
        crop: side of a random crop of that. Default: `size`.
        preprocess: of the frozen CLIP, to make z_i of pictures where the shards do not hold it.
        shards: those of the config, where they were looked up before.

    Raises:
        ConfigError: pictures are needed without a size. DataError: there are no such shards, or they hold
            embeddings alone where pictures are needed. While reading: the share of bad samples is above
                `max_bad`.
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
        rank: int = 0,
        shards: Shards | None = None,
    ) -> None:
        self.config = config
        pattern, self.paths, self.embeddings = shards or Shards.find(config.shards, needs)
        self.seed, self.rank = seed, rank
        self.size = size if "image" in needs else None
        self.crop = crop or self.size
        if "image" in needs and size is None:
            raise ConfigError("the stage needs pictures and does not say of which `size`")
        if self.embeddings and not self.embeddings.pictures and "image" in needs:
            raise DataError(
                f"{pattern}: hold embeddings, and the stage needs pictures; give the shards they were made "
                "of, "
                "or embed these with --keep-pictures"
            )
        self.preprocess = preprocess if self.embeddings is None and "image_embed" in needs else None
        self.labelled = "label" in needs

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        key = f"{self.seed}/{self.rank}/{worker.id if worker else 0}"
        rng = random.Random(key)
        shards = wds.ResampledShards(
            self.paths, seed=rng.getrandbits(32), deterministic=True, worker_seed=lambda: 0
        )
        size, order = self.config.shuffle, random.Random(rng.getrandbits(32))
        self.opened = 0
        bad, fresh = Skipped(), Skipped()
        # Bad samples go through the buffer as well, so that both kinds are counted in the order of the
        # stream.
        for seen, sample in enumerate(
            wds.shuffle(size, initial=size, rng=order)(self._read(shards)), start=1
        ):
            try:
                item = self._item(sample, rng)
            except BadSample as error:
                log.info("%s: skipped %s", sample["__url__"], error)
                bad[sample["__url__"], error.reason] += 1
                fresh[sample["__url__"], error.reason] += 1
                self._judge(bad, seen)
            else:
                yield item._replace(skipped=fresh)
                fresh = Skipped()

    def _read(self, shards: Iterable[dict[str, str]]) -> Iterator[Sample]:
        for shard in shards:
            self.opened += 1
            yield from read_shard(shard["url"])

    def _judge(self, bad: Skipped, seen: int) -> None:
        """Stops a stream that has read enough, and several shards or its only one wholly, and found too much
        bad.
        """
        enough = seen >= JUDGED_SAMPLES and self.opened > min(JUDGED_SHARDS, len(self.paths))
        if enough and (bad.total() > self.config.max_bad * seen or bad.total() == seen):
            raise DataError(
                f"{bad.total()} of {seen} samples cannot be used, data.max_bad allows "
                f"{self.config.max_bad:.0%} "
                f"(`unclip data check` lists them): {described(bad)}"
            )

    def _item(self, sample: Sample, rng: random.Random) -> Item:
        image, clip_image = self._pictures(sample, rng)
        if self.embeddings is None:
            number, said = label(sample) if self.labelled else None, rng.choice(captions(sample))
            return Item(sample["__key__"], said, image, None, None, Skipped(), number, clip_image)
        found = read_embedded(sample, self.embeddings.width)
        i = rng.choice(range(len(found.captions)))
        text = found.texts[i] if found.texts else None
        return Item(sample["__key__"], found.captions[i], image, found.image_embed, text, Skipped())

    def _pictures(self, sample: Sample, rng: random.Random) -> tuple[Tensor | None, Tensor | None]:
        """The stage's picture and the frozen CLIP's, of one decoding."""
        if self.preprocess is None:
            return None if self.size is None else self._cropped(picture(sample, self.size), rng), None
        whole = picture(
            sample, side := self.preprocess.size
        )  # as `unclip data embed` decodes it, for every stage
        clip_image = to_bytes(self.preprocess.view(whole))
        if self.size is None:
            return None, clip_image
        if side < self.size and min(whole.size) < SPARE * self.size:
            whole = picture(sample, self.size)  # a JPEG that may have been decoded too small for the stage
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
    """Several streams side by side: a portion of each in turn, which together make a batch."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = streams
        self.config, self.embeddings = streams[0].config, streams[0].embeddings

    def __iter__(self) -> Iterator[Item]:
        sources = [iter(stream) for stream in self.streams]
        while True:
            for source in sources:
                yield from islice(source, self.config.batch // len(sources))
