"""The image encoder of a CLIP without its text encoder, as Stable unCLIP's repositories have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from unclip.clip import Text
from unclip.clip.image_tower import ImageTower
from unclip.clip.preprocess import Preprocess
from unclip.errors import RequestError
from unclip.files import read_json


class ImageClip:
    """A CLIPVisionModelWithProjection as a `Clip` that encodes pictures only."""

    reference: str | None = None
    token_width, context = 0, 0

    def __init__(self, vision: ImageTower, width: int, identity: str) -> None:
        self.vision, self.width, self.identity = vision, width, identity

    @property
    def preprocess(self) -> Preprocess:
        """See `Clip`."""
        return self.vision.preprocess

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
        return self.vision.encode(images)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.vision.to(device, dtype)
        return self


def load_folder(folder: Path) -> ImageClip:
    """Load the CLIP of a converted model that has an image encoder only.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    encoder, identity = folder / "image_encoder", str(read_json(folder / "config.json").get("identity"))
    width = read_json(encoder / "config.json").get("projection_dim", 512)  # transformers' default
    return ImageClip(ImageTower(encoder), int(width), identity)
