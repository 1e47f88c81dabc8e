"""Quality of an image set: metrics against a reference set or against captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Clip
from unclip.errors import RequestError
from unclip.evaluate import metrics
from unclip.evaluate.features import Encoded, Extractor, clip_extractor, encode, encode_texts
from unclip.evaluate.metrics import Estimate
from unclip.evaluate.pictures import Pictures
from unclip.evaluate.report import save_report
from unclip.images import grid

# Metrics of features against the features of a reference.
AGAINST_REFERENCE: dict[str, Callable[..., Estimate]] = {
    "fid": metrics.fid,
    "kid": metrics.kid,
    "cmmd": metrics.cmmd,
}

# Fewest images of a set, by the rules of thumb of the papers. FID: Heusel et al. 2017 recommend 10,000; the
# biased MMD of CMMD is too large by about 4 (1/n + 1/m) thousandths.
ENOUGH = {
    "fid": (10_000, "its value is too large by an amount that depends on their number"),
    "kid": (100, "its interval is wide"),
    "cmmd": (1_000, "its value is too large by an amount that depends on their number"),
    "precision-recall": (1_000, "both depend on the number of pictures"),
    "is": (5_000, "its value is too small by an amount that depends on their number"),
    "clip": (100, "its interval is wide"),
    "retrieval": (100, "chance is high"),
}


def too_few(kind: str, *counts: int) -> tuple[str, ...]:
    """A warning if one of the sets has too few images for the measure, else nothing."""
    enough, why = ENOUGH[kind]
    if min(counts) >= enough:
        return ()
    return (f"{kind}: {min(counts)} pictures; below {enough:,} {why}",)


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        size: side in pixels to which the centre square of each image is resized; None keeps the images.
        resamples: number of bootstrap resamples; 0 for no interval.
        seed: seed of the resamples.
        batch: images per batch.
        cache: folder in which features are kept; None keeps nothing.
    """

    size: int | None = None
    resamples: int = 100
    seed: int = 0
    batch: int = 64
    cache: Path | None = None


@dataclass(frozen=True)
class Quality:
    """Metrics of an image set.

    Attributes:
        figures: by name.
        settings: settings of the measurement.
        warnings: what makes the figures unreliable.
        chance: expected values of random guesses, for figures that are shares.
        pictures: the first images.
    """

    figures: dict[str, Estimate]
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
    chance: dict[str, float] = field(default_factory=dict)
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def table(self) -> str:
        """Format the metrics for a terminal."""
        width = max(map(len, self.figures))
        return "\n".join(f"{name.ljust(width)}  {self._said(name)}" for name in self.figures)

    def markdown(self) -> str:
        """Format the metrics as a Markdown table, with the settings below."""
        rows = [
            ("measure", "value [95 % interval]"),
            ("---", "---:"),
            *((name, self._said(name)) for name in self.figures),
        ]
        settings = ", ".join(f"{name}: {value}" for name, value in self.settings.items())
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return "\n\n".join([table, *(f"Warning: {one}." for one in self.warnings), settings])

    def _said(self, name: str) -> str:
        chance = f" (chance {self.chance[name]:.3g})" if name in self.chance else ""
        return f"{self.figures[name]}{chance}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "figures": {
                name: figure._asdict() | ({"chance": self.chance[name]} if name in self.chance else {})
                for name, figure in self.figures.items()
            },
            "settings": self.settings,
            "warnings": list(self.warnings),
        }

    def save(self, folder: Path) -> None:
        """Write report.json, report.md and sheet.png."""
        save_report(folder, self.to_dict(), self.markdown(), grid(self.pictures))


def against_reference(
    kind: str, pictures: Pictures, reference: Pictures, extractor: Extractor, settings: Settings
) -> Quality:
    """Measure fid, kid, cmmd or precision-recall.

    Raises:
        RequestError: there is no such metric, or there are too few images for it.
    """
    images, true = encoded(pictures, extractor, settings), encoded(reference, extractor, settings)
    bootstrap = {"resamples": settings.resamples, "seed": settings.seed}
    if kind == "precision-recall":
        figures = metrics.precision_recall(images.features, true.features, **bootstrap)._asdict()
    elif kind in AGAINST_REFERENCE:
        figures = {kind: AGAINST_REFERENCE[kind](images.features, true.features, **bootstrap)}
    else:
        raise RequestError(
            f"no measure {kind!r}; there are {', '.join([*AGAINST_REFERENCE, 'precision-recall'])}"
        )
    about = {"reference": reference.name, "reference pictures": len(true.features)}
    found = quality(figures, pictures, images, extractor, settings, about)
    return replace(found, warnings=too_few(kind, len(images.features), len(true.features)))


def inception_score(pictures: Pictures, extractor: Extractor, settings: Settings) -> Quality:
    """Measure the Inception Score; the extractor must be a classifier.

    Raises:
        RequestError: the extractor is not a classifier.
    """
    if not extractor.classifies:
        raise RequestError(
            f"is: {extractor.identity} is not a classifier; --features inception is one, and judge of the "
            "menagerie"
        )
    images = encoded(pictures, extractor, settings)
    found = metrics.inception_score(images.features, resamples=settings.resamples, seed=settings.seed)
    figures, about = {"is": found}, {"splits": metrics.SPLITS}
    made = quality(figures, pictures, images, extractor, settings, about)
    return replace(made, warnings=too_few("is", len(images.features)))


def clip_score(pictures: Pictures, clip: Clip, settings: Settings) -> Quality:
    """Measure the CLIP score of images and all their captions.

    Raises:
        DataError: an image has no caption.
    """
    several = pictures.captions()
    extractor = clip_extractor(clip)
    images = encoded(pictures, extractor, settings)
    owner = torch.tensor([i for i, own in enumerate(several) for _ in own])
    texts = encode_texts(clip, [text for own in several for text in own], settings.batch)
    bootstrap = {"resamples": settings.resamples, "seed": settings.seed}
    figures = {"clip": metrics.clip_score(images.features, texts, owner, **bootstrap)}
    found = quality(figures, pictures, images, extractor, settings, {"captions": len(texts)})
    return replace(found, warnings=too_few("clip", len(images.features)))


def encoded(pictures: Pictures, extractor: Extractor, settings: Settings) -> Encoded:
    """Encode images with the size, batch and cache of the settings."""
    return encode(pictures, extractor, size=settings.size, batch=settings.batch, cache=settings.cache)


def quality(
    figures: dict[str, Estimate],
    pictures: Pictures,
    images: Encoded,
    extractor: Extractor,
    settings: Settings,
    about: dict[str, Any],
) -> Quality:
    """Build a Quality. `about` holds settings of the metric itself."""
    features: Tensor = images.features
    record = {
        "pictures": pictures.name,
        "count": len(features),
        **about,
        "features": extractor.identity,
        "dimensions": features.shape[1],
        "size": settings.size,
        "resamples": settings.resamples,
        "seed": settings.seed,
    }
    return Quality(figures, record, pictures=tuple(images.pictures))
