"""A decoder's own frozen text encoder, with its tokenizer: captions → token states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from unclip.errors import CheckpointError
from unclip.nn.transformer import clip_text_encoder
from unclip.stages.latent_configs import CaptionEncoderConfig

FILE = "tokenizer.json"  # in the stage's folder


class CaptionEncoder(nn.Module):
    """CLIP's text encoder without a projection; every caption is padded to the whole context.

    Padding is read like any other token: Stable Diffusion's U-Nets were trained so.

    Attributes:
        tokenizer: set by `read_tokenizer`; not part of the state dict.
    """

    def __init__(self, config: CaptionEncoderConfig) -> None:
        super().__init__()
        self.context, self.padding = config.context, config.padding
        self.tokenizer: Tokenizer | None = None
        self.encoder = clip_text_encoder(config)

    def save_tokenizer(self, folder: Path) -> None:
        """Save the tokenizer in a stage's folder."""
        assert self.tokenizer is not None, "read_tokenizer comes first"
        self.tokenizer.save(str(folder / FILE))

    def read_tokenizer(self, folder: Path) -> None:
        """Read the tokenizer from a stage's folder.

        Raises:
            CheckpointError: missing or damaged.
        """
        path = folder / FILE
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path}: not a tokenizer ({' '.join(str(error).split())[:200]})") from None
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.context)

    def ids(self, captions: Sequence[str]) -> Tensor:
        """Token ids [B, context] of captions, truncated and padded."""
        assert self.tokenizer is not None, "read_tokenizer comes first"
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]
        return torch.tensor([row + [self.padding] * (self.context - len(row)) for row in rows])

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, context] → states [B, context, width]; equal rows are encoded once."""
        different, place = ids.unique(dim=0, return_inverse=True)
        states: Tensor = self.encoder(different, torch.ones_like(different, dtype=torch.bool))
        return states[place]
