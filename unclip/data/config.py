"""Configuration of the training samples. This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unclip.config import Config, WrongValue

Source = Annotated[str, Field(min_length=1)]
Weight = Annotated[float, Field(gt=0)]
JSON = "json:"  # prefix of a key of KEY.json in `vectors`


class DataConfig(Config):
    """Location and batching of the training samples.

    Attributes:
        shards: a path, glob or brace pattern of tar files, a `pipe:` command, a URL that fsspec knows, or a
            folder or table of images as `unclip data pack` takes it. A mapping of several to weights mixes
            them: each sample comes from one of them with a probability in proportion to its weight.
        batch: images per process and accumulated part of a step.
        workers: processes that read and decode.
        shuffle: number of samples in the shuffle buffer.
        calibration: number of images on which a new stage measures its statistics; embedded shards have them
            in shards.json.
        max_bad: largest share of unusable samples; above it the run stops.
        validation: shards for the validation loss; not trained on. Or the share of `shards` to hold out for
            it, chosen by a hash of each sample's key, so that it stays the same.
        crop: how an image becomes square: "centre" or "random" resizes the shorter side and cuts out the
            centre or a random place; "pad" resizes the longer side and pads with white; "native" cuts out a
            random place without resizing, and images that are too small are skipped. An upsampler cuts its
            training crops out of the result of "pad", or of the whole image otherwise.
        vectors: where the vectors of a sample are, for a stage that reads some: the suffix of an array file
            (npy for KEY.npy, fmri.npy for KEY.fmri.npy), or json:NAME for the numbers under NAME in KEY.json.
        random_flip: mirror half of the images at random. Not what the frozen CLIP sees, and not captions.
    """

    shards: Source | Annotated[dict[Source, Weight], Field(min_length=1)]
    batch: int = Field(ge=1)
    workers: int = Field(1, ge=0)
    shuffle: int = Field(2000, ge=1)
    calibration: int = Field(4096, ge=1)
    max_bad: float = Field(0.1, ge=0, le=1)
    validation: Annotated[float, Field(gt=0, le=0.5)] | Source | None = None
    crop: Literal["centre", "random", "pad", "native"] = "centre"
    vectors: str = "npy"
    random_flip: bool = False

    @model_validator(mode="after")
    def _vectors_are_named(self) -> Self:
        if self.vectors in ("", JSON) or (not self.vectors.startswith(JSON) and not is_array(self.vectors)):
            raise WrongValue("vectors", f"{self.vectors!r} must be npy, NAME.npy or json:NAME")
        return self


def is_array(suffix: str) -> bool:
    """Whether a sample's file with this suffix is an array."""
    return f".{suffix}".endswith(".npy")
