"""Assemble trained stages into a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unclip import files
from unclip.clip import copy_clip, is_backend, local_weights
from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.models.clip_towers import Towers
from unclip.models.index import FILE, UNDISTILLED, ModelIndex
from unclip.models.lora import fit_all, is_adapter, merge
from unclip.models.resolve import Model, clip_identity, find_clip, resolve, role_of
from unclip.models.scaled import ScaledReference
from unclip.stages import load_stage, stage_class

CLIP = "clip"  # subfolder of a CLIP that is saved with the model


class _Part(NamedTuple):
    """A stage that the model will have: its folder and config, and the reference of the CLIP beside it."""

    folder: Path
    config: dict[str, Any]
    clip: str | None


def assemble(
    runs: Sequence[str | Path],
    out: Path,
    *,
    name: str | None = None,
    clip: str | None = None,
    dtype: torch.dtype | None = None,
    vocabulary: Sequence[str] | None = None,
) -> None:
    """Write the model folder `out` from trained stages, with one of them in memory at a time.

    Args:
        runs: references of stages: runs (their newest checkpoint), saved stages, mini/decoder, …; and of whole
            models, whose stages are replaced by single ones of the same role. LoRA adapters, as PATH or
            PATH:SCALE, are added to the weights of their stages.
        clip: reference of the CLIP if none of the runs is one. Default: that of the stages, where they lie in
            a model with a CLIP; if one has the text encoder of a CLIP and another its image encoder, both
            encoders. A public CLIP is saved by reference, any other is copied.
        dtype: dtype of the saved weights. None keeps each stage's.
        vocabulary: the words that the model was trained on. None for an open vocabulary, or the whole model's.

    Raises:
        CheckpointError: a stage is missing, given twice, or trained for another CLIP.
    """
    loras = [str(run) for run in runs if is_adapter(ScaledReference.parse(str(run)).ref)]
    models = [resolve(str(run)) for run in runs if str(run) not in loras]
    parts = _parts(models)
    mapped = {role: load_stage(part.folder, keep_dtype=True) for role, part in parts.items() if loras}
    adapters = fit_all(loras, mapped, out.name)
    given = [model.ref for model in models if model.kind == CLIP]
    if given and clip is not None:
        raise CheckpointError(f"cannot assemble {out}: a clip is among the runs already; leave out {clip}")
    missing = [role for role in ("prior", "decoder") if role not in parts]
    towers = None
    if CLIP not in parts and clip is None and not given:
        towers = Towers.among(part.clip for part in parts.values() if part.clip is not None)
    reference = None if CLIP in parts or towers else clip or next(iter(given), _clip_beside(parts))
    if missing or (CLIP not in parts and reference is None and towers is None):
        raise CheckpointError(f"cannot assemble {out}: no {missing[0] if missing else 'clip'} among the runs")
    reference = None if reference is None else find_clip(reference)
    if towers is not None:
        identity = towers.identities[0]
    else:
        identity = clip_identity(str(parts[CLIP].folder) if reference is None else reference)
    _check_widths(parts)  # first: of stages of different widths, the message names these
    for role, part in parts.items():
        if part.config.get("clip") not in (None, identity, reference, *(towers.identities if towers else ())):
            raise CheckpointError(
                f"{role} was trained for CLIP {part.config['clip']}, but this model would have {identity}"
            )
    base = next((model.index for model in models if _is_whole(model)), None)
    public, source = (None, None) if reference is None else clip_to_save(reference)
    with files.new_folder(out, replaces=FILE) as folder:
        for role, part in parts.items():
            stage = load_stage(part.folder)
            for _, change, scale in (one for one in adapters if one[0] == role):
                merge(stage, change, scale)
            if stage.config.clip is not None or role in ("prior", "decoder"):
                stage.config = stage.config.model_copy(update={"clip": identity})
            (folder / role).mkdir()
            if source:
                stage.complete(source)
            stage.save(folder / role, dtype)
            del stage
        if source:
            copy_clip(source, folder / CLIP)
        if towers:
            towers.write(folder / CLIP)
        ModelIndex.of(
            name or out.name,
            {role: role for role in parts if role != CLIP},
            clip=public or CLIP,
            vocabulary=base.vocabulary if vocabulary is None and base else vocabulary,
            precision=base.precision if base else None,
        ).write(folder)


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


def _is_whole(model: Model) -> bool:
    """Whether it has several stages; a model of one stage counts as that stage."""
    return model.kind is None and len(model.index.stages) != 1


def _parts(models: Sequence[Model]) -> dict[str, _Part]:
    """The stages by role, and under CLIP a CLIP that was trained here."""
    if len(models) == 1 and _is_whole(models[0]):
        ref = models[0].ref
        raise CheckpointError(
            f"{ref}: is a whole model; name one of its stages, as {ref}/decoder, or also a stage that replaces one"
        )
    whole: dict[str, _Part] = {}
    single: dict[str, _Part] = {}
    for model in models:
        parts = whole if _is_whole(model) else single
        for role, folder in _folders(model).items():
            part = _Part(folder, read_json(folder / "config.json"), model.clip)
            if role == "decoder" and role in parts:
                role = _of_two_decoders(parts, part)
            if role in parts:
                raise CheckpointError(f"{model.ref}: there is a {role} already")
            parts[role] = part
    if "decoder" in single and single["decoder"].config.get("distilled") is None:
        whole.pop(UNDISTILLED, None)
    return {**whole, **single}


def _of_two_decoders(parts: dict[str, _Part], second: _Part) -> str:
    """The role of a second decoder: a model may hold a distilled one and the one that it came from."""
    first = parts["decoder"]
    distilled = [part for part in (first, second) if part.config.get("distilled") is not None]
    if distilled == [second]:
        parts[UNDISTILLED] = parts.pop("decoder")
        return "decoder"
    return UNDISTILLED if distilled == [first] else "decoder"


def _folders(model: Model) -> dict[str, Path]:
    """Folder of each stage by its role."""
    if model.kind is None:
        return {role: model.stage(role) for role in model.roles if role != CLIP}
    config = read_json(model.folder / "config.json")
    if model.kind == CLIP and "architecture" not in config:
        return {}  # a CLIP of another program, which is no stage and is copied
    role = role_of(stage_class(model.kind), config.get("size"))
    if role is None:
        raise CheckpointError(f"{model.ref}: a {model.kind} has no place in a model folder")
    return {role: model.folder}


def _clip_beside(parts: dict[str, _Part]) -> str | None:
    """Reference of the CLIP that the stages come with; those that record their CLIP come first."""
    ordered = sorted(parts.values(), key=lambda part: part.config.get("clip") is None)
    return next((part.clip for part in ordered if part.clip is not None), None)


def _check_widths(parts: dict[str, _Part]) -> None:
    """Check that the stages read embeddings of the same widths: not all of them record their CLIP."""
    known: dict[str, tuple[str, int]] = {}
    for role, part in sorted(parts.items(), key=lambda item: item[1].config.get("clip") is None):
        for key in ("embed", "token_width"):
            if (width := part.config.get(key)) is not None:
                other, wanted = known.setdefault(key, (role, width))
                if width != wanted:
                    raise CheckpointError(
                        f"{role} has {key} {width}, but {other} has {wanted}: they were trained for different CLIPs"
                    )
