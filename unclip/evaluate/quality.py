"""Quality of an image set: metrics against a reference set or against captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """Metrics of an image set, with the settings of the measurement and the first images."""

    figures: dict[str, Estimate]
    settings: dict[str, Any]
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def table(self) -> str:
        """Format the metrics for a terminal."""
        width = max(map(len, self.figures))
        return "\n".join(f"{name.ljust(width)}  {figure}" for name, figure in self.figures.items())

    def markdown(self) -> str:
        """Format the metrics as a Markdown table, with the settings below."""
        rows = [
            ("measure", "value [95 % interval]"),
            ("---", "---:"),
            *((n, str(f)) for n, f in self.figures.items()),
        ]
        settings = ", ".join(f"{name}: {value}" for name, value in self.settings.items())
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{settings}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "figures": {name: figure._asdict() for name, figure in self.figures.items()},
            "settings": self.settings,
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
    return quality(figures, pictures, images, extractor, settings, about)


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
    return quality({"is": found}, pictures, images, extractor, settings, {"splits": metrics.SPLITS})


def clip_score(pictures: Pictures, clip: Clip, settings: Settings) -> Quality:
    """Measure the CLIP score of images and their captions."""
    extractor = clip_extractor(clip)
    images = encoded(pictures, extractor, settings)
    texts = encode_texts(clip, pictures.captions(), settings.batch)
    found = metrics.clip_score(images.features, texts, resamples=settings.resamples, seed=settings.seed)
    return quality({"clip": found}, pictures, images, extractor, settings, {})


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
    return Quality(figures, record, tuple(images.pictures))
