"""Other programs' weights → our folders, by renaming alone: Karlo as diffusers keeps it, and single priors of that kind."""

from __future__ import annotations

import hashlib
from pathlib import Path

from unclip import __version__, files
from unclip.convert import diffusers
from unclip.errors import CheckpointError
from unclip.stages.base import Stage


def convert(source: Path, out: Path, *, parity: bool = False) -> None:
    """Writes a diffusers folder as ours, one stage in memory at a time.

    Args:
        source: a pipeline of unCLIP's shape → a model folder; or a PriorTransformer alone → a stage's folder.
        out: replaced, if a model folder or a stage is there.
        parity: clamp the prior's x0 as diffusers does, where Karlo's own code clamps at ±10.

    Raises:
        CheckpointError: another kind of model, missing or damaged files; nothing is written then.
    """
    if not (source / "model_index.json").is_file():
        stage = diffusers.read_prior(source, parity=parity)
        with files.new_folder(out, replaces="config.json") as folder:
            stage.save(folder)
        return
    kind = files.read_json(source / "model_index.json").get("_class_name")
    if kind not in diffusers.PIPELINES:
        raise CheckpointError(
            f"{source}: is a {kind or 'model of no named class'}, which unclip cannot run; "
            f"it converts {' and '.join(diffusers.PIPELINES)}"
        )
    from_captions = kind == "UnCLIPPipeline"
    with files.new_folder(out, replaces="model_index.json") as folder:
        clip = diffusers.copy_clip(source, folder / "clip", pictures=not from_captions)

        def write(role: str, stage: Stage) -> None:
            stage.config = stage.config.model_copy(update={"clip": clip})
            (folder / role).mkdir()
            stage.save(folder / role)

        if from_captions:
            write("prior", diffusers.read_prior(source / "prior", source / "prior_scheduler", parity=parity))
        decoder = diffusers.read_decoder(source / "decoder", source / "text_proj", source / "decoder_scheduler")
        size = decoder.size
        write("decoder", decoder)
        del decoder  # the upsampler is as large again
        upsampler = diffusers.read_upsampler(
            source / "super_res_first", source / "super_res_last", source / "super_res_scheduler", low=size
        )
        name = f"upsampler-{upsampler.size}"
        write(name, upsampler)
        files.write_json(folder / "model_index.json", {
            "format": files.FORMAT, "name": out.name, "unclip": __version__, "clip": "clip",
            "prior": "prior" if from_captions else None, "decoder": "decoder", "upsamplers": [name],
        })  # fmt: skip


def converted(folder: Path) -> Path:
    """A model folder of ours: the folder itself, or what `convert` makes of it, kept in the user's cache."""
    if "_class_name" not in files.read_json(folder / "model_index.json"):
        return folder
    digest = hashlib.sha256(__version__.encode())
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
