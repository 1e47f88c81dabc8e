"""Shuffle a stream of samples through a buffer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from unclip.data.tar import Sample

BUFFER = 512 * 2**20  # bytes; large photographs would fill the memory long before `data.shuffle` samples


def shuffled(
    samples: Iterable[Sample], count: int, rng: random.Random, limit: int = BUFFER
) -> Iterator[Sample]:
    """Yield samples at random from a buffer of at most `count` samples and about `limit` bytes."""
    held: list[Sample] = []
    total = 0
    for sample in samples:
        held.append(sample)
        total += _bytes(sample)
        while len(held) >= count or (held and total > limit):
            drawn = _draw(held, rng)
            total -= _bytes(drawn)
            yield drawn
    while held:
        yield _draw(held, rng)


def _draw(held: list[Sample], rng: random.Random) -> Sample:
    """Remove a random sample; the last one takes its place."""
    i = rng.randint(0, len(held) - 1)
    held[i], held[-1] = held[-1], held[i]
    return held.pop()


def _bytes(sample: Sample) -> int:
    return sum(len(value) for value in sample.values() if isinstance(value, bytes))
