"""Convert whole pipelines of diffusers, with one stage in memory at a time.

A converter writes the folders of the stages and of the CLIP. `PIPELINES` has one per class of pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from unclip import files
from unclip.errors import CheckpointError
from unclip.models.convert import diffusers_stages, latent_kandinsky, latent_stable
from unclip.models.convert.diffusers_stages import check_clip, copy_clip
from unclip.models.index import FILE, ModelIndex
from unclip.models.refusals import refuse_foreign
from unclip.stages.base import Stage

CLIP = "clip"  # folder of the CLIP in a model folder


class Written(NamedTuple):
    """What a converter wrote.

    Attributes:
        roles: roles of the stages; each is the name of its folder.
        clip: folder or reference of the CLIP. None without one.
    """

    roles: list[str]
    clip: str | None


def convert_pipeline(source: Path, out: Path, *, parity: bool) -> None:
    """Convert a pipeline's folder to a model folder; see `convert.convert`."""
    kind = files.read_json(source / FILE).get("_class_name")
    if kind not in PIPELINES:
        refuse_foreign(source, str(source))
        part = source / "prior"
        raise CheckpointError(
            f"{source}: is a {kind or 'model of no named class'}, which unclip cannot run; "
            "it converts Karlo's, Kandinsky 2.2's and Stable unCLIP's pipelines"
            + (f", and this one's {part} by itself" if diffusers_stages.is_prior(part) else "")
        )
    with files.new_folder(out, replaces=FILE) as folder:
        roles, clip = PIPELINES[kind](source, folder, parity)
        precision: Literal["bfloat16"] | None = None if parity else "bfloat16"
        ModelIndex.of(out.name, {r: r for r in roles}, clip=clip, precision=precision).write(folder)


def save_stage(stage: Stage, folder: Path, clip: str | None) -> None:
    """Save a stage in a new folder, with the identity of its CLIP."""
    stage.config = stage.config.model_copy(update={"clip": clip})
    folder.mkdir()
    stage.save(folder)


def _karlo(source: Path, folder: Path, parity: bool) -> Written:
    """UnCLIPPipeline: a prior, a decoder, an upsampler, and CLIP's text encoder."""
    clip = copy_clip(source, folder / CLIP, pictures=False)
    _prior(source, folder, clip, "prior_scheduler", parity)
    return Written(["prior", *_decoder_and_upsampler(source, folder, clip)], CLIP)


def _karlo_variations(source: Path, folder: Path, parity: bool) -> Written:
    """UnCLIPImageVariationPipeline: a decoder, an upsampler, and CLIP."""
    clip = copy_clip(source, folder / CLIP, pictures=True)
    return Written(_decoder_and_upsampler(source, folder, clip), CLIP)


def _kandinsky_2_1_prior(source: Path, folder: Path, parity: bool) -> Written:
    """KandinskyPriorPipeline: a prior and CLIP."""
    names = {"feature_extractor": "image_processor"}
    clip = copy_clip(source, folder / CLIP, pictures=True, names=names)
    _prior(source, folder, clip, "scheduler", parity)
    return Written(["prior"], CLIP)


def _kandinsky(source: Path, folder: Path, parity: bool) -> Written:
    """Kandinsky 2.2: both halves, the prior's alone, or a decoder's that has no prior."""
    prior_folder, clip, roles = latent_kandinsky.find_prior(source), None, []
    if prior_folder is not None:
        clip = latent_kandinsky.copy_clip(prior_folder, folder / CLIP)
        prior = latent_kandinsky.read_prior(prior_folder, parity=parity)
        check_clip(prior, latent_kandinsky.part(prior_folder, "text_encoder"))
        save_stage(prior, folder / "prior", clip)
        del prior  # frees memory for the decoder
        roles.append("prior")
    if files.read_json(source / FILE).get("_class_name") != latent_kandinsky.PRIOR_PIPELINE:
        decoder = latent_kandinsky.read_decoder(source, None, parity=parity)
        if clip is not None:
            decoder.complete(folder / CLIP)  # the copy, whose weights are one file
        save_stage(decoder, folder / "decoder", clip)
        roles.append("decoder")
    return Written(roles, None if clip is None else CLIP)


def _stable(source: Path, folder: Path, parity: bool) -> Written:
    """Stable unCLIP: a decoder, CLIP's image encoder or a prior's text encoder, and, if it has one, a prior."""
    clip, roles = latent_stable.copy_clip(source, folder / CLIP), ["decoder"]
    if (source / "prior").is_dir():
        prior = diffusers_stages.read_prior(source / "prior", source / "prior_scheduler", parity=parity)
        check_clip(prior, source / "prior_text_encoder")
        save_stage(prior, folder / "prior", clip)
        del prior  # frees memory for the decoder
        roles.append("prior")
    save_stage(latent_stable.read_decoder(source, parity=parity), folder / "decoder", clip)
    return Written(roles, CLIP)


def _prior(source: Path, folder: Path, clip: str, scheduler: str, parity: bool) -> None:
    prior = diffusers_stages.read_prior(source / "prior", source / scheduler, parity=parity)
    check_clip(prior, source / "text_encoder")
    save_stage(prior, folder / "prior", clip)


def _decoder_and_upsampler(source: Path, folder: Path, clip: str) -> list[str]:
    decoder = diffusers_stages.read_decoder(source)
    check_clip(decoder, source / "text_encoder")
    save_stage(decoder, folder / "decoder", clip)
    del decoder  # frees memory for the upsampler
    upsampler = diffusers_stages.read_upsampler(source)
    role = f"upsampler-{upsampler.size}"
    save_stage(upsampler, folder / role, clip)
    return ["decoder", role]


# By class name: writes into a new folder, given the pipeline's folder and whether to match diffusers exactly.
PIPELINES: dict[str, Callable[[Path, Path, bool], Written]] = {
    "UnCLIPPipeline": _karlo,
    "UnCLIPImageVariationPipeline": _karlo_variations,
    "KandinskyPriorPipeline": _kandinsky_2_1_prior,
    **dict.fromkeys(latent_kandinsky.PIPELINES, _kandinsky),
    **dict.fromkeys(latent_stable.PIPELINES, _stable),
}
