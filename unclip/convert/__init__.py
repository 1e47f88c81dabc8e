"""Other programs' weights → our folders, by renaming alone: Karlo as diffusers keeps it or as published, single priors."""

from __future__ import annotations

import hashlib
from pathlib import Path

from unclip import __version__, files
from unclip.convert import diffusers, original
from unclip.errors import CheckpointError
from unclip.stages.base import Stage
from unclip.stages.decoder import Decoder
from unclip.stages.prior import Prior

LAYOUT = 2  # of what is written: what an older one left in the cache is made again


def convert(source: Path, out: Path, *, parity: bool = False) -> None:
    """Writes a foreign model as a folder of ours, one stage in memory at a time.

    Args:
        source: a diffusers pipeline of unCLIP's shape, or a folder of Karlo's own checkpoints → a model folder;
            the folder of one of its networks or a PriorTransformer's, or one of those checkpoints → a stage's folder.
        out: replaced, if a model folder or a stage is there.
        parity: clamp the prior's x0 as diffusers does, where Karlo's own code clamps at ±10, and run in float32 everywhere.

    Raises:
        CheckpointError: another kind of model, missing or damaged files; nothing is written then.
    """
    if (source / "model_index.json").is_file():
        _pipeline(source, out, parity=parity)
    elif any(source.glob("*.ckpt")):
        _checkpoints(source, out)
    else:
        stage = original.read_checkpoint(source) if source.is_file() else diffusers.read_stage(source, parity=parity)
        with files.new_folder(out, replaces="config.json") as folder:
            stage.save(folder)


def converted(folder: Path) -> Path:
    """A model folder of ours: the folder itself, or what `convert` makes of it, kept in the user's cache."""
    index = folder / "model_index.json"
    if index.is_file() and "_class_name" not in files.read_json(index):
        return folder
    digest = hashlib.sha256(f"{__version__} {LAYOUT}".encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # Of gigabytes of weights, size and time must do; a config is small enough to read.
        status = path.stat()
        digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    name = folder.parent.parent.name if folder.parent.name == "snapshots" else folder.resolve().name
    target = files.cache_folder() / "converted" / f"{name}-{digest.hexdigest()[:12]}"
    if not (target / "model_index.json").is_file():
        convert(folder, target)
    return target


def _pipeline(source: Path, out: Path, *, parity: bool) -> None:
    kind = files.read_json(source / "model_index.json").get("_class_name")
    if kind not in diffusers.PIPELINES:
        part = source / "prior"
        raise CheckpointError(
            f"{source}: is a {kind or 'model of no named class'}, which unclip cannot run; "
            f"it converts {' and '.join(diffusers.PIPELINES)}"
            + (f", and this one's {part} by itself" if diffusers.is_prior(part) else "")
        )
    from_captions = kind == "UnCLIPPipeline"
    with files.new_folder(out, replaces="model_index.json") as folder:
        clip = diffusers.copy_clip(source, folder / "clip", pictures=not from_captions)
        if from_captions:
            prior = diffusers.read_prior(source / "prior", source / "prior_scheduler", parity=parity)
            _save(prior, folder / "prior", clip)
            del prior  # the decoder is as large again
        decoder = diffusers.read_decoder(source)
        _save(decoder, folder / "decoder", clip)
        del decoder
        upsampler = diffusers.read_upsampler(source)
        name = f"upsampler-{upsampler.size}"
        _save(upsampler, folder / name, clip)
        prior_name = "prior" if from_captions else None
        _write_index(folder, out.name, clip="clip", prior=prior_name, upsampler=name, quick=not parity)


def _checkpoints(source: Path, out: Path) -> None:
    roles: dict[str, Path] = {}
    with files.new_folder(out, replaces="model_index.json") as folder:
        for path in sorted(source.glob("*.ckpt")):
            stage = original.read_checkpoint(path)
            role = stage.config.kind if isinstance(stage, Prior | Decoder) else original.UPSAMPLER
            if role in roles:
                raise CheckpointError(f"{path}: is a {role}, and so is {roles[role].name}; keep one of them")
            roles[role] = path
            _save(stage, folder / role, original.CLIP)
            del stage
        missing = [role for role in ("prior", "decoder", original.UPSAMPLER) if role not in roles]
        if missing:
            raise CheckpointError(f"{source}: none of its .ckpt files is Karlo's {missing[0]}")
        _write_index(folder, out.name, clip=original.CLIP, prior="prior", upsampler=original.UPSAMPLER, quick=True)


def _save(stage: Stage, folder: Path, clip: str) -> None:
    stage.config = stage.config.model_copy(update={"clip": clip})
    folder.mkdir()
    stage.save(folder)


def _write_index(folder: Path, name: str, *, clip: str, prior: str | None, upsampler: str, quick: bool) -> None:
    files.write_json(folder / "model_index.json", {
        "format": files.FORMAT, "name": name, "unclip": __version__, "clip": clip, "prior": prior,
        "decoder": "decoder", "upsamplers": [upsampler], **({"precision": "quick"} if quick else {}),
    })  # fmt: skip
