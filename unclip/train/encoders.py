"""The frozen CLIP of a run, for embeddings that its shards do not hold."""

from __future__ import annotations

from typing import NamedTuple, Self

from unclip.clip import Clip, ClipSizes
from unclip.clip.preprocess import Preprocess
from unclip.data.shards import DataConfig, Shards
from unclip.errors import ConfigError
from unclip.models.resolve import clip_identity, load_clip
from unclip.stages.base import Stage


class Sources(NamedTuple):
    """Training and validation shards of a run."""

    training: Shards
    validation: Shards | None = None

    @classmethod
    def find(cls, data: DataConfig, stage: Stage) -> Self:
        """Find the shards that the config names.

        Raises:
            DataError: see `Shards.find`.
        """
        training = Shards.find(data.shards, stage.needs)
        if isinstance(data.validation, float):
            training = training._replace(share=data.validation)
            return cls(training, training._replace(held_out=True))
        return cls(training, Shards.find(data.validation, stage.needs) if data.validation else None)


def frozen_clip(ref: str | None, stage: Stage, sources: Sources) -> tuple[Clip | None, ClipSizes | None]:
    """Load the frozen CLIP of a stage, if the shards do not hold all embeddings.

    Args:
        ref: reference of the CLIP; may be None if the shards hold all embeddings.

    Returns:
        The CLIP on the CPU, or None if it need not run; and its sizes, or None if the stage needs no CLIP.

    Raises:
        ConfigError: a CLIP is needed and not named, or the shards hold embeddings of another CLIP.
    """
    if not stage.needs & {"image_embed", "text"}:
        return None, None
    found = [source for source in sources if source is not None]
    stored = [source.embeddings for source in found]
    complete = all(one is not None and (one.null is not None or "text" not in stage.needs) for one in stored)
    if ref is None and not complete:
        raise ConfigError(f"a {stage.config.kind} needs `clip`, the reference of the CLIP it is trained with")
    clip = None if ref is None or complete else load_clip(ref)
    sizes = clip or found[0].embeddings
    assert sizes is not None
    identity = sizes.identity if clip or ref is None else clip_identity(ref)
    for source in found:
        if source.embeddings is not None and source.embeddings.identity not in (identity, ref):
            held = source.embeddings.identity
            raise ConfigError(f"{source.pattern} hold embeddings of CLIP {held}, not of {identity}")
    return clip, sizes


def needed_preprocess(clip: Clip | None, stage: Stage, shards: Shards) -> Preprocess | None:
    """Return CLIP's preprocessing if z_i is computed during training, else None.

    A CLIP without an image tower has no preprocessing, so the attribute is read only when needed.
    """
    if clip is None or shards.embeddings is not None or "image_embed" not in stage.needs:
        return None
    return clip.preprocess
