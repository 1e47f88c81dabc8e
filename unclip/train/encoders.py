"""Which frozen CLIP a run needs beside what its shards hold already."""

from __future__ import annotations

from typing import NamedTuple, Self

from unclip.clip import Clip, ClipSizes
from unclip.clip.preprocess import Preprocess
from unclip.data.shards import DataConfig, Shards
from unclip.errors import ConfigError
from unclip.models.resolve import clip_identity, load_clip
from unclip.stages.base import Stage


class Sources(NamedTuple):
    """The shards of a run, looked up once."""

    training: Shards
    validation: Shards | None = None

    @classmethod
    def find(cls, data: DataConfig, stage: Stage) -> Self:
        """Those that the config names.

        Raises:
            DataError: see `Shards.find`.
        """
        validation = None if data.validation is None else Shards.find(data.validation, stage.needs)
        return cls(Shards.find(data.shards, stage.needs), validation)


def frozen_clip(ref: str | None, stage: Stage, sources: Sources) -> tuple[Clip | None, ClipSizes | None]:
    """The CLIP that must run to fill what the stage needs and the shards do not hold, on the CPU; and the
    sizes of the one that the stage is trained with. A CLIP that need not run is not loaded where its identity
    can be read from a folder.

    Raises:
        ConfigError: none is named, or the shards hold embeddings of another one.
    """
    if not stage.needs & {"image_embed", "text"}:
        return None, None
    found = [source for source in sources if source is not None]
    complete = all(source.embeddings is not None and source.embeddings.null is not None for source in found)
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
    """How CLIP wants pictures, where z_i is made of them; asked only then, since a CLIP may read captions
    alone.
    """
    if clip is None or shards.embeddings is not None or "image_embed" not in stage.needs:
        return None
    return clip.preprocess
