"""Open a run's data and CLIP and estimate its time and memory on this machine, without training."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace

import torch

from unclip.clip import Clip
from unclip.data.loader import batches, embed
from unclip.data.shards import Shards, Stream
from unclip.device import best_device
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.diffusion import DiffusionStage
from unclip.train.checks import check_sampling
from unclip.train.config import RunConfig
from unclip.train.distill import teach
from unclip.train.encoders import Sources, frozen_clip, needed_preprocess
from unclip.train.plan import UTILISATION, plan, stage_on_meta
from unclip.train.start import new_stage

SIDE = 1024  # of the matrices whose product measures a device's speed
LONGEST = 20.0  # seconds; a step that is estimated to take longer is not tried


def describe_here(config: RunConfig) -> str:
    """Open what a run reads, and format its cost on this device as YAML comments.

    Raises:
        ConfigError, DataError, CheckpointError: as the run itself would, before its first step.
    """
    device = best_device()
    stage = new_stage(config) if config.stage.lora else stage_on_meta(config)
    check_sampling(stage, config)
    sources = Sources.find(config.data, stage)
    clip, sizes = frozen_clip(config.clip, stage, sources)
    if sizes is not None:
        stage.for_clip(sizes)
    batch = _first(config, stage, clip, sources.training)
    lines = [f"data: opened {sources.training.pattern} (shards: {len(sources.training.paths):,})"]
    if (held := sources.validation) is not None:
        _first(config, stage, clip, held)
        opened = f"opened {held.pattern} (shards: {len(held.paths):,})"
        lines.append(f"validation: {f'holds out {held.share:.1%} of the data' if held.held_out else opened}")
    if sizes is not None:
        lines.append(
            f"clip: {sizes.identity}, {'which runs in every step' if clip else 'stored in the shards'}"
        )

    cost = plan(config, 1)
    needed, there = sum(cost.memory["ddp"].values()), _memory(device)
    fits = needed < there
    flops = cost.flops * config.data.batch * config.train.accumulate
    seconds, how = flops / (_speed(device) * UTILISATION), "estimated without the CLIP"
    if fits and seconds < LONGEST:
        seconds, how = _step(config, clip, batch, device) * config.train.accumulate, "measured"
    lines += [
        cost.counted,
        f"{_name(device)}: {seconds:.3g} s per step ({how}), {config.train.steps:,} steps in "
        f"{_span(seconds * config.train.steps)}",
        f"memory: about {needed / 2**30:.2f} of {there / 2**30:.1f} GiB"
        + ("" if fits else ": too little; lower data.batch or set train.recompute=true"),
        "--devices N plans for N GPUs elsewhere",
    ]
    return "\n".join(f"# {line}" for line in lines)


def _first(config: RunConfig, stage: Stage, clip: Clip | None, shards: Shards) -> Batch:
    """Read one batch."""
    data = config.data.model_copy(update={"workers": 0, "shuffle": 1})
    preprocess = needed_preprocess(clip, stage, shards)
    stream = Stream(
        data,
        needs=stage.needs,
        size=stage.size,
        crop=stage.crop,
        preprocess=preprocess,
        vector_shape=stage.vector_shape,
        shards=shards,
    )
    return next(batches(stream))


def _step(config: RunConfig, clip: Clip | None, batch: Batch, device: torch.device) -> float:
    """Seconds of one forward and backward pass with the CLIP's part, after one to warm up."""
    stage = new_stage(config).to(device)
    if config.distill is not None and isinstance(stage, DiffusionStage):
        teach(stage, config.distill, device)
    clip = clip and clip.to(device)
    batch = replace(batch.to(device), seeds=torch.arange(len(batch.captions)))
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        loss = stage(embed(batch, clip, stage.needs)).mean()
        loss.backward()
        loss.item()  # waits for the device
        seconds = time.monotonic() - started
    return seconds


def _speed(device: torch.device) -> float:
    """FLOP per second of a matrix product."""
    x = torch.randn(SIDE, SIDE, device=device)
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        (x @ x).sum().item()
        seconds = time.monotonic() - started
    return 2 * SIDE**3 / seconds


def _memory(device: torch.device) -> float:
    """Bytes of the device's memory; infinite if the operating system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _span(seconds: float) -> str:
    """Format a duration in its largest unit."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
