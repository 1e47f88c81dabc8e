"""unclip, the open DALL·E 2: text-to-image with a CLIP, a prior, a decoder and upsamplers, and training.

    from unclip import Pipeline
    Pipeline.from_pretrained("mini")("a shiba inu wearing a beret").images[0].save("shiba.png")

Public names are imported on first use (PEP 562), so that `import unclip` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from unclip.version import __version__ as __version__

if TYPE_CHECKING:
    from unclip.embeddings import Embeddings, read_embeddings, write_embeddings
    from unclip.errors import Cancelled, CheckpointError, ConfigError, DataError, RequestError, UnclipError
    from unclip.models.resolve import load_clip
    from unclip.pipeline import Pipeline, SamplingOptions

__all__ = [
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Embeddings",
    "Pipeline",
    "RequestError",
    "SamplingOptions",
    "UnclipError",
    "load_clip",
    "read_embeddings",
    "write_embeddings",
]

# All other public names live in unclip.errors.
_HOMES = {
    "Embeddings": "unclip.embeddings",
    "Pipeline": "unclip.pipeline",
    "SamplingOptions": "unclip.pipeline",
    "load_clip": "unclip.models.resolve",
    "read_embeddings": "unclip.embeddings",
    "write_embeddings": "unclip.embeddings",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "unclip.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
