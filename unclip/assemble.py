"""Joins trained stages into one model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unclip import __version__, files
from unclip.errors import CheckpointError
from unclip.stages import load_stage
from unclip.stages.base import PriorRole, Stage
from unclip.stages.clip import ClipStage
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler


def assemble(
    runs: Sequence[Path], out: Path, *, name: str | None = None, clip: str | None = None,
    dtype: torch.dtype | None = None, vocabulary: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Writes `out` from the newest checkpoints of the runs (or from saved stages).

    Args:
        clip: reference of a public CLIP (openclip:…, hf:…), where none of the runs is one.
        dtype: precision of the saved weights; as they are if not given.
        vocabulary: the words the model knows, if its world is closed.

    Raises:
        CheckpointError: a stage is missing, there twice, or trained for another CLIP.
    """
    stages: dict[str, Stage] = {}
    for run in runs:
        stage = load_stage(files.stage_folder(run))
        role = _role_name(stage)
        if role in stages:
            raise CheckpointError(f"{run}: there is a {role} already")
        stages[role] = stage
    missing = [role for role in ("prior", "decoder") if role not in stages]
    if missing or ("clip" not in stages and clip is None):
        raise CheckpointError(f"cannot assemble {out}: no {missing[0] if missing else 'clip'} among the runs")
    identity = stages["clip"].config.clip if "clip" in stages else clip
    for role, stage in stages.items():
        if stage.config.clip not in (None, identity):
            raise CheckpointError(
                f"{role} was trained for CLIP {stage.config.clip}, but this model would have {identity}"
            )
    upsamplers = sorted((role for role in stages if role.startswith("upsampler-")), key=lambda r: int(r.split("-")[1]))
    index: dict[str, Any] = {
        "format": files.FORMAT, "name": name or out.name, "unclip": __version__, "clip": "clip" if "clip" in stages else clip,
        "prior": "prior", "decoder": "decoder", "upsamplers": upsamplers,
    }  # fmt: skip
    if vocabulary is not None:
        index["vocabulary"] = sorted(vocabulary)
    with files.new_folder(out, replaces="model_index.json") as folder:
        for role, stage in stages.items():
            (folder / role).mkdir()
            stage.save(folder / role, dtype)
        files.write_json(folder / "model_index.json", index)


def _role_name(stage: Stage) -> str:
    if isinstance(stage, Upsampler):
        return f"upsampler-{stage.size}"
    for kind, role in ((ClipStage, "clip"), (PriorRole, "prior"), (Decoder, "decoder")):
        if isinstance(stage, kind):
            return role
    raise CheckpointError(f"a {stage.config.kind} has no place in a model folder")
