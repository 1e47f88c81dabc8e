"""The batch that a training step reads, and the text dropout applied to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.diffusion import Cond
from unclip.diffusion.noise import ExampleRng


@dataclass(frozen=True)
class Batch:
    """The data of one training step; a stage's `needs` names the fields that must be filled.

    Attributes:
        captions: [B] strings.
        image: [B, 3, H, W] in [−1, 1], at the stage's size.
        image_embed: z_i, [B, D].
        text: the encoded captions.
        null: the encoded empty caption (one row), used where the text is dropped.
        clip_image: the whole picture as the frozen CLIP sees it, uint8 [B, S, S, 3]; the input from which
            `image_embed` is computed.
        label: class numbers, int64 [B] on the CPU; None if the samples have none.
        keys: [B] names of the samples, for messages.
        seeds: seeds of the random draws, int64 [B] on the CPU. Default: torch's global generator.
        skipped: bad samples met while reading, counted by (shard, reason).
        low: the image as the previous stage draws it, [B, 3, h, w]; an upsampler's input.
        vectors: the vectors of the samples, float32 [B, count, width].
    """

    captions: tuple[str, ...] = ()
    image: Tensor | None = None
    image_embed: Tensor | None = None
    text: Text | None = None
    null: Text | None = None
    clip_image: Tensor | None = None
    label: Tensor | None = None
    keys: tuple[str, ...] = ()
    seeds: Tensor | None = None
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    low: Tensor | None = None
    vectors: Tensor | None = None

    def rng(self, like: Tensor) -> ExampleRng:
        """The generators of this batch's random draws, on the device of `like` [B, ...]."""
        seeds = torch.randint(2**62, (len(like),), device="cpu") if self.seeds is None else self.seeds
        return ExampleRng(seeds, like.device)

    def dropout(self) -> Cond:
        """The keyword arguments that a network with dropout takes."""
        return {} if self.seeds is None else {"seeds": self.seeds}

    def to(self, device: torch.device | str) -> Batch:
        """A copy on another device."""
        fields = ("image", "low", "clip_image", "image_embed", "text", "null", "vectors")
        moved = {k: v.to(device) for k in fields if (v := getattr(self, k)) is not None}
        return replace(self, **moved)


def drop_text(text: Text, null: Text, keep: Tensor) -> Text:
    """Replaces the rows of the text where `keep` [B] is False by the one row of `null`.

    Uses torch.where and no branch: data-parallel training needs every parameter in every step's graph.
    """
    text, null = pad_to_same_length(text, null)
    column = keep[:, None]
    return Text(
        text.captions,
        torch.where(column, text.ids, null.ids),
        torch.where(column, text.mask, null.mask),
        torch.where(column, text.embed, null.embed),
        torch.where(column[..., None], text.tokens, null.tokens),
    )


def pad_to_same_length(a: Text, b: Text) -> tuple[Text, Text]:
    """Pads both texts to the number of tokens of the longer one."""
    length = max(a.ids.shape[1], b.ids.shape[1])

    def padded(text: Text) -> Text:
        extra = length - text.ids.shape[1]
        tokens = F.pad(text.tokens, (0, 0, 0, extra))
        return Text(
            text.captions, F.pad(text.ids, (0, extra)), F.pad(text.mask, (0, extra)), text.embed, tokens
        )

    return padded(a), padded(b)
