"""Precompute CLIP embeddings of shards, so that training need not run CLIP.

Every process embeds its share of the shards; the one that finishes last writes the record. See `embeddings`
for the format.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unclip.clip import Clip
from unclip.data.embeddings import RECORD, find_embeddings
from unclip.data.sample import BadSample, Skipped, captions, described, image_suffix, picture
from unclip.data.tar import Progress, Sample, find_shards, read_record, read_shard, write_record, write_shard
from unclip.device import join_processes
from unclip.errors import DataError
from unclip.images import from_bytes, to_bytes
from unclip.models.resolve import load_clip

NOTES = ".embed"  # folder of the statistics of each shard


def embed_shards(
    pattern: str,
    out: Path,
    ref: str,
    *,
    batch: int,
    tokens: bool = True,
    keep_pictures: bool = False,
    progress: Progress = lambda done, of: None,
) -> None:
    """Embed shards into shards of the same names in `out`.

    Args:
        ref: reference of the CLIP, see `unclip.models.resolve`.
        batch: images per batch.
        tokens: store the captions' token states; without them, training still runs the text tower.
        keep_pictures: also store the image and caption files, for stages that train on both.
        progress: called with the number of shards done and in total, of this process.

    Raises:
        DataError: two shards have the same name, the shards hold embeddings already, no sample is usable, or
            `out` holds other embeddings.
    """
    paths = find_shards(pattern)
    if find_embeddings(paths):
        raise DataError(f"{pattern}: hold embeddings already; give the shards with the pictures")
    names = _names(paths)
    state = join_processes()
    clip = load_clip(ref).to(state.device)
    _begin(out, {"clip": clip.identity, "tokens": tokens, "shards": names, "pictures": keep_pictures})
    share = list(zip(paths, names))[state.process_index :: state.num_processes]
    for done, (path, name) in enumerate(share, start=1):
        if not (note := out / NOTES / f"{name}.json").exists():
            _embed_shard(path, out / f"{name}.tar", note, Encoder(clip, batch, tokens, keep_pictures))
        progress(done, len(share))
    if all((out / NOTES / f"{name}.json").exists() for name in names):
        _finish(out, clip, names, tokens, keep_pictures)
    state.destroy_process_group()


class Encoder:
    """Encodes samples with CLIP; accumulates statistics of z_i and counts skipped samples."""

    def __init__(self, clip: Clip, batch: int, tokens: bool, keep_pictures: bool) -> None:
        self.clip, self.batch, self.tokens, self.keep_pictures = clip, batch, tokens, keep_pictures
        self.count, self.skipped = 0, Skipped()
        self.sum = torch.zeros(clip.width, dtype=torch.float64)
        self.square = torch.zeros(clip.width, dtype=torch.float64)

    def encode(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Yield the encoded samples in order, without the bad ones."""
        good = self._decoded(samples)
        while part := list(islice(good, self.batch)):
            yield from self._encode(part)

    def _decoded(self, samples: Iterator[Sample]) -> Iterator[tuple[Sample, list[str], Tensor]]:
        preprocess = self.clip.preprocess
        for sample in samples:
            try:
                listed, image = captions(sample), picture(sample, preprocess.size)
            except BadSample as error:
                self.skipped[sample["__url__"], error.reason] += 1
                continue
            yield sample, listed, to_bytes(preprocess.view(image))

    def _encode(self, part: list[tuple[Sample, list[str], Tensor]]) -> Iterator[Sample]:
        images = self.clip.encode_image(from_bytes(torch.stack([image for *_, image in part]))).float().cpu()
        texts = self.clip.encode_text([one for _, listed, _ in part for one in listed]).to("cpu")
        start = 0
        for (sample, listed, _), image_embed in zip(part, images):
            text = texts.rows(start, start + len(listed))
            start += len(listed)
            tensors = {"image_embed": image_embed.clone(), "text_embed": text.embed.float().clone()}
            if self.tokens:
                tensors |= {
                    "ids": text.ids[text.mask].int(),
                    "tokens": text.tokens[text.mask].half(),
                    "lengths": text.mask.sum(1).int(),
                }
            self.count += 1
            self.sum += image_embed.double()
            self.square += image_embed.double() ** 2
            kept = {"json": json.dumps({"captions": listed}, ensure_ascii=False).encode()}
            if self.keep_pictures:
                kept = {
                    suffix: sample[suffix]
                    for suffix in (image_suffix(sample), "txt", "json")
                    if suffix in sample
                }
            yield {"__key__": sample["__key__"], **kept, "safetensors": save(tensors)}


def _names(paths: list[str]) -> list[str]:
    names = [path.rpartition("/")[2].removesuffix(".tar") for path in paths]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"two of the shards are called {twice[0]}; embed each folder into one of its own")
    return names


def _begin(out: Path, this: dict[str, Any]) -> None:
    before = read_record(str(out / NOTES / "job.json"))
    if before is None and (any(out.glob("*.tar")) or (out / RECORD).exists()):
        raise DataError(f"{out}: holds other shards; give an empty folder")
    before = before and {"pictures": False, **before}  # earlier versions had no such option
    for key in this if before else ():
        if before and before.get(key) != this[key]:
            what = {
                "clip": f"of CLIP {before.get(key)}, not of {this[key]}",
                "pictures": f"{'with' if before[key] else 'without'} the pictures kept beside them",
            }.get(key, f"of other {key}")
            raise DataError(f"{out}: holds embeddings {what}; give an empty folder")
    try:
        (out / NOTES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None
    write_record(out / NOTES / "job.json", this)


def _embed_shard(path: str, target: Path, note: Path, encoder: Encoder) -> None:
    """Write a shard, then its statistics. A shard without statistics is written again on resume."""
    encoded = encoder.encode(read_shard(path))
    for first in islice(encoded, 1):  # no empty shards
        write_shard(target, chain([first], encoded))
    write_record(
        note,
        {
            "count": encoder.count,
            "sum": encoder.sum.tolist(),
            "square": encoder.square.tolist(),
            "skipped": [[shard, reason, n] for (shard, reason), n in sorted(encoder.skipped.items())],
        },
    )


def _finish(out: Path, clip: Clip, names: list[str], tokens: bool, keep_pictures: bool) -> None:
    notes = [note for name in names if (note := read_record(str(out / NOTES / f"{name}.json")))]
    count = sum(note["count"] for note in notes)
    skipped = [one for note in notes for one in note["skipped"]]
    if not count:
        reasons = Skipped({(shard, reason): n for shard, reason, n in skipped})
        raise DataError(f"{out}: no sample could be used: {described(reasons)}")
    null = clip.encode_text([""]).to("cpu", torch.float32) if tokens else None
    mean = [math.fsum(column) / count for column in zip(*(note["sum"] for note in notes))]
    square = [math.fsum(column) / count for column in zip(*(note["square"] for note in notes))]
    write_record(
        out / RECORD,
        {
            "clip": clip.identity,
            "width": clip.width,
            "token_width": clip.token_width,
            "context": clip.context,
            "count": count,
            "mean": mean,
            "std": [math.sqrt(max(s - m * m, 0)) for s, m in zip(square, mean)],
            "null": null and {key: getattr(null, key).tolist() for key in ("ids", "embed", "tokens")},
            "skipped": skipped,
            "pictures": keep_pictures,
        },
    )
