"""Checkpoints: a loadable stage or adapter (EMA weights), with the state for resuming beside it.

A checkpoint holds no state of random generators: the draws of a step depend only on the seed and the step's
number (see feed.py), on any number of processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from unclip.device import join_processes
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.files import load_weights, new_folder, read_json, read_weights, write_json, write_weights
from unclip.locks import hold
from unclip.stages.base import Stage
from unclip.stages.config import parse_checkpoint
from unclip.stages.lora import load_trained, save_trained, saved_stage, trained_state, twin_of
from unclip.train.config import RunConfig
from unclip.train.ema import Ema, full, laid_out_like

LOCK = ".lock"  # file in a run's folder while it trains
FREE = ("stage.sampling",)  # keys that may change when a run resumes


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: number of steps done.
        images: number of images read.
        skipped: number of steps skipped because of a bad gradient.
        streams: number of data streams.
        batch: images per step, over all processes.
        scaler: state of fp16's loss scaling.
    """

    step: int = 0
    images: int = 0
    skipped: int = 0
    streams: int = 0
    batch: int = 0
    scaler: dict[str, float] | None = None


@contextmanager
def only_run(run: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder. Every process must call this.

    Raises:
        RequestError: another training holds the folder; the message names its process.
    """
    with ExitStack() as held:
        failure: str | None = None
        if join_processes().is_main_process:
            try:
                held.enter_context(hold(run / LOCK, str(run)))
            except RequestError as error:
                failure = str(error)
        if join_processes().num_processes > 1:  # the others would wait for the main process forever
            (failure,) = broadcast_object_list([failure])
        if failure:
            raise RequestError(failure)
        yield


def step_folders(run: Path) -> list[Path]:
    """Return the run's complete checkpoints, oldest first."""
    return sorted(p for p in run.glob("step-*") if (p / "progress.json").is_file())


def read_progress(folder: Path) -> Progress:
    """Read a checkpoint's progress."""
    saved = read_json(folder / "progress.json")
    return Progress(**{field.name: saved[field.name] for field in fields(Progress) if field.name in saved})


def write(
    run: Path,
    accelerator: Accelerator,
    stage: Stage,
    emas: list[Ema],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write `step-NNNNNNNN`. Every process must call this; the main process writes.

    Raises:
        CheckpointError: it cannot be written (disk full); earlier checkpoints are intact.
    """
    folder = run / f"step-{progress.step:08d}"
    main = accelerator.is_main_process
    weights = _gathered(trained_state(stage), main)
    state = _gathered(_optimizer_tensors(optimizer), main)
    averages = [ema.stage(stage) for ema in emas]
    failure: str | None = None
    if main:
        try:
            with new_folder(folder) as new:
                save_trained(averages[0], new)
                for ema, average in zip(emas[1:], averages[1:], strict=True):
                    (new / f"ema-{ema.decay}").mkdir()
                    save_trained(average, new / f"ema-{ema.decay}")
                (new / "state").mkdir()
                write_weights(weights, new / "state/weights.safetensors")
                write_weights(state, new / "state/optimizer.safetensors")
                write_json(new / "progress.json", asdict(progress))
        except (OSError, CheckpointError) as error:
            last = step_folders(run)
            failure = (
                f"{folder}: cannot be written ({error}); "
                f"{f'{last[-1].name} is still good' if last else 'there is none before it'}; "
                "make room and run the same command again"
            )
    # The other processes wait here and learn of a failure.
    (failure,) = broadcast_object_list([failure])
    if failure:
        raise CheckpointError(failure)


def drop_old(run: Path, keep: int, keep_every: int) -> None:
    """Remove checkpoints, except the newest `keep` and those at multiples of `keep_every`."""
    for old in step_folders(run)[:-keep]:
        if not keep_every or int(old.name.removeprefix("step-")) % keep_every:
            # Renamed first, so that every visible checkpoint is complete.
            shutil.rmtree(old.rename(run / f".{old.name}.tmp"))


def sweep(run: Path) -> None:
    """Remove checkpoints that a killed process left half-written or half-removed, and their locks."""
    for left in run.glob(".step-*.tmp"):
        shutil.rmtree(left)
    for lock in run.glob(".step-*.lock"):
        lock.unlink()


def refuse_another(folder: Path, stage: Stage, config: RunConfig) -> None:
    """Check that a checkpoint fits the config of the run that resumes from it.

    Raises:
        ConfigError: the checkpoint is of another stage; the message names the keys that differ.
    """
    tree = saved_stage(read_json(folder / "config.json"))
    if tree.get("kind") != stage.config.kind:
        raise ConfigError(
            f"{folder}: is a {tree.get('kind')}, not a {stage.config.kind}; choose another folder with --out"
        )
    tree.pop("identity", None)  # of a CLIP's own weights
    saved = parse_checkpoint(type(stage.config), folder, tree)
    if saved.clip == config.clip:  # earlier versions named a CLIP in a local folder by its reference
        saved = saved.model_copy(update={"clip": stage.config.clip})
    if saved.lora and stage.config.lora and saved.lora.base != stage.config.lora.base:
        raise ConfigError(
            f"{folder}: the weights of init {config.init} have changed since this run began; an adapter goes on "
            "with those that it was trained on. Restore them, or start a new run (--out)"
        )
    before, now = (dict(flat(c.model_dump(mode="json"), "stage")) for c in (saved, stage.config))
    differ = [
        f"{'clip' if key == 'stage.clip' else key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    differ += [
        f"train.ema has {decay}, which the checkpoint has no average for"
        for decay in config.train.decays[1:]
        if not (folder / f"ema-{decay}").is_dir()
    ]
    if differ:
        raise ConfigError(
            f"{folder}: cannot resume with another config: {'; '.join(differ)}. Restore "
            "these values, or start a new run (--out)"
        )


def load_weights_into(folder: Path, stage: Stage) -> None:
    """Load the live weights; call before the stage is wrapped. Draws no random numbers."""
    path = folder / "state/weights.safetensors"
    if stage.config.lora is not None:
        return load_trained(stage, path)
    twin = twin_of(stage)
    load_weights(twin, path)
    stage.load_state_dict(twin.state_dict())  # copies: wrappers refer to the parameters


def load_rest(folder: Path, optimizer: torch.optim.Optimizer, emas: list[Ema]) -> None:
    """Load the optimizer's state and the averages, sharded like the parameters."""
    saved = read_weights(folder / "state/optimizer.safetensors")
    hidden = {id(weight) for weight in getattr(optimizer, "hidden", ())}
    for i, parameter in enumerate(_parameters(optimizer)):
        state = {key.partition(".")[2]: value for key, value in saved.items() if key.startswith(f"{i}.")}
        if any(value.shape != parameter.shape for name, value in state.items() if name != "step"):
            raise CheckpointError(f"{folder}: the optimizer's state belongs to another architecture")
        if state and ("momentum" in state) != (id(parameter) in hidden):
            raise ConfigError(
                f"{folder}: cannot resume with another optim.kind; restore it, or start a new run (--out)"
            )
        optimizer.state[parameter] = {
            name: value if name == "step" else laid_out_like(parameter.detach(), value)
            for name, value in state.items()
        }
    for i, ema in enumerate(emas):
        ema.load(read_weights((folder / f"ema-{ema.decay}" if i else folder) / "model.safetensors"))


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten the optimizer's state into tensors `NUMBER.name`, for safetensors instead of a pickle."""
    return {
        f"{i}.{name}": torch.as_tensor(value)
        for i, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def _gathered(tensors: dict[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """Gather sharded tensors on the CPU of processes with `wanted`; every process must call this."""
    whole = ((name, full(tensor.detach())) for name, tensor in tensors.items())
    return {name: tensor.cpu().contiguous() for name, tensor in whole if wanted}


def flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Flatten a nested config into `prefix.key.sub` and values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value
