"""Save a pipeline as a model folder."""

from __future__ import annotations

import logging
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from unclip import files
from unclip.clip import copy_clip, same_clip
from unclip.errors import CheckpointError, ConfigError
from unclip.models.assemble import CLIP, clip_to_save
from unclip.models.index import FILE, UNDISTILLED, ModelIndex
from unclip.models.lora import changed
from unclip.stages.diffusion import DiffusionStage
from unclip.stages.lora import twin_of
from unclip.stages.prior_base import EmbeddingPrior

if TYPE_CHECKING:
    from unclip.pipeline.pipeline import Pipeline

log = logging.getLogger(__name__)


def save_pretrained(pipeline: Pipeline, folder: str | Path) -> None:
    """Save the model, replaced parts included, as a folder that loads to bit-identical weights.

    A public CLIP is saved by reference, any other CLIP as a copy. Stages that were trained with another CLIP
    than the pipeline's are saved for the pipeline's, with a warning.

    Raises:
        CheckpointError: `folder` holds something else, or the CLIP cannot be saved. Nothing is written then.
    """
    public, source = None, None
    clip = pipeline._clip
    if clip is not None:
        reference: str | None = getattr(clip, "reference", None)
        if reference is None:
            raise CheckpointError(
                f"{folder}: cannot be saved with CLIP {clip.identity}, which was made in Python; "
                "save that as a folder, and set pipe.clip to load_clip of it"
            )
        public, source = clip_to_save(reference)
    stages = {
        role: _for_clip(pipeline, role, _with_loras(pipeline, stage))
        for role, stage in pipeline.stages.items()
    }
    slow = pipeline.undistilled()
    if slow is not pipeline:
        stages[UNDISTILLED] = _for_clip(pipeline, UNDISTILLED, _with_loras(pipeline, slow.decoder))
    index = ModelIndex.of(
        pipeline.name,
        {role: role for role in stages},
        clip=CLIP if source else public,
        vocabulary=pipeline.index.vocabulary,
        precision=pipeline.index.precision,
    )
    with files.new_folder(Path(folder), replaces=FILE) as out:
        for role, stage in stages.items():
            (out / role).mkdir()
            stage.save(out / role)
        if source:
            copy_clip(source, out / CLIP)
        index.model_copy(update=pipeline.index.model_extra).write(out)


def _with_loras(
    pipeline: Pipeline, stage: EmbeddingPrior | DiffusionStage
) -> EmbeddingPrior | DiffusionStage:
    """The stage, with the changes by adapters that an offloaded stage gets only while it runs."""
    changes = pipeline.changes.get(stage)
    if not changes:
        return stage
    twin, state = twin_of(stage), stage.state_dict()
    new = {name: changed(name, tensor, changes).to(tensor.dtype) for name, tensor in state.items()}
    twin.load_state_dict(new, assign=True)
    return twin


def _for_clip(
    pipeline: Pipeline, role: str, stage: EmbeddingPrior | DiffusionStage
) -> EmbeddingPrior | DiffusionStage:
    """The stage with the pipeline's CLIP in its config; its weights are shared."""
    clip, recorded = pipeline._clip, stage.config.clip
    if clip is None or recorded in (None, clip.identity):
        return stage
    rebound = copy(stage)
    rebound.config = stage.config.model_copy(update={"clip": None})
    if not same_clip(recorded, clip):
        log.warning(
            "%s: its %s was trained with CLIP %s; it is saved with %s",
            pipeline.name,
            role,
            recorded,
            clip.identity,
        )
    try:
        rebound.for_clip(clip)
    except ConfigError as error:
        raise CheckpointError(f"{role}: cannot be saved with this CLIP ({error})") from None
    return rebound
