"""CLIP's image encoder of a converted model, loaded when the first picture is encoded.

Captions need no image encoder, and it may be the largest part of a model: 1.8 of Kandinsky 2.2's 4.9 billion
parameters. Importing transformers takes a second, too.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unclip.clip.preprocess import Preprocess
from unclip.errors import CheckpointError
from unclip.files import read_json


class ImageTower:
    """A CLIPVisionModelWithProjection in a folder.

    Raises:
        CheckpointError: the folder lacks its config or its weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.size = folder, read_json(folder / "config.json").get("image_size", 224)
        if not (folder / "model.safetensors").is_file():
            raise CheckpointError(f"{folder / 'model.safetensors'}: no such file")
        self._place: tuple[torch.device | str, torch.dtype | None] = "cpu", None

    @cached_property
    def model(self) -> Any:
        """The model, on its device."""
        from unclip.clip.hf import load_image_encoder  # imports transformers

        device, dtype = self._place
        return load_image_encoder(self.folder).to(device=device, dtype=dtype)

    @cached_property
    def preprocess(self) -> Preprocess:
        """See `Clip`. Models converted without a preprocessing config use OpenAI's (Karlo)."""
        if not (self.folder / "preprocessor_config.json").is_file():
            return Preprocess(self.size, rounds_crop=False)
        from unclip.clip.hf import read_preprocess

        return read_preprocess(self.folder, self.size)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] → z_i [B, D]."""
        from unclip.clip.hf import encode_image

        return encode_image(self.model, images, self.preprocess)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the model, now or once it is loaded."""
        self._place = device, dtype
        if "model" in self.__dict__:
            self.model.to(device=device, dtype=dtype)
        return self
