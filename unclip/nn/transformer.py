"""One pre-norm transformer, causal or not: the prior's body and the decoder's own text encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.nn.layers import attend


class Block(nn.Module):
    """Self-attention and a GELU MLP of four times the width, each on a normalised residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm_1(x)
        x = x + self.out(attend(self.q(h), self.k(h), self.v(h), self.heads, mask))
        h = self.up(self.norm_2(x))
        out: Tensor = x + self.down(F.gelu(h))
        return out


class Transformer(nn.Module):
    """A stack of blocks over [B, N, width].

    Args:
        causal: each position sees itself and what came before.
    """

    def __init__(self, width: int, depth: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """x [B, N, width]; `seen` [B, N] is False for padding that nobody may look at."""
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).tril() if self.causal else None
        if seen is not None:
            # A padded position sees itself, or its softmax would be empty (0/0) where all before it is padding.
            own = torch.eye(n, dtype=torch.bool, device=x.device)
            visible = seen[:, None, None, :]  # [B, 1, 1, N]
            mask = (visible if mask is None else mask & visible) | own
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x)
        return out


class TextEncoder(nn.Module):
    """Token ids [B, L] → states [B, L, width]: the decoder's own trainable text pathway (GLIDE; Nichol et al. 2021)."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(context, width) * 0.01)
        self.body = Transformer(width, depth, heads, causal=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.body(self.tokens(ids) + self.positions[: ids.shape[1]], seen=mask)
        return out
