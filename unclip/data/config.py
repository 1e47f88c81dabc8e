"""Configuration of the training samples. This module does not import torch."""

from __future__ import annotations

from pydantic import Field

from unclip.config import Config


class DataConfig(Config):
    """Location and batching of the training samples.

    Attributes:
        shards: a path, glob or brace pattern of tar files, a `pipe:` command, or a URL that fsspec knows.
        batch: images per process and accumulated part of a step.
        workers: processes that read and decode.
        shuffle: number of samples in the shuffle buffer.
        calibration: number of images on which a new stage measures its statistics; embedded shards have them
            in shards.json.
        max_bad: largest share of unusable samples; above it the run stops.
        validation: shards for the validation loss; not trained on.
    """

    shards: str
    batch: int = Field(ge=1)
    workers: int = Field(1, ge=0)
    shuffle: int = Field(2000, ge=1)
    calibration: int = Field(4096, ge=1)
    max_bad: float = Field(0.1, ge=0, le=1)
    validation: str | None = None
