"""Resolve references of models, stages and CLIPs, for every option and config key that takes one.

mini, mini/decoder                    the bundled model, one of its stages
my-model, my-model/decoder            a model folder, one of its stages
runs/prior, runs/prior/step-00001000  the newest checkpoint of a training run, a given one
owner/name@revision, owner/name/decoder@revision    a repository on the Hub, one of its stages
a folder of diffusers or of one of its networks, a folder of Karlo's .ckpt files or one of them
openclip:ViT-L-14/openai, hf:openai/clip-vit-large-patch14    a CLIP of another library
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from unclip import clip as encoders
from unclip import files
from unclip.clip import Clip, read_clip
from unclip.config import read_yaml
from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.models import hub
from unclip.models.convert import converted
from unclip.models.index import FILE, UNDISTILLED, ModelIndex
from unclip.stages import LORA, stage_class
from unclip.stages.base import Stage

RUN = "run.yaml"


@dataclass(frozen=True)
class Model:
    """A resolved reference: a whole model, or a single stage.

    Attributes:
        ref: the reference, for messages.
        folder: folder of the model or the stage.
        index: index of the model; for a single stage, an index of that stage with "." as its folder.
        clip: reference of its CLIP, see `load_clip`. None without a CLIP.
        kind: kind of a single stage. None for a whole model.
    """

    ref: str
    folder: Path
    index: ModelIndex
    clip: str | None
    kind: str | None = None

    def stage(self, role: str) -> Path:
        """Folder of the stage with a role; for a single stage, its own folder whatever the role.

        Args:
            role: "clip", "prior", "decoder", "decoder-slow" or "upsampler-SIZE".

        Raises:
            CheckpointError: the model has no such stage.
        """
        if self.kind is not None:
            return self.folder
        roles = self.roles
        if role not in roles:
            raise CheckpointError(f"{self.ref}: has no {role}; its stages are {', '.join(roles) or 'none'}")
        return self.folder / roles[role]

    @property
    def roles(self) -> dict[str, str]:
        """Folder of each part by its role, including a CLIP saved with the model."""
        index = self.index
        clip = {"clip": index.clip} if index.clip and (self.folder / index.clip).is_dir() else {}
        parts = {"prior": index.prior, "decoder": index.decoder, UNDISTILLED: index.undistilled}
        single = {role: name for role, name in parts.items() if name is not None}
        sizes = {
            f"upsampler-{read_json(self.folder / n / 'config.json').get('size')}": n for n in index.upsamplers
        }
        return {**clip, **single, **sizes}


def resolve(ref: str, *, revision: str | None = None, token: str | None = None) -> Model:
    """Resolve `ref` to a model or a stage; other programs' files are converted into the cache folder.

    Args:
        revision, token: see `locate`.

    Raises:
        CheckpointError: no model there, or an index of another format.
    """
    folder = locate(ref, revision=revision, token=token)
    folder = folder if encoders.is_clip(folder) else converted(folder)
    if (folder / FILE).is_file():
        index = ModelIndex.read(folder)
        return Model(ref, folder, index, None if index.clip is None else _clip_of(folder, index.clip))
    name = ref if Path(ref).exists() else ref.partition("@")[0]
    return _single(ref, _newest(folder), Path(name).resolve().name)


def load_clip(ref: str) -> Clip:
    """Load a CLIP: one of another library (`openclip:…`, `hf:…`), a saved CLIP stage or a model's CLIP.

    Raises:
        CheckpointError: no model there, or a model or stage without a CLIP.
        ConfigError: an unknown library.
    """
    return read_clip(find_clip(ref))


def find_clip(ref: str) -> str:
    """Resolve `ref` to a CLIP's folder or `backend:name`, as `read_clip` takes it."""
    if encoders.is_backend(ref):
        return ref
    model = resolve(ref)
    if model.clip is None:
        raise CheckpointError(
            f"{ref}: comes without a CLIP; name the folder of one, or openclip:NAME/TAG, or hf:NAME"
        )
    own = model.clip == str(model.folder / (model.index.clip or "."))
    return model.clip if own else find_clip(model.clip)


def clip_identity(ref: str) -> str:
    """The identity of a CLIP; its weights are read only if neither reference nor config.json records it."""
    found = find_clip(ref)
    if encoders.is_backend(found) and encoders.local_weights(found) is None:
        return found
    config = Path(found) / "config.json"
    recorded = read_json(config).get("identity") if config.is_file() else None
    return str(recorded) if recorded else read_clip(found).identity


def locate(ref: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Find the folder or .ckpt file of `ref`, downloaded from the Hub if needed, without conversion.

    Args:
        revision: branch, tag or commit of a Hub repository; also as owner/name@revision in `ref`.
        token: see `hub.fetch`.

    Raises:
        CheckpointError: no model there.
    """
    if not ref:
        raise CheckpointError("an empty reference names no model; give mini, a folder or a Hub id owner/name")
    path, parts, bundled = Path(ref), Path(ref).parts, _is_bundled(ref)
    if revision is not None and (bundled or path.exists()):
        raise CheckpointError(f"{ref}: is a folder; a revision is a Hub repository's")
    if bundled:
        return _part(files.BUNDLED / parts[0], "/".join(parts[1:]), parts[0])
    if path.is_file() and path.suffix != ".ckpt":
        raise CheckpointError(
            f"{ref}: is a file, not a model folder; a pickle or single file is never loaded as a model"
        )
    if path.exists():
        if not path.is_file() and not _is_model(path):
            raise CheckpointError(
                f"{ref}: no {FILE} in it; `unclip assemble` makes model folders; "
                "it is neither a saved stage nor a run with a checkpoint"
            )
        return path
    if not hub.is_id(ref):
        raise CheckpointError(
            f"{ref}: no such model; there is the bundled 'mini', or give a folder or a Hub id owner/name"
        )
    repository, part = hub.split(ref if revision is None else f"{ref}@{revision}")
    fetched = _part(hub.fetch(repository, token), part, repository)
    if not _is_model(fetched):
        raise CheckpointError(f"{ref}: that Hub repository holds no unclip model (no {FILE})")
    return fetched


def role_of(kind: type[Stage], size: object = None) -> str | None:
    """Role of a stage in a model: "clip", "prior", "decoder", "upsampler-SIZE"; None for other stages."""
    return f"upsampler-{size}" if kind.role == "upsampler" else kind.role


def _is_bundled(ref: str) -> bool:
    """Whether the reference names the bundled model or a stage of it."""
    parts = Path(ref).parts
    named = bool(parts) and ".." not in parts and parts[0].isidentifier()
    return named and (files.BUNDLED / parts[0] / FILE).is_file()


def _is_model(folder: Path) -> bool:
    """Whether the folder may hold a model, stage or run (ours, diffusers' or Karlo's) or a CLIP."""
    names = (FILE, "config.json", "open_clip_config.json")
    found = any((folder / name).is_file() for name in names)
    return found or any(path for pattern in ("*.ckpt", "step-*") for path in folder.glob(pattern))


def _part(model: Path, part: str, name: str) -> Path:
    """The folder of a model, or of its stage `part`."""
    if part and not (model / part / "config.json").is_file():
        there = sorted(path.parent.name for path in model.glob("*/config.json"))
        raise CheckpointError(f"{name}: has no {part}; its stages are {', '.join(there) or 'none'}")
    return model / part if part else model


def _newest(folder: Path) -> Path:
    """The folder of a saved stage: the folder itself, or a run's newest complete checkpoint."""
    if (folder / "config.json").is_file() or encoders.is_clip(folder):
        return folder
    complete = sorted(path for path in folder.glob("step-*") if (path / "progress.json").is_file())
    if not complete:
        raise CheckpointError(f"{folder}: neither a saved stage nor a run with a checkpoint")
    return complete[-1]


def _single(ref: str, folder: Path, name: str) -> Model:
    if encoders.is_clip(folder):
        return Model(ref, folder, ModelIndex.of(name, {}, clip="."), str(folder), "clip")
    tree = read_json(folder / "config.json")
    kind = tree.get("kind")
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{folder}: neither a model nor a stage; its config.json names no kind of stage"
        )
    if kind == LORA:
        return Model(ref, folder, ModelIndex.of(name, {}, clip=None), None, kind)
    role = role_of(stage_class(kind), tree.get("size"))
    index = ModelIndex.of(name, {} if role is None else {role: "."}, clip=None)
    return Model(ref, folder, index, _clip_beside(folder) if index.prior or index.decoder else None, kind)


def _clip_beside(folder: Path) -> str | None:
    """Reference of the CLIP of the model or the run that a stage's folder belongs to."""
    parent = folder.absolute().parent
    if (parent / FILE).is_file() and "_class_name" not in read_json(parent / FILE):
        clip = ModelIndex.read(parent).clip
        return None if clip is None else _clip_of(parent, clip)
    trained_with = read_yaml(parent / RUN).get("clip") if (parent / RUN).is_file() else None
    return None if trained_with is None else _from_run(parent, str(trained_with))


def _from_run(run: Path, ref: str) -> str:
    """A reference of a run's config, which may be relative to the folder in which the run was started.

    Runs record absolute paths; older ones, and those that were moved with what they refer to, do not find
    them: the folders above the run are searched for a relative path.
    """
    if encoders.is_backend(ref) or Path(ref).is_absolute() or _is_bundled(ref):
        return ref
    places = (folder / ref for folder in run.absolute().parents)
    return next((str(place) for place in places if place.exists() and _is_model(place)), ref)


def absolute(ref: str) -> str:
    """A reference that means the same in every working directory: a local path made absolute."""
    local = not (encoders.is_backend(ref) or _is_bundled(ref)) and os.path.exists(ref)
    return str(Path(ref).absolute()) if local else ref


def _clip_of(folder: Path, clip: str) -> str:
    if (folder / clip).is_dir():
        return str(folder / clip)
    if not encoders.is_backend(clip):
        raise CheckpointError(
            f"{folder / FILE}: clip is {clip!r}: no CLIP there, and not one of another library, as "
            "openclip:NAME/TAG"
        )
    return clip
