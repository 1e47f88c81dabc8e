"""The text tower and the tokenizer of open_clip's models, without importing open_clip, which takes seconds."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unclip.nn.config import Architecture
from unclip.nn.transformer import embedding

BYTE_TOKENS = 512  # each byte inside a word and at its end


class TextTower(nn.Module):
    """The text tower of a CLIP that the CLIP stage trains; open_clip's operations and names of tensors."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.token_embedding = embedding(vocabulary_size(a.merges), a.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(a.context, a.text_width))
        self.transformer = Transformer(a.text_width, a.text_depth, heads(a.text_width, a.head))
        self.ln_final = nn.LayerNorm(a.text_width)
        self.text_projection = nn.Parameter(torch.empty(a.text_width, a.embed))
        self.register_buffer("attn_mask", causal_mask(a.context), persistent=False)


class Transformer(nn.Module):
    """Pre-norm blocks over [B, L, width]."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask)
        return x


class Block(nn.Module):
    """Self-attention and an MLP, each beside the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def heads(width: int, head: int) -> int:
    """Number of attention heads of `head` channels."""
    return max(width // head, 1)


def vocabulary_size(merges: int) -> int:
    """Number of tokens of `tokenizer_with`: bytes, merges, and the marks of start and end."""
    return BYTE_TOKENS + merges + 2


def tokenizer_with(merges: int, context: int) -> Any:
    """CLIP's own tokenizer, cut down to its first `merges` merges."""
    tokenizer = _open_clips_tokenizer().SimpleTokenizer(context_length=context)
    kept = dict(list(tokenizer.bpe_ranks.items())[:merges])
    vocabulary = [*list(tokenizer.encoder)[: BYTE_TOKENS + merges], "<start_of_text>", "<end_of_text>"]
    tokenizer.bpe_ranks = kept
    tokenizer.encoder = {token: i for i, token in enumerate(vocabulary)}
    tokenizer.decoder = {i: token for token, i in tokenizer.encoder.items()}
    tokenizer.vocab_size = len(vocabulary)
    tokenizer.sot_token_id, tokenizer.eot_token_id = len(vocabulary) - 2, len(vocabulary) - 1
    tokenizer.all_special_ids = [tokenizer.sot_token_id, tokenizer.eot_token_id]
    return tokenizer


def causal_mask(context: int) -> Tensor:
    """The text tower's attention mask, which open_clip does not save and a meta-device model lacks."""
    return torch.full((context, context), float("-inf"), device="cpu").triu(1)


def tokenize(tokenizer: Any, captions: Sequence[str], context: int) -> tuple[Tensor, Tensor]:
    """Captions → ids and mask, [B, L], padded to the longest caption only."""
    end = tokenizer.eot_token_id
    rows = [[tokenizer.sot_token_id, *tokenizer.encode(caption)[: context - 2], end] for caption in captions]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return ids, mask


def text_states(text: Any, ids: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Token states [B, L, W] and the embedding at the end token [B, D] of an open_clip text tower.

    open_clip's `encode_text` returns the embedding only; the decoder and the prior need the states as well.
    """
    length = ids.shape[1]
    x = text.token_embedding(ids) + text.positional_embedding[:length]
    x = text.transformer(x, attn_mask=text.attn_mask[:length, :length].to(x.dtype))
    x = text.ln_final(x)
    pooled = x[torch.arange(len(x), device=x.device), (ids == end).int().argmax(dim=1)]
    projection = text.text_projection
    return x, projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection


@cache
def _open_clips_tokenizer() -> ModuleType:
    """open_clip's module `tokenizer`, loaded from its file: importing it would import all of open_clip."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.origin is not None
    path = Path(package.origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("unclip.clip.open_clip_tokenizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
