"""The training loop. Running the same command again resumes."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from tqdm import tqdm

from unclip.clip import Clip
from unclip.device import join_processes, peak_flops, quick_in_bf16
from unclip.errors import ConfigError
from unclip.files import new_file
from unclip.models.resolve import absolute
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.stages.diffusion import DiffusionStage
from unclip.train import checkpoint
from unclip.train.blocks import prepare_blocks
from unclip.train.checkpoint import Progress
from unclip.train.checks import check_sampling, check_validation
from unclip.train.config import OptimConfig, RunConfig
from unclip.train.distill import teach
from unclip.train.ema import Ema, full
from unclip.train.encoders import Sources, frozen_clip
from unclip.train.feed import Feed, draw_seed, streams_fit
from unclip.train.guard import GradientGuard, StopSignal
from unclip.train.log import Log, Meter, start_trackers
from unclip.train.notices import warn_of_data
from unclip.train.optimizers import make_optimizer
from unclip.train.plan import flops_per_image
from unclip.train.samples import draw_samples, validate
from unclip.train.start import new_stage, start_from

log = logging.getLogger(__name__)

BAR = ("loss", "images_per_second", "mfu", "data_wait")


def train(config: RunConfig, run: Path, *, progress: bool = True) -> Path:
    """Train a stage and return the folder of its last checkpoint. Resumes if the run has one.

    Args:
        run: the run's folder; created if missing.
        progress: show a progress bar on the main process.

    Raises:
        ConfigError: the config is wrong, or differs from the checkpoint's.
        TrainingError: too many bad steps in a row.
        CheckpointError: a checkpoint cannot be read or written.
        KeyboardInterrupt: Ctrl-C was pressed; the last finished step is saved.
        RequestError: another process trains in this folder.
    """
    with checkpoint.only_run(run):
        return _train(config, run, progress)


def _train(config: RunConfig, run: Path, progress: bool) -> Path:
    # --- set up ---
    accelerator = _accelerator(config, run)
    main, optim, options = accelerator.is_main_process, config.optim, config.train
    torch.manual_seed(options.seed)
    stage = new_stage(config)
    check_sampling(stage, config)
    sources = Sources.find(config.data, stage)
    clip = _clip_for(stage, config, sources, accelerator)
    stage.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # --- resume from a checkpoint, or calibrate a new stage on its data ---
    folders = checkpoint.step_folders(run)
    saved = folders[-1] if folders else None
    done = _resume_point(saved, config, accelerator.num_processes)
    feed = Feed(config, stage, clip, accelerator, done.streams, sources)
    held_out = next(feed.validation()) if sources.validation else None
    if saved:
        checkpoint.refuse_another(saved, stage, config)
        checkpoint.load_weights_into(saved, stage)
        if main:
            tqdm.write(f"{config.name}: {_resumed(done.step, options.steps)}", file=sys.stderr)
    elif stage.config.lora is None and (config.init is None or start_from(stage, config.init, config.clip)):
        stored = sources.training.embeddings
        stage.calibrate(_watched(feed, main and progress), stored.moments if stored else None)
    if config.distill is not None:
        assert isinstance(stage, DiffusionStage)
        teach(stage, config.distill, accelerator.device)
    prepare_blocks(stage, options)
    optimizer = make_optimizer(stage, optim)
    wrapped, prepared = accelerator.prepare(stage, optimizer)
    emas = [Ema(stage, decay) for decay in options.decays]
    if saved:
        checkpoint.load_rest(saved, optimizer, emas)
    if accelerator.scaler is not None and done.scaler:
        accelerator.scaler.load_state_dict(done.scaler)
    if main:
        warn_of_data(run, config, stage, sources.training.paths)
        run.mkdir(parents=True, exist_ok=True)
        checkpoint.sweep(run)
        tree = config.model_dump(mode="json")
        tree |= {key: absolute(tree[key]) for key in ("clip", "init") if tree[key] is not None}
        with new_file(run / "run.yaml") as file:
            file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    accelerator.wait_for_everyone()
    if options.trackers:
        start_trackers(config, run, accelerator)
    report, guard = Log(run, accelerator), GradientGuard(config)
    meter = Meter(accelerator, feed, done, _limit(config, accelerator))
    if held_out is not None:
        check_validation(wrapped, held_out, config)

    # --- the loop ---
    bar = tqdm(
        total=options.steps, initial=done.step, disable=not (main and progress), unit="step", desc=config.name
    )
    with bar, StopSignal(accelerator) as stop:
        source = feed.training(done.step)
        wrapped.train()
        stopped, first = False, done.step + 1
        while done.step < options.steps and not stopped:
            # For third-party stages that use torch's generators; ours draw by the seed of each example.
            torch.manual_seed(draw_seed("step", options.seed, done.step, accelerator.process_index))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done.step, optim, options.steps)
            loss = torch.zeros((), device=accelerator.device)
            keys: list[str] = []
            for _ in range(options.accumulate):
                batch = next(source)
                with accelerator.accumulate(wrapped):
                    part = wrapped(batch).mean()
                    accelerator.backward(part)
                loss += part.detach() / options.accumulate
                keys += batch.keys
            norm = float(full(accelerator.clip_grad_norm_(wrapped.parameters(), optim.clip_norm)))
            done.step += 1
            done.images += done.batch
            if guard.passes(norm, done.step, keys):
                prepared.step()
                for ema in emas:
                    ema.update(stage, done.step)
                meter.add(loss, norm)
            else:
                done.skipped += 1
                if accelerator.scaler is not None:
                    accelerator.scaler.update()  # fp16: a smaller scale cures most of these
            prepared.zero_grad()
            bar.update()
            stopped = stop.requested()
            last = stopped or done.step == options.steps

            # --- report, validate, sample, save; when told to stop, only save ---
            if done.step == first or due(done.step, options.log_every) or last:
                numbers = meter.read()
                bar.set_postfix({name: f"{numbers[name]:.4g}" for name in BAR if name in numbers})
                rate = optimizer.param_groups[0]["lr"]
                report(done.step, **numbers, lr=rate, images=done.images, skipped_steps=done.skipped)
            if held_out is not None and not stopped and due(done.step, options.validate_every):
                report(done.step, **validate(wrapped, stage, emas[0], feed))
            if not stopped and due(done.step, options.sample_every):
                averaged = emas[0].stage(stage)
                if main:
                    sheet = run / "samples" / f"step-{done.step:08d}.png"
                    draw_samples(averaged, batch if held_out is None else held_out, sheet)
                    report.sheet(done.step, sheet)
            if due(done.step, options.save_every) or last:
                if accelerator.scaler is not None:
                    done.scaler = accelerator.scaler.state_dict()
                checkpoint.write(run, accelerator, stage, emas, optimizer, done)
                if main:
                    checkpoint.drop_old(run, options.keep, options.keep_every)
    if stopped:
        log.warning("%s: told to stop; saved step %d. The same command resumes there", config.name, done.step)
    accelerator.end_training()
    if stop.interrupted:
        raise KeyboardInterrupt
    return checkpoint.step_folders(run)[-1]


def _resumed(step: int, steps: int) -> str:
    if step >= steps:
        return f"has its {steps} steps, nothing to do; more are trained with a larger train.steps"
    return f"resumed at step {step} of {steps}"


def _watched(feed: Feed, progress: bool) -> Iterator[Batch]:
    """The batches for calibration with a progress bar, which appears when they are read."""
    data = feed.config.data
    total = -(-data.calibration // data.batch)
    yield from tqdm(feed.calibration(), "measuring embeddings", total, disable=not progress, unit="batch")


def due(step: int, every: int) -> bool:
    """Whether `step` is a multiple of `every`; never if `every` is 0."""
    return bool(every) and step % every == 0


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Learning rate of step number `step` (from 0): a pure function, so there is no state to save."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.decay == "none":
        return config.lr * warm
    return config.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _clip_for(stage: Stage, config: RunConfig, sources: Sources, accelerator: Accelerator) -> Clip | None:
    """Load the frozen CLIP onto the device, if it must run; record its sizes in the stage."""
    try:
        clip, sizes = frozen_clip(config.clip, stage, sources)
        if sizes is not None:
            stage.for_clip(sizes)
    except ConfigError as error:
        raise ConfigError(f"{config.name}: {error}") from None
    return clip and clip.to(accelerator.device)


def _accelerator(config: RunConfig, run: Path) -> Accelerator:
    missing = [name for name in config.train.trackers if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{config.name}: train.trackers: {missing[0]} is not installed; pip install {missing[0]}"
        )
    device, precision = join_processes().device, config.train.precision
    if precision == "auto":
        precision = "bf16" if quick_in_bf16(device) else "no"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(f"{config.name}: train.precision=fp16 needs a GPU; on a CPU take bf16, or no")
    # The state is global; an earlier run in this process may have used another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=list(config.train.trackers) or None,
        project_dir=run,
        gradient_accumulation_steps=config.train.accumulate,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ConfigError(
            f"{config.name}: DeepSpeed's engine is not supported: it steps by itself and saves pickles. "
            "configs/accelerate/zero2.yaml shards the same by FSDP2"
        )
    return accelerator


def _resume_point(saved: Path | None, config: RunConfig, processes: int) -> Progress:
    """Progress from which the run continues, with the streams and batch of this number of processes."""
    done = checkpoint.read_progress(saved) if saved else Progress()
    batch = config.data.batch * processes * config.train.accumulate
    streams = config.train.streams or done.streams or processes
    if config.train.streams is None and not streams_fit(streams, config.data.batch, processes):
        streams = processes
    if done.streams and (streams, batch) != (done.streams, done.batch):
        log.warning(
            "%s: resumes after step %d with %d streams of data and %d images a step, instead of %d and %d; "
            "from here on, the samples differ from those of an uninterrupted run",
            config.name,
            done.step,
            streams,
            batch,
            done.streams,
            done.batch,
        )
    return replace(done, streams=streams, batch=batch)


def _limit(config: RunConfig, accelerator: Accelerator) -> float | None:
    """Images per second at the devices' peak FLOP/s; None if unknown. Known peaks are for half precision."""
    peak = peak_flops(accelerator.device) if accelerator.mixed_precision != "no" else None
    if config.train.peak_tflops is not None:
        peak = config.train.peak_tflops * 1e12
    return peak * accelerator.num_processes / flops_per_image(config) if peak else None
