"""Read CLIP embeddings that `unclip data embed` stored.

A sample is `KEY.safetensors` with its captions in `KEY.json`, or with the original image and caption files
if these were kept. The tensors:

- `image_embed` float32 [D] and `text_embed` float32 [n, D], one row per caption;
- optionally `ids` int32 [L], `tokens` float16 [L, W] and `lengths` int32 [n]: the tokens of all captions,
  concatenated, and the number of tokens of each caption.

The folder's shards.json names the CLIP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unclip.clip import Text
from unclip.data.sample import BadSample, captions
from unclip.data.tar import PIPE, Sample, read_record
from unclip.errors import DataError
from unclip.stages.base import Moments

RECORD = "shards.json"


@dataclass(frozen=True)
class Embeddings:
    """Record of embedded shards. Replaces the CLIP where only its identity and sizes are needed.

    Attributes:
        identity, width, token_width, context: of the CLIP, see `Clip`.
        count: number of images.
        moments: mean and standard deviation of their embeddings z_i.
        null: the encoded empty caption; None if token states were not stored.
        pictures: whether the shards also hold the images.
    """

    identity: str
    width: int
    token_width: int
    context: int
    count: int
    moments: Moments
    null: Text | None
    pictures: bool = False


def find_embeddings(paths: Iterable[str]) -> Embeddings | None:
    """Read the record of the shards' folders, merged; None if the shards hold only images.

    Raises:
        DataError: the folders mix images and embeddings, or embeddings of several CLIPs.
    """
    folders = sorted({path.rpartition("/")[0] for path in paths if not path.startswith(PIPE)})
    records = [_read(f"{folder}/{RECORD}" if folder else RECORD) for folder in folders]
    identities = sorted({f"embeddings of {record.identity}" if record else "pictures" for record in records})
    if len(identities) > 1:
        raise DataError(
            f"{folders[0]} and the other folders cannot be read together: {', '.join(identities)}"
        )
    return _joined([record for record in records if record])


def _joined(records: list[Embeddings]) -> Embeddings | None:
    if len(records) < 2:
        return records[0] if records else None
    count = torch.tensor([record.count for record in records], dtype=torch.float64)[:, None]
    means, stds = (torch.stack(part).double() for part in zip(*(record.moments for record in records)))
    mean = (count * means).sum(0) / count.sum()
    variance = (count * (stds.square() + (means - mean).square())).sum(0) / count.sum()
    null = records[0].null if all(record.null for record in records) else None
    moments = Moments(mean.float(), variance.sqrt().float())
    pictures = all(record.pictures for record in records)
    return replace(records[0], count=int(count.sum()), moments=moments, null=null, pictures=pictures)


def _read(url: str) -> Embeddings | None:
    tree = read_record(url)
    if tree is None or "clip" not in tree:
        return None
    try:
        null = tree["null"] and Text(
            [""],
            torch.tensor(tree["null"]["ids"]),
            torch.ones(1, len(tree["null"]["ids"][0]), dtype=torch.bool),
            torch.tensor(tree["null"]["embed"]),
            torch.tensor(tree["null"]["tokens"]),
        )
        return Embeddings(
            str(tree["clip"]),
            int(tree["width"]),
            int(tree["token_width"]),
            int(tree["context"]),
            int(tree["count"]),
            Moments(torch.tensor(tree["mean"]), torch.tensor(tree["std"])),
            null,
            tree.get("pictures") is True,
        )
    except (KeyError, TypeError, ValueError, IndexError):
        raise DataError(f"{url}: damaged; run `unclip data embed` again") from None


class EmbeddedText(NamedTuple):
    """One encoded caption."""

    ids: Tensor  # [L]
    embed: Tensor  # [D]
    tokens: Tensor  # [L, W]


class Embedded(NamedTuple):
    """One sample of embedded shards; `texts` is empty if token states were not stored."""

    captions: list[str]
    image_embed: Tensor  # [D]
    texts: list[EmbeddedText]


def read_embedded(sample: Sample, width: int | None = None) -> Embedded:
    """Read a sample's embeddings.

    Args:
        width: expected D; None accepts any.

    Raises:
        BadSample: the embeddings are missing, damaged or do not fit the captions.
    """
    listed = captions(sample)
    if "safetensors" not in sample:
        raise BadSample(sample, "no embeddings")
    try:
        tensors = load(sample["safetensors"])
        image_embed, text_embed = tensors["image_embed"], tensors["text_embed"]
        if text_embed.shape != (len(listed), len(image_embed)) or width not in (None, len(image_embed)):
            raise ValueError(
                f"widths {tuple(image_embed.shape)} and {tuple(text_embed.shape)}, {len(listed)} captions"
            )
        texts: list[EmbeddedText] = []
        if "tokens" in tensors:
            lengths = tensors["lengths"].tolist()
            parts = zip(
                tensors["ids"].long().split(lengths),
                text_embed,
                tensors["tokens"].split(lengths),
                strict=True,
            )
            texts = [EmbeddedText(*part) for part in parts]
    except Exception as error:  # safetensors raises its own kind for damage, torch RuntimeErrors
        raise BadSample(sample, "unreadable embeddings", str(error)) from None
    return Embedded(listed, image_embed, texts)


def joined(captions: Sequence[str], texts: Sequence[EmbeddedText]) -> Text:
    """Batch encoded captions as one `Text`, padded to the longest."""
    mask = pad_sequence([torch.ones(len(text.ids), dtype=torch.bool) for text in texts], batch_first=True)
    return Text(
        captions,
        pad_sequence([text.ids for text in texts], batch_first=True),
        mask,
        torch.stack([text.embed for text in texts]),
        pad_sequence([text.tokens for text in texts], batch_first=True),
    )
