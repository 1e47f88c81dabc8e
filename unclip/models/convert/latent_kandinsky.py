"""Convert Kandinsky 2.2 from diffusers: its prior and decoder are repositories of their own."""

from __future__ import annotations

from pathlib import Path

import torch

from unclip import files
from unclip.errors import CheckpointError
from unclip.models import hub
from unclip.models.convert import diffusers_stages, latent
from unclip.models.convert.weights import filled
from unclip.models.index import FILE
from unclip.stages.config import parse_checkpoint
from unclip.stages.decoder_kandinsky import KandinskyDecoder
from unclip.stages.prior import Prior
from unclip.stages.prior_onepass import OnePassPrior

PRIOR_PIPELINE = "KandinskyV22PriorPipeline"
DECODER_PIPELINES = ("KandinskyV22Pipeline", "KandinskyV22Img2ImgPipeline", "KandinskyV22InpaintPipeline")
# One folder with both halves, as diffusers' AutoPipelineForText2Image saves it.
COMBINED_PIPELINES = (
    "KandinskyV22CombinedPipeline",
    "KandinskyV22Img2ImgCombinedPipeline",
    "KandinskyV22InpaintCombinedPipeline",
)
PIPELINES = (PRIOR_PIPELINE, *DECODER_PIPELINES, *COMBINED_PIPELINES)

# The repository of the prior, for every decoder from the Hub; a local one's is a folder of that name beside it.
PRIOR = "kandinsky-community/kandinsky-2-2-prior"

# Components beside a network that its conversion may read.
COMPONENTS = ("unet", "movq", "scheduler", "image_processor")

# diffusers takes 100 steps of DDPM. DPM-Solver++ converges in a quarter of them (Lu et al. 2022); `ddpm` with
# `steps` 100 is still there.
SAMPLING = {"steps": 25, "sampler": "dpmpp_2m", "guidance": 4.0}


def read_decoder(source: Path, prior: Path | None, *, parity: bool = False) -> KandinskyDecoder:
    """Read the decoder of a pipeline: a U-Net, a MoVQ and a scheduler.

    Args:
        prior: folder of the prior's pipeline, whose image encoder makes the null embedding of guidance.
            None if there is none: the decoder then refuses guidance until `assemble` joins it with a prior.
        parity: take diffusers' spacing of timesteps, sampler and steps.

    Raises:
        CheckpointError: missing or damaged parts, or another model's.
    """
    unet, movq = latent.read_unet(source / "unet"), latent.read_autoencoder(source / "movq")
    if (unet.get("encoder_hid_dim_type"), unet.get("addition_embed_type")) != ("image_proj", "image"):
        raise CheckpointError(
            f"{source}/unet: is not conditioned on a CLIP embedding alone, as Kandinsky 2.2's decoder is "
            f"(encoder_hid_dim_type {unet.get('encoder_hid_dim_type')}, addition_embed_type "
            f"{unet.get('addition_embed_type')})"
        )
    learned = unet.get("out_channels") == 2 * int(movq.get("latent_channels", 0))
    tree = {
        "size": int(unet.get("sample_size") or 64) * 2 ** (len(movq.get("block_out_channels", ())) - 1),
        "embed": unet.get("encoder_hid_dim"),
        "unet": unet,
        "autoencoder": movq,
        "guided": False,
        "diffusion": latent.read_diffusion(source / "scheduler", learned=learned, parity=parity),
        "sampling": {**SAMPLING, **({"sampler": "ddpm", "steps": 100} if parity else {})},
    }
    config = parse_checkpoint(KandinskyDecoder.Config, source, tree)
    with torch.device("meta"):
        stage = KandinskyDecoder(config)
    weights = latent.read_networks(source / "unet", source / "movq")
    weights["null_embed"] = torch.zeros(config.embed)
    filled(stage, str, weights, source)
    if prior is not None and ((encoder := part(prior, "image_encoder")) / "model.safetensors").is_file():
        stage.read_null_embed(encoder)
    return stage


def read_prior(source: Path, *, parity: bool = False) -> Prior | OnePassPrior:
    """Read the prior of a prior's pipeline, or of a combined one."""
    folder, scheduler = part(source, "prior"), part(source, "scheduler")
    return diffusers_stages.read_prior(folder, scheduler, parity=parity)


def copy_clip(source: Path, out: Path) -> str:
    """Convert the CLIP of a prior's pipeline, or of a combined one, and return its identity."""
    names = {name: part(source, name).name for name in ("text_encoder", "tokenizer", "image_encoder")}
    names["feature_extractor"] = part(source, "image_processor").name
    return diffusers_stages.copy_clip(source, out, pictures=True, names=names)


def find_prior(source: Path) -> Path | None:
    """The folder of the prior for a decoder's pipeline.

    A combined pipeline has its own; that of a decoder from the Hub is fetched. None if a local decoder has no
    folder of the prior's name beside it.
    """
    kind = files.read_json(source / FILE).get("_class_name") if (source / FILE).is_file() else None
    if kind in COMBINED_PIPELINES or kind == PRIOR_PIPELINE:
        return source
    place = source.absolute()
    if place.parent.name == "snapshots":
        return hub.fetch(PRIOR)
    return beside(source)


def beside(source: Path) -> Path | None:
    """The prior's folder beside a decoder's, if there is one."""
    folder = source.absolute().parent / Path(PRIOR).name
    return folder if folder != source.absolute() and (folder / FILE).is_file() else None


def part(source: Path, name: str) -> Path:
    """The folder of a part of the prior; a combined pipeline prefixes it."""
    combined = source / f"prior_{name}"
    return combined if combined.is_dir() else source / name
