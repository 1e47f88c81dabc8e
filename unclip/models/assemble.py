"""Assemble trained stages into a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unclip import files
from unclip.clip import copy_clip, is_backend, local_weights, read_clip
from unclip.errors import CheckpointError
from unclip.models.index import FILE, UNDISTILLED, ModelIndex
from unclip.models.resolve import find_clip, resolve, role_of
from unclip.stages import load_stage
from unclip.stages.base import Stage

CLIP = "clip"  # subfolder of a CLIP that is saved with the model


def assemble(
    runs: Sequence[str | Path],
    out: Path,
    *,
    name: str | None = None,
    clip: str | None = None,
    dtype: torch.dtype | None = None,
    vocabulary: Sequence[str] | None = None,
) -> None:
    """Write the model folder `out` from trained stages.

    Args:
        runs: references of single stages: runs (their newest checkpoint), saved stages, mini/decoder, ….
        clip: reference of the CLIP if none of the runs is one. A public CLIP is saved by reference, any other
            is copied.
        dtype: dtype of the saved weights. None keeps each stage's.
        vocabulary: the words that the model was trained on. None for an open vocabulary.

    Raises:
        CheckpointError: a stage is missing, given twice, or trained for another CLIP.
    """
    stages = _stages(runs)
    missing = [role for role in ("prior", "decoder") if role not in stages]
    if missing or (CLIP not in stages and clip is None):
        raise CheckpointError(f"cannot assemble {out}: no {missing[0] if missing else 'clip'} among the runs")
    if CLIP in stages and clip is not None:
        raise CheckpointError(f"cannot assemble {out}: a clip is among the runs already; leave out {clip}")
    reference = None if clip is None else find_clip(clip)
    identity = stages[CLIP].config.clip if reference is None else _identity(reference)
    for role, stage in stages.items():
        if stage.config.clip not in (None, identity, reference):
            raise CheckpointError(
                f"{role} was trained for CLIP {stage.config.clip}, but this model would have {identity}"
            )
        if stage.config.clip is not None:
            stage.config = stage.config.model_copy(update={"clip": identity})
    public, source = (None, None) if reference is None else clip_to_save(reference)
    with files.new_folder(out, replaces=FILE) as folder:
        for role, stage in stages.items():
            (folder / role).mkdir()
            stage.save(folder / role, dtype)
        if source:
            copy_clip(source, folder / CLIP)
        roles = {role: role for role in stages if role != CLIP}
        ModelIndex.of(name or out.name, roles, clip=public or CLIP, vocabulary=vocabulary).write(folder)


def clip_to_save(reference: str) -> tuple[str | None, Path | None]:
    """How to save a CLIP in a model folder: (reference, None) if public, else (None, folder to copy).

    Args:
        reference: see `read_clip`.

    Raises:
        CheckpointError: its weights are a single file or a pickle, which a model folder cannot hold.
    """
    if not is_backend(reference):
        return None, Path(reference)
    local = local_weights(reference)
    if local is not None and not (local.is_dir() and any(local.glob("*.safetensors"))):
        raise CheckpointError(
            f"{reference}: its weights are no safetensors in a folder of their own; save this CLIP as that"
        )
    return (reference, None) if local is None else (None, local)


def _identity(reference: str) -> str:
    """The identity of a CLIP; a public one is not downloaded, its reference is its identity."""
    public = is_backend(reference) and local_weights(reference) is None
    return reference if public else read_clip(reference).identity


def _stages(runs: Sequence[str | Path]) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for run in runs:
        found = resolve(str(run))
        if found.kind is None:
            parts = found.index.stages
            if len(parts) != 1:
                raise CheckpointError(f"{run}: is a whole model; name one of its stages, as {run}/decoder")
            stage = load_stage(found.folder / parts[0])
        else:
            stage = load_stage(found.folder)
        role = role_of(type(stage), getattr(stage.config, "size", None))
        if role is None:
            raise CheckpointError(f"{run}: a {stage.config.kind} has no place in a model folder")
        if role == "decoder" and role in stages:
            role = _of_two_decoders(stages, stage)
        if role in stages:
            raise CheckpointError(f"{run}: there is a {role} already")
        stages[role] = stage
    return stages


def _of_two_decoders(stages: dict[str, Stage], second: Stage) -> str:
    """The role of a second decoder: a model may hold a distilled one and the one that it came from."""
    first = stages["decoder"]
    distilled = [stage for stage in (first, second) if getattr(stage.config, "distilled", None) is not None]
    if distilled == [second]:
        stages[UNDISTILLED] = stages.pop("decoder")
        return "decoder"
    return UNDISTILLED if distilled == [first] else "decoder"
