"""What a model consists of: by its index, or, where a reference names a single stage, that stage and the CLIP beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip import files
from unclip.config import read_yaml
from unclip.convert import converted
from unclip.errors import CheckpointError
from unclip.stages import stage_class
from unclip.stages.base import PriorRole
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler


@dataclass(frozen=True)
class Parts:
    """Folders of a model's parts, relative to its own.

    Attributes:
        folder: the model's, or the stage's.
        index: as in `model_index.json`; made up for a stage by itself.
        clip: a folder, or the reference of a public CLIP.
    """

    folder: Path
    index: dict[str, Any]
    clip: str | None
    prior: str | None
    decoder: str | None
    upsamplers: tuple[str, ...]

    @property
    def clip_reference(self) -> str | None:
        """The CLIP as `load_clip` takes it."""
        return None if self.clip is None else _reference(self.folder, self.clip)

    @property
    def stages(self) -> list[str]:
        """The folders of the stages, in the order of the chain."""
        return [name for name in (self.prior, self.decoder, *self.upsamplers) if name is not None]


def find_parts(ref: str, *, revision: str | None = None, token: str | None = None) -> Parts:
    """The parts of what `ref` names: a model, or a stage by itself. See `Pipeline.from_pretrained`.

    Raises:
        CheckpointError: nothing there, a format that this version does not read, or an index that leads out of its folder.
    """
    folder = converted(files.find_model(ref, revision=revision, token=token))
    if not (folder / "model_index.json").is_file():
        name = ref if Path(ref).exists() else ref.partition("@")[0]
        return _single(files.stage_folder(folder), Path(name).resolve().name)
    index = files.read_json(folder / "model_index.json")
    if index.get("format") != files.FORMAT:
        raise CheckpointError(
            f"{folder}/model_index.json: format {index.get('format')!r}, this version reads {files.FORMAT}"
        )
    try:
        clip, prior, decoder = (None if index[key] is None else str(index[key]) for key in ("clip", "prior", "decoder"))
        parts = Parts(folder, index, clip, prior, decoder, tuple(str(name) for name in index["upsamplers"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/model_index.json: says nothing of {error}") from None
    for part in (*parts.stages, *([] if clip is None else [clip])):
        files.check_inside(folder, part)
    return parts


def _single(folder: Path, name: str) -> Parts:
    kind = files.read_json(folder / "config.json").get("kind")
    if not isinstance(kind, str):
        raise CheckpointError(f"{folder}: neither a model nor a stage of one; its config.json says no kind of stage")
    cls = stage_class(kind)
    prior, decoder = ("." if issubclass(cls, role) else None for role in (PriorRole, Decoder))
    upsamplers = (".",) if issubclass(cls, Upsampler) else ()
    if not (prior or decoder or upsamplers):
        raise CheckpointError(f"{folder}: is a {kind} by itself, of which no pipeline is made")
    clip = None if upsamplers else _clip_beside(folder)
    index = {
        "format": files.FORMAT, "name": name, "clip": clip, "prior": prior, "decoder": decoder,
        "upsamplers": list(upsamplers),
    }  # fmt: skip
    return Parts(folder, index, clip, prior, decoder, upsamplers)


def _clip_beside(folder: Path) -> str | None:
    """The CLIP of the model that a stage's folder is part of, or of the run that saved it."""
    model, run = folder.absolute().parent / "model_index.json", folder.parent / "run.yaml"
    if model.is_file():
        clip = files.read_json(model).get("clip")
        if clip is None:
            return None
        files.check_inside(model.parent, str(clip))
        return _reference(model.parent, str(clip))
    trained_with = read_yaml(run).get("clip") if run.is_file() else None
    return None if trained_with is None else str(trained_with)


def _reference(folder: Path, clip: str) -> str:
    return str(folder / clip) if (folder / clip).is_dir() else clip
