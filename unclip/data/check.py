"""Read shards completely and report their contents: `unclip data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from unclip.clip import Clip
from unclip.data.embeddings import find_embeddings, read_embedded
from unclip.data.examine import content_hash
from unclip.data.sample import BadSample, Skipped, captions, described, image_suffix, picture
from unclip.data.tar import Progress, Sample, read_shard

NAMED = 20  # bad samples that a report lists


@dataclass
class Report:
    """Contents of a set of shards.

    Attributes:
        skipped: unusable samples by (shard, reason), counted as in training.
        bad: messages of the first unusable samples.
        sides: histogram of the images' shorter sides in pixels.
        lengths: histogram of the captions' lengths in characters.
        captions: histogram of the number of captions per sample.
        context: of the CLIP, in tokens; None without one.
        cut: number of captions that are longer than the context.
        hashes: number of samples per hash of the image.
    """

    shards: int = 0
    samples: int = 0
    skipped: Skipped = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    sides: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    captions: Counter[int] = field(default_factory=Counter)
    context: int | None = None
    cut: int = 0
    hashes: Counter[str] = field(default_factory=Counter)

    @property
    def duplicates(self) -> int:
        """Number of samples whose image occurred before."""
        return self.hashes.total() - len(self.hashes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "shards": self.shards,
            "samples": self.samples,
            "unreadable": [
                {"shard": shard, "reason": reason, "samples": n}
                for (shard, reason), n in sorted(self.skipped.items())
            ],
            "shorter_side": spread(self.sides),
            "caption_characters": spread(self.lengths),
            "captions_per_sample": spread(self.captions),
            "duplicates": self.duplicates,
            **({"clip_context": self.context, "captions_over_context": self.cut} if self.context else {}),
        }

    def table(self) -> str:
        """Format the report for a terminal."""
        lines = [f"{self.samples:,} samples in {self.shards:,} shards, {self.duplicates:,} duplicates"]
        for name, values in (
            ("shorter side, px", self.sides),
            ("caption, characters", self.lengths),
            ("captions a sample", self.captions),
        ):
            if values:
                lines.append(
                    f"{name:<20} {' · '.join(f'{key} {value:g}' for key, value in spread(values).items())}"
                )
        if self.context:
            total = self.lengths.total()
            lines.append(
                f"{self.cut:,} of {total:,} captions are longer than the CLIP's {self.context} tokens; the rest "
                "of these is not read"
            )
        if self.skipped:
            lines.append(f"{self.skipped.total():,} cannot be used: {described(self.skipped)}")
        return "\n".join([*lines, *self.bad])


def check(
    paths: Sequence[str], progress: Progress = lambda done, of: None, *, clip: Clip | None = None
) -> Report:
    """Read all shards and report their contents.

    Args:
        clip: counts the captions that are longer than its context.

    Raises:
        DataError: the shards mix images and embeddings.
    """
    report, stored = Report(context=clip.context if clip else None), find_embeddings(paths)
    for path in paths:
        for sample in read_shard(path):
            try:
                texts = _add(
                    sample, report, embedded=stored is not None, pictures=stored is None or stored.pictures
                )
                if clip is not None:
                    report.cut += sum(bool(clip.truncate(one)[1]) for one in texts)
            except BadSample as error:
                report.skipped[path, error.reason] += 1
                if len(report.bad) < NAMED:
                    report.bad.append(f"{path}: {error}")
        report.shards += 1
        progress(report.shards, len(paths))
    return report


def _add(sample: Sample, report: Report, *, embedded: bool, pictures: bool) -> list[str]:
    """Add a sample to the report, and return its captions."""
    # The image comes first, as in training: a sample is counted under its first fault.
    image = picture(sample) if pictures else None
    texts = read_embedded(sample).captions if embedded else captions(sample)
    if image is not None:
        report.sides[min(image.size)] += 1
        report.hashes[content_hash(sample[image_suffix(sample)])] += 1
    report.samples += 1
    report.captions[len(texts)] += 1
    report.lengths.update(len(one) for one in texts)
    return texts


def spread(values: Counter[int]) -> dict[str, float]:
    """Minimum, median and maximum of a histogram; empty for an empty histogram."""
    return {"least": min(values), "median": median(values.elements()), "most": max(values)} if values else {}
