"""Convert other programs' weights to model folders by renaming tensors.

Reads Karlo in diffusers' layout or as its own checkpoints, Kandinsky 2.2, Stable unCLIP, and priors of
Kandinsky 2.1 and ECLIPSE.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from unclip import files
from unclip.cache import cache_folder, writable_cache
from unclip.errors import CheckpointError
from unclip.locks import hold
from unclip.models.convert import diffusers_stages, eclipse, karlo_ckpt, latent_kandinsky, latent_stable
from unclip.models.convert.diffusers_stages import check_clip, copy_clip
from unclip.models.convert.pipelines import CLIP, convert_pipeline, save_stage
from unclip.models.index import FILE, ModelIndex
from unclip.models.refusals import refuse_foreign
from unclip.stages.base import Stage
from unclip.stages.decoder import Decoder
from unclip.stages.prior import Prior
from unclip.stages.prior_onepass import OnePassPrior
from unclip.stages.upsampler import Upsampler
from unclip.version import __version__

FOLDER = "converted"  # in the cache folder
LAYOUT = 2  # version of the written folders; cached folders of an older one are converted again


def convert(source: Path, out: Path, *, parity: bool = False) -> None:
    """Convert another program's model or stage to a folder, with one stage in memory at a time.

    Args:
        source: a pipeline of diffusers (see `pipelines.PIPELINES`) or a folder of Karlo's checkpoints,
            written as a model folder; or the folder of one network (a PriorTransformer for instance) or one
            checkpoint, written as a stage.
        out: the folder to write; an existing model folder or stage is replaced.
        parity: clamp the prior's x0 as diffusers does (Karlo's own code clamps at ±10), and run in float32
            on every device.

    Raises:
        CheckpointError: an unsupported model, or missing or damaged files. Nothing is written then.
    """
    if (source / FILE).is_file():
        convert_pipeline(source, out, parity=parity)
    elif _is_whole(source):
        _checkpoints(source, out)
    else:
        with files.new_folder(out, replaces="config.json") as folder:
            _stage(source, parity=parity).save(folder)


def converted(source: Path) -> Path:
    """The folder to load for `source`: itself if it is ours, else its conversion in the cache folder.

    One of diffusers' networks or of Karlo's checkpoints becomes a model of that stage and its CLIP. Of several
    processes, one converts and the others wait for it.
    """
    if _is_ours(source):
        return source
    whole = _is_whole(source)
    folder = source if whole else source.parent
    digest = hashlib.sha256(f"{__version__} {LAYOUT} {source.name}".encode(errors="surrogateescape"))
    for path in sorted(_read_for(source)):
        # Weights are gigabytes, so only their size and time are hashed; configs are hashed whole.
        status = path.stat()
        digest.update(
            f"{os.path.relpath(path, folder)} {status.st_size} {status.st_mtime_ns}\n".encode(
                errors="surrogateescape"
            )
        )
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    cached = (path.name for path in folder.parents if path.name.startswith("models--"))  # a Hub snapshot
    name = next(cached, folder.resolve().name)
    part = "" if whole else f"-{source.stem}"
    unique = f"{name}{part}-{digest.hexdigest()[:12]}"
    if (cache_folder() / FOLDER / unique / FILE).is_file():  # perhaps read-only
        return cache_folder() / FOLDER / unique
    target = writable_cache(FOLDER) / unique
    with hold(target.with_name(f".{unique}.first"), f"the conversion of {source}", wait=True):
        if not (target / FILE).is_file():
            convert(source, target) if whole else _single(source, target)
    return target


def _is_ours(source: Path) -> bool:
    for name in (FILE, "config.json"):
        if (source / name).is_file():
            return "_class_name" not in files.read_json(source / name)
    return any(source.glob("step-*"))


def _is_whole(source: Path) -> bool:
    return (source / FILE).is_file() or any(source.glob("*.ckpt"))


def _read_for(source: Path) -> list[Path]:
    """The files that the conversion reads; a single stage also needs some of the files beside it."""
    if source.is_file():
        return [source, *source.parent.glob("*_stats.th")]
    parts = {
        source.name,
        *diffusers_stages.COMPONENTS,
        *latent_kandinsky.COMPONENTS,
        *latent_stable.COMPONENTS,
    }
    folders = [source] if _is_whole(source) else [source.parent / name for name in parts]
    if (prior := latent_kandinsky.beside(source if _is_whole(source) else source.parent)) is not None:
        folders.append(prior)
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def _stage(source: Path, *, parity: bool) -> Stage:
    if source.is_file():
        return karlo_ckpt.read_checkpoint(source)
    if source.name == "unet" and (model := source.absolute().parent) and (model / "movq").is_dir():
        return latent_kandinsky.read_decoder(model, latent_kandinsky.find_prior(model), parity=parity)
    if latent_stable.is_part(source):
        return latent_stable.read_decoder(source.absolute().parent, parity=parity)
    refuse_foreign(source, str(source))
    return diffusers_stages.read_stage(source, parity=parity)


def _single(source: Path, out: Path) -> None:
    """Write a model folder of one stage and, unless it is an upsampler, the CLIP beside it."""
    stage, parts = _stage(source, parity=False), source.absolute().parent
    role = f"upsampler-{stage.size}" if isinstance(stage, Upsampler) else str(stage.role)
    clip = identity = None
    with files.new_folder(out, replaces=FILE) as folder:
        if not isinstance(stage, Upsampler):
            if source.is_file():
                clip = identity = karlo_ckpt.CLIP
            elif latent_stable.is_part(source):
                clip, identity = CLIP, latent_stable.copy_clip(parts, folder / CLIP)
            elif (parts / "text_encoder").is_dir():
                pictures = (parts / "image_encoder").is_dir()
                names = (
                    {"feature_extractor": "image_processor"} if (parts / "image_processor").is_dir() else {}
                )
                if (parts / "prior_text_encoder").is_dir():
                    names |= {name: f"prior_{name}" for name in ("text_encoder", "tokenizer")}
                check_clip(stage, parts / names.get("text_encoder", "text_encoder"))
                clip = CLIP
                identity = copy_clip(parts, folder / CLIP, pictures=pictures, names=names)
            elif isinstance(stage, OnePassPrior):
                # Unbound, so that it joins Karlo's decoder with Karlo's own copy of this CLIP.
                clip = eclipse.CLIPS.get(stage.width)
        save_stage(stage, folder / role, identity)
        ModelIndex.of(out.name, {role: role}, clip=clip, precision="bfloat16").write(folder)


def _checkpoints(source: Path, out: Path) -> None:
    roles: dict[str, Path] = {}
    with files.new_folder(out, replaces=FILE) as folder:
        for path in sorted(source.glob("*.ckpt")):
            stage = karlo_ckpt.read_checkpoint(path)
            role = stage.config.kind if isinstance(stage, Prior | Decoder) else karlo_ckpt.UPSAMPLER
            if role in roles:
                raise CheckpointError(f"{path}: is a {role}, and so is {roles[role].name}; keep one of them")
            roles[role] = path
            save_stage(stage, folder / role, karlo_ckpt.CLIP)
            del stage
        missing = [role for role in ("prior", "decoder", karlo_ckpt.UPSAMPLER) if role not in roles]
        if missing:
            raise CheckpointError(f"{source}: none of its .ckpt files is Karlo's {missing[0]}")
        index = ModelIndex.of(out.name, {r: r for r in roles}, clip=karlo_ckpt.CLIP, precision="bfloat16")
        index.write(folder)
