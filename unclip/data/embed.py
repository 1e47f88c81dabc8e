"""Precompute CLIP embeddings of shards, so that training need not run CLIP.

A sample's own arrays (`.npy`) and the other fields of its JSON are kept.

Every process embeds its share of the shards; the one that finishes last writes the record. See `embeddings`
for the format.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unclip.clip import Clip
from unclip.data.config import is_array
from unclip.data.embeddings import RECORD, find_embeddings
from unclip.data.sample import BadSample, Skipped, about, captions, described, image_suffix, picture
from unclip.data.tar import (
    PIPE,
    Progress,
    Sample,
    find_shards,
    read_record,
    read_shard,
    stamp,
    write_record,
    write_shard,
)
from unclip.device import join_processes
from unclip.errors import DataError
from unclip.images import from_bytes, to_bytes
from unclip.models.resolve import load_clip

log = logging.getLogger(__name__)

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
) -> int:
    """Embed shards into shards of unique names in `out`; return how many this process embedded.

    Shards whose files changed since they were embedded are embedded again.

    Args:
        ref: reference of the CLIP, see `unclip.models.resolve`.
        batch: images per batch.
        tokens: store the captions' token states; without them, training still runs the text tower.
        keep_pictures: also store the image and caption files, for stages that train on both.
        progress: called with the number of shards done and in total, of this process.

    Raises:
        DataError: the shards hold embeddings already, no sample is usable, or `out` holds other embeddings.
    """
    paths = find_shards(pattern)
    if find_embeddings(paths):
        raise DataError(f"{pattern}: hold embeddings already; give the shards with the pictures")
    state = join_processes()
    clip = load_clip(ref).to(state.device)
    works = _begin(out, paths, {"clip": clip.identity, "tokens": tokens, "pictures": keep_pictures})
    share = works[state.process_index :: state.num_processes]
    stale = [work for work in share if not work.done()]
    progress(len(share) - len(stale), len(share))
    for done, work in enumerate(stale, start=1 + len(share) - len(stale)):
        _embed_shard(work, Encoder(clip, batch, tokens, keep_pictures))
        progress(done, len(share))
    if all(work.done() for work in works):
        _finish(out, clip, works, tokens, keep_pictures)
    state.destroy_process_group()
    return len(stale)


@dataclass(frozen=True)
class ShardWork:
    """The embedding of one shard.

    Attributes:
        source: path, URL or command of the shard.
        target: the shard of embeddings.
        note: its statistics, written last.
    """

    source: str
    target: Path
    note: Path

    def done(self) -> bool:
        """Return whether the shard is embedded as it is now. Earlier versions noted no stamps."""
        note, now = read_record(str(self.note)), stamp(self.source)
        return note is not None and note.get("stamp", now) == now


class Encoder:
    """Encodes samples with CLIP; measures z_i, and counts skipped samples and cut captions."""

    def __init__(self, clip: Clip, batch: int, tokens: bool, keep_pictures: bool) -> None:
        self.clip, self.batch, self.tokens, self.keep_pictures = clip, batch, tokens, keep_pictures
        self.count, self.cut, self.skipped = 0, 0, Skipped()
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
        lengths = texts.mask.sum(1).tolist()
        for caption, length in zip(texts.captions, lengths):
            self.cut += length >= self.clip.context and bool(self.clip.truncate(caption)[1])
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
            kept = {"json": json.dumps({**about(sample), "captions": listed}, ensure_ascii=False).encode()}
            if self.keep_pictures:
                kept = {
                    suffix: sample[suffix]
                    for suffix in (image_suffix(sample), "txt", "json")
                    if suffix in sample
                }
            kept |= {suffix: content for suffix, content in sample.items() if is_array(suffix)}
            yield {"__key__": sample["__key__"], **kept, "safetensors": save(tensors)}


def _begin(out: Path, paths: list[str], this: dict[str, Any]) -> list[ShardWork]:
    before = read_record(str(out / NOTES / "job.json"))
    if before is None and (any(out.glob("*.tar")) or (out / RECORD).exists()):
        raise DataError(f"{out}: holds other shards; give an empty folder")
    before = before and {"pictures": False, **before}  # earlier versions had no such option
    for key in this if before else ():
        if before and before.get(key) != this[key]:
            what = {
                "clip": f"of CLIP {before.get(key)}, not of {this[key]}",
                "pictures": f"{'with' if before[key] else 'without'} the pictures kept beside them",
            }.get(key, f"with another choice of {key}")
            raise DataError(f"{out}: holds embeddings {what}; give an empty folder")
    known = before or {}
    names = _names(paths, known.get("sources") or dict.fromkeys(known.get("shards", ()), ""), out)
    try:
        (out / NOTES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error})") from None
    sources = {name: _place(path) for path, name in names.items()}
    write_record(out / NOTES / "job.json", {**this, "sources": sources})
    return [
        ShardWork(path, out / f"{name}.tar", out / NOTES / f"{name}.json") for path, name in names.items()
    ]


def _place(path: str) -> str:
    """Return a shard's path such that it can be found from any folder."""
    return path if path.startswith(PIPE) or "://" in path else os.path.abspath(path)


def _names(paths: list[str], before: dict[str, str], out: Path) -> dict[str, str]:
    """Choose a unique name for each shard: its file's name, with its folder's before it if that is taken.

    Args:
        before: names to sources of the shards that `out` holds. They keep their names. Those whose sources
            are gone are removed.

    Raises:
        DataError: `out` holds embeddings of a shard that is there, and not among `paths`.
    """
    places = {_place(path): path for path in paths}
    kept = {source: name for name, source in before.items() if source in places}
    gone = {name: source for name, source in before.items() if source not in places}
    found: dict[str, str] = {}
    for place, path in places.items():
        folder, _, file = path.rpartition("/")
        base = file.removesuffix(".tar")
        name = kept.get(place)
        if name is None and base in gone and not os.path.exists(gone[base]):  # it was moved
            del gone[base]
            name = base
        digest = hashlib.blake2b(place.encode(errors="surrogateescape"), digest_size=4).hexdigest()
        choices = [base, f"{folder.rpartition('/')[2] or 'shards'}-{base}", f"{base}-{digest}"]
        taken = {*found.values(), *kept.values(), *gone}
        found[path] = name or next(one for one in choices if one not in taken)
    for name, source in gone.items():
        if os.path.exists(source):
            raise DataError(f"{out}: holds embeddings of other shards ({source}); give an empty folder")
        for left in (out / f"{name}.tar", out / NOTES / f"{name}.json"):
            left.unlink(missing_ok=True)
    return found


def _embed_shard(work: ShardWork, encoder: Encoder) -> None:
    """Write a shard, then its statistics. A shard without statistics is written again on resume."""
    read = stamp(work.source)
    encoded = encoder.encode(read_shard(work.source))
    work.note.unlink(missing_ok=True)
    work.target.unlink(missing_ok=True)  # of the shard as it was before
    for first in islice(encoded, 1):  # no empty shards
        write_shard(work.target, chain([first], encoded))
    write_record(
        work.note,
        {
            "stamp": read,
            "count": encoder.count,
            "cut": encoder.cut,
            "sum": encoder.sum.tolist(),
            "square": encoder.square.tolist(),
            "skipped": [[shard, reason, n] for (shard, reason), n in sorted(encoder.skipped.items())],
        },
    )


def _finish(out: Path, clip: Clip, works: list[ShardWork], tokens: bool, keep_pictures: bool) -> None:
    notes = [note for work in works if (note := read_record(str(work.note)))]
    count = sum(note["count"] for note in notes)
    skipped = [one for note in notes for one in note["skipped"]]
    if not count:
        reasons = Skipped({(shard, reason): n for shard, reason, n in skipped})
        raise DataError(f"{out}: no sample could be used: {described(reasons)}")
    cut = sum(note.get("cut", 0) for note in notes)
    if cut:
        log.warning(
            "%d captions are longer than the CLIP's %d tokens; the rest is not read", cut, clip.context
        )
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
            "cut": cut,
            "mean": mean,
            "std": [math.sqrt(max(s - m * m, 0)) for s, m in zip(square, mean)],
            "null": null and {key: getattr(null, key).tolist() for key in ("ids", "embed", "tokens")},
            "skipped": skipped,
            "pictures": keep_pictures,
        },
    )
