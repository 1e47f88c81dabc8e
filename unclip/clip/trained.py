"""A CLIP that the CLIP stage trained: its text tower at once, its vision tower when it first sees an image.

Most requests encode captions only, and vision towers of open_clip need its import, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.clip import Text
from unclip.clip.pooling import PooledTower, pooled_tower
from unclip.clip.preprocess import Preprocess
from unclip.clip.text_tower import TextTower, text_states, tokenize, tokenizer_with
from unclip.errors import CheckpointError
from unclip.files import load_weights, read_json
from unclip.nn.config import Architecture

if TYPE_CHECKING:
    from unclip.clip.openclip import OpenClip

WEIGHTS = "model.safetensors"
PREFIX = "model."  # of the names in that file


class TrainedClip:
    """A saved CLIP stage as a `Clip`."""

    reference: str | None = None

    def __init__(self, folder: Path, architecture: Architecture, identity: str) -> None:
        self.folder, self.architecture, self.identity = folder, architecture, identity
        self.context, self.token_width = architecture.context, architecture.text_width
        self.width = architecture.embed
        self.preprocess = Preprocess(architecture.image_size)
        self.tokenizer = tokenizer_with(architecture.merges, architecture.context)
        with torch.device("meta"):
            self.text = TextTower(architecture).eval().requires_grad_(False)
        load_weights(self.text, folder / WEIGHTS, prefix=PREFIX, partly=True)
        self._place: tuple[torch.device | str, torch.dtype | None] = ("cpu", None)
        self._whole: OpenClip | None = None
        self._tower: PooledTower | None = None

    def encode_text(self, captions: Sequence[str]) -> Text:
        """See `Clip`."""
        ids, mask = self.tokenize(captions)
        device = self.text.positional_embedding.device
        with torch.inference_mode():
            tokens, embed = text_states(self.text, ids.to(device), self.tokenizer.eot_token_id)
        # The contrastive loss ignores the norm, so embeddings have root mean square 1.
        z_t = F.normalize(embed, dim=-1) * self.width**0.5
        return Text(list(captions), ids.to(device), mask.to(device), z_t, tokens)

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions → ids and mask, [B, L], with L the longest caption's length."""
        return tokenize(self.tokenizer, captions, self.context)

    def truncate(self, caption: str) -> tuple[str, str]:
        """See `Clip`."""
        ids = self.tokenizer.encode(caption)
        room = self.context - 2
        return self.tokenizer.decode(ids[:room]).strip(), self.tokenizer.decode(ids[room:]).strip()

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Clip`."""
        if not self.architecture.vision_queries:
            return self.whole.encode_image(images)
        tower = self.tower
        with torch.inference_mode():
            pixels = self.preprocess(images.to(tower.positions.device)).to(tower.positions.dtype)
            features: Tensor = tower(pixels)
        found: Tensor = F.normalize(features, dim=-1) * self.width**0.5
        return found

    @property
    def tower(self) -> PooledTower:
        """The vision tower of an architecture with `vision_queries`, without open_clip; loaded on first use."""
        if self._tower is None:
            with torch.device("meta"):
                self._tower = pooled_tower(self.architecture).eval().requires_grad_(False)
            load_weights(self._tower, self.folder / WEIGHTS, prefix=f"{PREFIX}visual.", partly=True)
            self._tower.to(*self._place)
        return self._tower

    @property
    def whole(self) -> OpenClip:
        """The same CLIP as open_clip's model, with both towers; loaded on first use."""
        if self._whole is None:
            from unclip.clip import openclip

            self._whole = openclip.load_folder(self.folder).to(*self._place)
        return self._whole

    @property
    def model(self) -> Any:
        """open_clip's model."""
        return self.whole.model

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self._place = (device, dtype or self._place[1])
        for part in (self.text, self._tower, self._whole):
            if part is not None:
                part.to(*self._place)
        return self


def load_folder(folder: Path) -> TrainedClip:
    """Loads a CLIP that the CLIP stage trained and saved.

    Raises:
        CheckpointError: damaged, or not such a folder.
    """
    architecture, identity = read_config(folder)
    return TrainedClip(folder, architecture, identity)


def read_config(folder: Path) -> tuple[Architecture, str]:
    """The architecture and the identity of a saved CLIP.

    Raises:
        CheckpointError: damaged, or not the config of a CLIP.
    """
    config = read_json(folder / "config.json")
    try:
        return Architecture.model_validate(config["architecture"]), str(config["identity"])
    except (KeyError, ValueError):
        raise CheckpointError(f"{folder}/config.json: not the config of a clip stage") from None
