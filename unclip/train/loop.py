"""The training loop, from top to bottom. The same command run again resumes."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from tqdm import tqdm

from unclip.clip import Clip, load_clip
from unclip.data.embeddings import find_embeddings
from unclip.data.sample import Skipped, described
from unclip.data.shards import Stream, batches, embed
from unclip.data.tar import find_shards
from unclip.device import quick_in_bf16
from unclip.errors import ConfigError
from unclip.files import stage_folder
from unclip.stages import load_stage, stage_class
from unclip.stages.base import Batch, Stage
from unclip.train import checkpoint
from unclip.train.config import OptimConfig, RunConfig
from unclip.train.ema import Ema
from unclip.train.log import Log
from unclip.train.samples import draw_samples

log = logging.getLogger(__name__)

LOG_EVERY = 50  # steps


def train(config: RunConfig, run: Path, *, progress: bool = True) -> Path:
    """Trains one stage and returns its last checkpoint's folder. Resumes if the run has one.

    Args:
        run: the run's folder; created if it is not there.
        progress: show a bar on the main process.
    """
    # --- set up ---
    precision = config.train.precision
    if precision == "auto":
        precision = "bf16" if quick_in_bf16(PartialState().device) else "no"
    accelerator = Accelerator(
        mixed_precision=precision, log_with=list(config.train.trackers) or None, project_dir=run,
        gradient_accumulation_steps=config.train.accumulate,
    )  # fmt: skip
    main = accelerator.is_main_process
    if main:
        run.mkdir(parents=True, exist_ok=True)
        (run / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    accelerator.wait_for_everyone()
    set_seed(config.train.seed)
    stage = stage_class(config.stage.kind)(config.stage)
    clip = _clip_for(stage, config, accelerator)
    stage.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = Ema(stage, config.train.ema)
    optimizer = torch.optim.AdamW(
        stage.parameters(), config.optim.lr, betas=config.optim.betas, eps=config.optim.eps,
        weight_decay=config.optim.weight_decay, fused=True,
    )  # fmt: skip
    set_seed(config.train.seed, device_specific=True)

    # --- resume, or measure what a fresh stage must know of its data ---
    step, images = 0, 0
    folders = checkpoint.step_folders(run)
    if folders:
        step, images = checkpoint.resume(folders[-1], accelerator, stage, ema, optimizer)
    elif config.init is not None:
        start_from(stage, Path(config.init))
        set_seed(config.train.seed, device_specific=True)
        ema.stage.load_state_dict(stage.state_dict())
    else:
        wanted = -(-config.data.calibration // config.data.batch)
        stage.calibrate(islice(_data(config, stage, clip, accelerator, seed=-1), wanted))
        ema.stage.load_state_dict(stage.state_dict())
        set_seed(config.train.seed, device_specific=True)
    wrapped, prepared = accelerator.prepare(stage, optimizer)
    if config.train.trackers:
        accelerator.init_trackers(config.name)
    report = Log(run, accelerator)
    stop = _stop_on_signal()

    # --- the loop ---
    bar = tqdm(total=config.train.steps, initial=step, disable=not (main and progress), unit="step", desc=config.name)
    losses: list[torch.Tensor] = []
    started, seen, skipped = time.monotonic(), 0, Skipped()
    source: Iterator[Batch] | None = None
    stage.train()
    while step < config.train.steps and not stop.requested:
        if source is None or step % config.train.save_every == 0:
            # A stream is opened anew at every checkpoint, seeded by its step: a resumed run reads on exactly.
            opened = step - step % config.train.save_every
            source = _data(config, stage, clip, accelerator, seed=opened + config.train.seed * 1_000_003)
            source = islice(source, (step - opened) * config.train.accumulate, None)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.optim, config.train.steps)
        for _ in range(config.train.accumulate):
            batch = next(source)
            with accelerator.accumulate(wrapped):
                loss = wrapped(batch).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(wrapped.parameters(), config.optim.clip_norm)
                prepared.step()
                prepared.zero_grad()
            losses.append(loss.detach())
            seen += len(batch.captions) * accelerator.num_processes
            skipped.update(batch.skipped)
        step += 1
        ema.update(stage, step)
        bar.update()

        # --- report, sample, save ---
        if step % LOG_EVERY == 0 or step == config.train.steps:
            mean = accelerator.gather(torch.stack(losses).mean()[None]).mean().item()
            if not math.isfinite(mean):
                raise ConfigError(
                    f"{config.name}: the loss is {mean} at step {step}; lower optim.lr or use train.precision=no"
                )
            speed = seen / (time.monotonic() - started)
            bar.set_postfix(loss=f"{mean:.4f}", images_per_s=f"{speed:.0f}")
            rate = optimizer.param_groups[0]["lr"]
            bad = int(accelerator.gather(torch.tensor([skipped.total()], device=accelerator.device)).sum())
            if skipped:
                log.warning("process %d skipped bad samples: %s", accelerator.process_index, described(skipped))
            report(step, loss=mean, lr=rate, images=images + seen, images_per_second=speed, skipped=bad)
            losses.clear()
            started, images, seen, skipped = time.monotonic(), images + seen, 0, Skipped()
        if main and config.train.sample_every and step % config.train.sample_every == 0:
            draw_samples(ema.stage, batch, run / "samples" / f"step-{step:08d}.png")
        if step % config.train.save_every == 0 or step == config.train.steps or stop.requested:
            checkpoint.write(run, accelerator, stage, ema, optimizer, step, images + seen, config.train.keep)
    bar.close()
    stop.release()
    accelerator.end_training()
    return checkpoint.step_folders(run)[-1]


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """The rate of step number `step` (from 0): a pure function, so there is nothing to save."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.decay == "none":
        return config.lr * warm
    return config.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def start_from(stage: Stage, source: Path) -> None:
    """Copies a saved stage's weights into this one, which must have its shape."""
    folder = stage_folder(source)
    found = load_stage(folder)
    if type(found) is not type(stage):
        raise ConfigError(f"{folder}: is a {found.config.kind}, not a {stage.config.kind}")
    if found.config.clip is not None and stage.config.clip is not None and found.config.clip != stage.config.clip:
        raise ConfigError(f"{folder}: was trained for CLIP {found.config.clip}, not {stage.config.clip}")
    try:
        stage.load_state_dict(found.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"{folder}: has another shape than this run's stage ({str(error).splitlines()[-1].strip()})"
        ) from None


def _clip_for(stage: Stage, config: RunConfig, accelerator: Accelerator) -> Clip | None:
    if not stage.needs & {"image_embed", "text"}:
        return None
    stored = find_embeddings(find_shards(config.data.shards))
    clip = load_clip(config.clip).to(accelerator.device) if config.clip is not None else None
    if clip is None and (stored is None or stored.null is None):
        raise ConfigError(
            f"{config.name}: a {config.stage.kind} needs `clip`, the reference of the CLIP it is trained with"
        )
    if clip and stored and clip.identity != stored.identity:
        raise ConfigError(
            f"{config.name}: {config.data.shards} hold embeddings of CLIP {stored.identity}, not of {clip.identity}"
        )
    sizes = stored or clip
    assert sizes is not None
    try:
        stage.for_clip(sizes)
    except ConfigError as error:
        raise ConfigError(f"{config.name}: {error}") from None
    return None if stored and stored.null else clip  # with the token states in the shards, neither tower runs


def _data(config: RunConfig, stage: Stage, clip: Clip | None, accelerator: Accelerator, seed: int) -> Iterator[Batch]:
    stream = Stream(
        config.data, resolution=stage.resolution, crop=stage.crop, needs=stage.needs, seed=seed,
        rank=accelerator.process_index,
    )  # fmt: skip
    for batch in batches(stream):
        with accelerator.autocast():
            yield embed(batch.to(accelerator.device), clip, stage.needs)


class _stop_on_signal:
    """SIGTERM lets the step finish and writes a checkpoint."""

    def __init__(self) -> None:
        self.requested = False
        self._before = signal.signal(signal.SIGTERM, self._stop)

    def release(self) -> None:
        """Gives the signal back to whoever had it."""
        signal.signal(signal.SIGTERM, self._before)

    def _stop(self, *_: object) -> None:
        self.requested = True
