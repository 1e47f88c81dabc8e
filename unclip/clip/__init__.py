"""The frozen encoders behind one small interface: captions → token states and z_t, images → z_i.

To add a backend, write `unclip/clip/NAME.py` with `def load(name: str) -> Clip`; the reference is then `NAME:whatever`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import torch
from PIL import Image
from torch import Tensor

from unclip.clip.preprocess import Preprocess
from unclip.errors import CheckpointError, ConfigError
from unclip.files import read_json, stage_folder
from unclip.images import from_bytes, to_bytes


class Text(NamedTuple):
    """Encoded captions.

    Attributes:
        captions: as given, [B] strings.
        ids: token ids, [B, L]; L is the longest caption's length, at most the encoder's context.
        mask: True for real tokens, [B, L].
        embed: the pooled embedding z_t, [B, D], not normalised.
        tokens: the states of the last layer, [B, L, W].
    """

    captions: Sequence[str]
    ids: Tensor
    mask: Tensor
    embed: Tensor
    tokens: Tensor

    def rows(self, start: int | None, stop: int | None) -> Text:
        """Some of the captions."""
        part = slice(start, stop)
        return Text(self.captions[part], self.ids[part], self.mask[part], self.embed[part], self.tokens[part])

    def repeat(self, n: int) -> Text:
        """Each caption n times in a row."""
        captions = [c for c in self.captions for _ in range(n)]
        return Text(captions, *(x.repeat_interleave(n, dim=0) for x in (self.ids, self.mask, self.embed, self.tokens)))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Text:
        """On another device; the embeddings in another precision."""
        embed, tokens = self.embed.to(device, dtype), self.tokens.to(device, dtype)
        return Text(self.captions, self.ids.to(device), self.mask.to(device), embed, tokens)


class ClipSizes(Protocol):
    """Which CLIP it is and what it gives: all that a stage must know of it to be built."""

    @property
    def identity(self) -> str:
        """Names the weights; stages trained on one CLIP refuse another."""

    @property
    def width(self) -> int:
        """D, of z_t and z_i."""

    @property
    def token_width(self) -> int:
        """W, of the token states."""

    @property
    def context(self) -> int:
        """Tokens a caption may have, with its start and end."""


class Clip(ClipSizes, Protocol):
    """A frozen CLIP. Never an attribute of a stage: it is not trained with it and not saved in it."""

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes what the image tower sees.

        Raises:
            RequestError: it has no image tower.
        """

    def encode_text(self, captions: Sequence[str]) -> Text:
        """Captions → Text; longer ones are cut at the context."""

    def cut(self, caption: str) -> tuple[str, str]:
        """The caption as (what is read, what the context cuts off)."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] of any size and on any device → z_i [B, D], not normalised.

        They are preprocessed here. Pictures from files go through `encode_pictures`, as those of training do.
        """

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """On another device or in another precision."""


def encode_pictures(clip: Clip, pictures: Sequence[Image.Image]) -> Tensor:
    """z_i [N, D] of whole RGB pictures of any sizes, the same for training, stored embeddings and edits.

    Raises:
        RequestError: the CLIP has no image tower.
    """
    return clip.encode_image(from_bytes(torch.stack([to_bytes(clip.preprocess.view(one)) for one in pictures])))


def load_clip(ref: str) -> Clip:
    """The CLIP that `ref` names: a folder or run of the clip stage, or `backend:name` (openclip:ViT-L-14/openai, hf:…)."""
    if ref and Path(ref).is_dir():
        if (Path(ref) / "text_encoder").is_dir():
            from unclip.clip import converted

            return converted.load_folder(Path(ref))
        from unclip.clip import openclip

        return openclip.load_folder(stage_folder(Path(ref)))
    backend, colon, name = ref.partition(":")
    if not colon:
        raise CheckpointError(
            f"{ref or 'an empty reference'}: no CLIP there; give a folder saved by the clip stage, or openclip:NAME, or hf:NAME"
        )
    module = f"{__name__}.{backend}"
    known = backend.isidentifier() and importlib.util.find_spec(module) is not None
    load = getattr(importlib.import_module(module), "load", None) if known else None
    if load is None:
        raise ConfigError(f"{ref}: no CLIP backend {backend!r}; there are openclip, hf")
    clip: Clip = load(name)
    return clip


def clip_identity(ref: str) -> str:
    """The identity of the CLIP that `ref` names; of a folder, without reading its weights."""
    if ref and Path(ref).is_dir():
        folder = Path(ref) if (Path(ref) / "text_encoder").is_dir() else stage_folder(Path(ref))
        if identity := read_json(folder / "config.json").get("identity"):
            return str(identity)
    return load_clip(ref).identity
