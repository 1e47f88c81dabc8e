"""Distillation: the student's config from its teacher's, and the teacher beside a stage in training."""

from __future__ import annotations

from typing import Any

import torch

from unclip.config import parse
from unclip.diffusion.distillation import Teacher
from unclip.errors import ConfigError
from unclip.models.resolve import Model, resolve
from unclip.stages import load_stage
from unclip.stages.config import DiffusionStageConfig, parse_checkpoint
from unclip.stages.configs import CONFIGS, DecoderConfig, UpsamplerConfig
from unclip.stages.diffusion import DiffusionStage
from unclip.train.config import DistillConfig

# What a student samples with: one step of DDIM is what it learns, with the guidance inside.
SAMPLING = {"sampler": "ddim", "eta": 0.0, "guidance": 1.0, "interval": None, "rescale": 0.0}


def with_student(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """Fill in the keys that a run that distils takes from its teacher: `stage`, `init` and `clip`.

    Args:
        tree: the run's config as read from YAML; its `stage` names the changes of the teacher's.
        where: name of the file, for messages.

    Raises:
        ConfigError: the block `distill` is wrong, or this teacher or student cannot be distilled.
        CheckpointError: there is no such teacher.
    """
    options = parse(DistillConfig, tree["distill"], f"{where}: distill")
    model, teacher = _teacher(options.teacher)
    if teacher is None:
        what = (
            f"a {model.kind}" if model.kind else f"a whole model; name a stage, as {options.teacher}/decoder"
        )
        raise ConfigError(
            f"{where}: distill.teacher: only a decoder or an upsampler can be distilled; {options.teacher} is {what}"
        )
    changes = tree.get("stage") or {}
    if not isinstance(changes, dict):
        raise ConfigError(f"{where}: stage: expected the keys in which the student differs from its teacher")
    student = teacher.model_dump(mode="json")
    student["sampling"] |= {**SAMPLING, "steps": options.steps}
    if isinstance(teacher, UpsamplerConfig):
        student["expert"] = False  # the student learns the expert's step as well
    # At t = T − 1, where alpha is nearly 0, a predicted eps says nothing of x0 (Salimans & Ho 2022, §4).
    if teacher.diffusion.predict == "eps":
        student["diffusion"]["predict"] = "v"
    _merge(student, changes)
    for key in ("schedule", "times"):
        if (ours := student["diffusion"][key]) != (theirs := getattr(teacher.diffusion, key)):
            raise ConfigError(f"{where}: stage.diffusion.{key}: is {ours}, the teacher's is {theirs}")
    if student["diffusion"]["predict"] == "eps":
        raise ConfigError(f"{where}: stage.diffusion.predict: eps cannot make few steps; take v or x0")
    student["distilled"] = {"steps": options.steps, "guidance": _guidance(teacher, options, where)}
    taken = {"init": options.teacher, "clip": model.clip}
    return {**tree, "stage": student, **{key: tree.get(key) or value for key, value in taken.items()}}


def teach(stage: DiffusionStage, options: DistillConfig, device: torch.device) -> None:
    """Let a stage learn from a teacher. What is outside its network stays the teacher's."""
    folder = _teacher(options.teacher)[0].folder
    teacher = load_stage(folder).to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    assert isinstance(teacher, DiffusionStage) and isinstance(stage.config, DiffusionStageConfig)
    distilled = stage.config.distilled
    assert distilled is not None
    scale = 1.0 if _contained(teacher.config) != 1 else distilled.guidance
    sampling = teacher.config.sampling.updated({"guidance": scale})
    stage.teacher = Teacher(
        lambda cond, null: teacher.denoiser(cond, null if scale != 1 else None, sampling),
        teacher.diffusion.schedule,
        distilled.steps,
        options.substeps,
    )
    inside = set(stage.network.parameters())
    for parameter in stage.parameters():
        parameter.requires_grad_(parameter in inside)


def _teacher(ref: str) -> tuple[Model, DecoderConfig | UpsamplerConfig | None]:
    """The teacher's folder and config; None for what cannot be distilled."""
    model = resolve(ref)
    kind = CONFIGS.get(model.kind or "")
    if kind is None or not issubclass(kind, DecoderConfig | UpsamplerConfig):
        return model, None
    return model, parse_checkpoint(kind, model.folder)


def _contained(config: object) -> float:
    """The scale of guidance that a stage's predictions contain."""
    distilled = config.distilled if isinstance(config, DiffusionStageConfig) else None
    return distilled.guidance if distilled else 1.0


def _guidance(teacher: DecoderConfig | UpsamplerConfig, options: DistillConfig, where: str) -> float:
    """The scale of guidance that the student's predictions will contain."""
    contained, asked = _contained(teacher), options.guidance
    fixed = contained != 1 or isinstance(teacher, UpsamplerConfig)
    if fixed and asked not in (None, contained):
        why = "its guidance is distilled already" if contained != 1 else "an upsampler has no guidance"
        raise ConfigError(f"{where}: distill.guidance: {why}; leave it out")
    return contained if fixed else teacher.sampling.guidance if asked is None else asked


def _merge(tree: dict[str, Any], changes: dict[str, Any]) -> None:
    """Apply changes to a tree, block by block."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value
