"""Measure a trained prior's x0_variance, which gives Analytic-DPM's optimal reverse variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from unclip.clip import Clip, same_clip
from unclip.data.loader import batches, embed
from unclip.data.shards import DataConfig, Shards, Stream
from unclip.errors import RequestError
from unclip.files import try_to_write, write_json
from unclip.models.resolve import resolve
from unclip.stages import load_stage
from unclip.stages.batch import Batch
from unclip.stages.prior import Prior
from unclip.train.encoders import Sources, frozen_clip, needed_preprocess

BATCH = 64


def calibrate(prior: str | Path, shards: str, ref: str | None = None, *, count: int = 512) -> Path:
    """Measure a saved prior's x0_variance, write it to its config.json, and return its folder.

    Args:
        prior: reference of the prior: a saved stage, a run (its newest checkpoint), or a model folder.
        shards: pattern of shards to measure on.
        ref: reference of the prior's CLIP; needed if the shards hold no embeddings.
        count: number of samples to measure on.

    Raises:
        RequestError: the stage is not a diffusion prior, or its CLIP is missing or another one.
    """
    found = resolve(str(prior)).stage("prior")
    stage = load_stage(found)
    if not isinstance(stage, Prior):
        raise RequestError(f"{found}: is a {stage.config.kind}; Analytic-DPM is for the diffusion prior")
    if count < BATCH:
        raise RequestError(f"--count {count}: must be at least {BATCH}")
    try:
        try_to_write(found / "config.json")
    except OSError as error:
        raise RequestError(f"{found}: cannot be written ({error.strerror or error})") from None
    data = DataConfig(shards=shards, batch=BATCH, workers=0)
    sources = Sources.find(data, stage)
    if ref is None and (sources.training.embeddings is None or sources.training.embeddings.null is None):
        raise RequestError(f"{shards}: does not hold all embeddings; say with which --clip to make them")
    clip, sizes = frozen_clip(ref, stage, sources)
    assert sizes is not None
    if stage.config.clip is not None and not same_clip(stage.config.clip, sizes):
        raise RequestError(f"{found}: was trained for CLIP {stage.config.clip}, not {sizes.identity}")
    with torch.inference_mode():
        stage.measure_x0_variance(_read(stage, data, sources.training, clip, count // BATCH))
    write_json(found / "config.json", stage.config.model_dump(mode="json"))
    return found


def _read(stage: Prior, data: DataConfig, shards: Shards, clip: Clip | None, number: int) -> Iterator[Batch]:
    preprocess = needed_preprocess(clip, stage, shards)
    stream = Stream(
        data, needs=stage.needs, size=stage.size, crop=stage.crop, preprocess=preprocess, shards=shards
    )
    for i, batch in enumerate(islice(batches(stream), number)):
        yield replace(embed(batch, clip, stage.needs), seeds=i * BATCH + torch.arange(BATCH))
