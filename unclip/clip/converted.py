"""The CLIP of a model converted from diffusers: text encoder, tokenizer and optional image encoder.

The text encoder is this package's transformer, because importing transformers would dominate the start-up
time. The image encoder, which few such models need, is that of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from unclip.clip import Text
from unclip.clip.image_tower import ImageTower
from unclip.clip.preprocess import Preprocess
from unclip.config import parse
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.files import load_weights, read_json
from unclip.nn.config import ClipTextConfig
from unclip.nn.transformer import clip_text_encoder


class TextTowerConfig(ClipTextConfig):
    """The shape of CLIP's text encoder with its projection.

    Attributes:
        embed: width D of z_t.
    """

    embed: int


class TextTower(nn.Module):
    """CLIP's text encoder (Radford et al. 2021) and the projection of its last state to z_t."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.encoder = clip_text_encoder(config)
        self.projection = nn.Linear(config.width, config.embed, bias=False)


class ConvertedClip:
    """A converted text encoder and tokenizer as a `Clip`.

    Args:
        vision: the image encoder; None if the model has none.
    """

    reference: str | None = None

    def __init__(
        self,
        config: TextTowerConfig,
        text: TextTower,
        tokenizer: Tokenizer,
        vision: ImageTower | None,
        identity: str,
    ) -> None:
        self.text = text.eval().requires_grad_(False)
        self.vision, self.tokenizer, self.identity = vision, tokenizer, identity
        self.tokenizer.no_padding()
        self.end: int = tokenizer.encode("").ids[-1]
        self.context, self.token_width, self.width = config.context, config.width, config.embed

    @property
    def preprocess(self) -> Preprocess:
        """See `Clip`.

        Raises:
            RequestError: the model has no image encoder.
        """
        return self._tower().preprocess

    def encode_text(self, captions: Sequence[str]) -> Text:
        """See `Clip`."""
        self.tokenizer.enable_truncation(self.context)
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]
        longest = max(map(len, rows))
        device = self.text.projection.weight.device
        ids = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor(
            [[True] * len(row) + [False] * (longest - len(row)) for row in rows], device=device
        )
        with torch.inference_mode():
            tokens = self.text.encoder(ids, mask)
            ends = (ids == self.end).int().argmax(dim=1)  # the first one: a caption may contain the end token
            embed = self.text.projection(tokens[torch.arange(len(ids), device=device), ends])
        return Text(list(captions), ids, mask, embed, tokens)

    def truncate(self, caption: str) -> tuple[str, str]:
        """See `Clip`."""
        self.tokenizer.no_truncation()
        offsets = self.tokenizer.encode(caption, add_special_tokens=False).offsets
        room = self.context - 2
        if len(offsets) <= room:
            return caption.strip(), ""
        place = offsets[room][0]
        return caption[:place].strip(), caption[place:].strip()

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Clip`."""
        return self._tower().encode(images)

    def _tower(self) -> ImageTower:
        if self.vision is None:
            raise RequestError(f"{self.identity}: has no image encoder, it reads captions only")
        return self.vision

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """See `Clip`."""
        self.text.to(device, dtype)
        if self.vision is not None:
            self.vision.to(device, dtype)
        return self


def load_folder(folder: Path) -> ConvertedClip:
    """Loads the CLIP of a converted model.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    text_folder = folder / "text_encoder"
    try:
        config = parse(TextTowerConfig, read_json(text_folder / "config.json"), f"{text_folder}/config.json")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    with torch.device("meta"):
        text = TextTower(config)
    load_weights(text, text_folder / "model.safetensors", keep_dtype=True)
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path}: not a tokenizer ({' '.join(str(error).split())[:200]})") from None
    identity = str(read_json(folder / "config.json").get("identity"))
    encoder = folder / "image_encoder"
    vision = ImageTower(encoder) if encoder.is_dir() else None
    return ConvertedClip(config, text, tokenizer, vision, identity)
