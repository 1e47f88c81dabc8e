"""Checkpoints: a folder that is a loadable stage (EMA weights), with what resuming needs beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from unclip.errors import CheckpointError
from unclip.files import load_weights, new_folder, read_json, read_weights, save_weights, write_json
from unclip.stages.base import Stage
from unclip.train.ema import Ema


def step_folders(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Folders are renamed into place, so one that is seen is complete."""
    return sorted(p for p in run.glob("step-*") if (p / "progress.json").is_file())


def write(
    run: Path,
    accelerator: Accelerator,
    stage: Stage,
    ema: Ema,
    optimizer: torch.optim.Optimizer,
    step: int,
    images: int,
    keep: int,
) -> None:
    """Writes `step-NNNNNNNN` and drops the oldest beyond `keep`. Called by every process; the main one writes."""
    states = accelerator.gather(torch.get_rng_state()[None].to(accelerator.device)).cpu()
    if accelerator.is_main_process:
        with new_folder(run / f"step-{step:08d}") as folder:
            ema.stage.save(folder)
            state = folder / "state"
            state.mkdir()
            save_weights(stage, state / "weights.safetensors")
            save_file({"rng": states, **_optimizer_tensors(optimizer)}, state / "optimizer.safetensors")
            write_json(folder / "progress.json", {"step": step, "images": images})
        for old in step_folders(run)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def resume(
    folder: Path, accelerator: Accelerator, stage: Stage, ema: Ema, optimizer: torch.optim.Optimizer
) -> tuple[int, int]:
    """Puts everything back as `write` found it; returns (step, images)."""
    progress = read_json(folder / "progress.json")
    _load_in_place(stage, folder / "state/weights.safetensors")
    _load_in_place(ema.stage, folder / "model.safetensors")
    saved = read_weights(folder / "state/optimizer.safetensors")
    _restore_optimizer(optimizer, saved, folder)
    states = saved["rng"]
    # The last thing, so that nothing built above can have drawn from it.
    torch.set_rng_state(states[min(accelerator.process_index, len(states) - 1)].contiguous())
    return int(progress["step"]), int(progress["images"])


def _load_in_place(module: Stage, path: Path) -> None:
    """Copies into the existing parameters: the optimizer and wrappers hold on to them."""
    twin = type(module)(module.config)
    load_weights(twin, path)
    module.load_state_dict(twin.state_dict())


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state as plain tensors `NUMBER.name`: safetensors instead of a pickle."""
    tensors = {}
    for i, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{i}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor], folder: Path) -> None:
    for i, parameter in enumerate(_parameters(optimizer)):
        state = {key.partition(".")[2]: value for key, value in saved.items() if key.startswith(f"{i}.")}
        if state and state["exp_avg"].shape != parameter.shape:
            raise CheckpointError(f"{folder}: the optimizer's state belongs to another architecture")
        optimizer.state[parameter] = {
            # Laid out in memory as the parameter is (channels last): the fused kernel walks both alike.
            name: value if name == "step" else torch.empty_like(parameter).copy_(value)
            for name, value in state.items()
        }
