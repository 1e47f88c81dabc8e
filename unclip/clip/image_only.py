"""The image encoder of a CLIP without its text encoder, as Stable unCLIP's repositories have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unclip.clip import Text
from unclip.clip.hf import encode_image, load_image_encoder, read_preprocess
from unclip.clip.preprocess import Preprocess
from unclip.errors import RequestError
from unclip.files import read_json


class ImageClip:
    """A CLIPVisionModelWithProjection as a `Clip` that encodes pictures only."""

    reference: str | None = None
    token_width, context = 0, 0

    def __init__(self, vision: Any, preprocess: Preprocess, identity: str) -> None:
        self.vision, self.preprocess, self.identity = vision, preprocess, identity
        self.width: int = vision.config.projection_dim

    def encode_text(self, captions: Sequence[str]) -> Text:
        """Refuse captions.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            f"{self.identity}: this CLIP has no text encoder, so captions have no embeddings; give the model "
            "a whole CLIP of the same weights (docs/how-to/stable-unclip.md)"
        )

    def truncate(self, caption: str) -> tuple[str, str]:
        """The whole caption and nothing beyond it: this CLIP does not limit its length."""
        return caption, ""

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Clip`."""
        return encode_image(self.vision, images, self.preprocess)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.vision.to(device=device, dtype=dtype)
        return self


def load_folder(folder: Path) -> ImageClip:
    """Load the CLIP of a converted model that has an image encoder only.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    encoder, identity = folder / "image_encoder", str(read_json(folder / "config.json").get("identity"))
    vision = load_image_encoder(encoder)
    return ImageClip(vision, read_preprocess(encoder, vision.config.image_size), identity)
