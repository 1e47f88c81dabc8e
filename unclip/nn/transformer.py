"""A pre-norm transformer, causal or not: the body of the priors and of the text encoders."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.nn.config import ClipTextConfig
from unclip.nn.config import TransformerConfig as TransformerConfig
from unclip.nn.layers import attend

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """x σ(1.702 x), the approximation of GELU in OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm self-attention and an MLP with one hidden layer of `mlp_width`, default 4 · width."""

    def __init__(
        self, width: int, heads: int, activation: Activation = F.gelu, mlp_width: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm_1 = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, mlp_width or 4 * width)
        self.down = nn.Linear(mlp_width or 4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm_1(x)
        x = x + self.out(attend(self.q(h), self.k(h), self.v(h), self.heads, mask))
        h = self.up(self.norm_2(x))
        out: Tensor = x + self.down(self.activation(h))
        return out


class Transformer(nn.Module):
    """A stack of blocks over [B, N, width].

    Args:
        causal: each position attends to itself and earlier positions only.
        activation, mlp_width: activation and hidden width of the MLPs, see `Block`.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        causal: bool,
        activation: Activation = F.gelu,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(Block(width, heads, activation, mlp_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """x [B, N, width]; `seen` [B, N] is False for padding, which no other position attends to."""
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).tril() if self.causal else None
        if seen is not None:
            # A padded position attends to itself; otherwise its softmax could be over nothing (0/0).
            own = torch.eye(n, dtype=torch.bool, device=x.device)
            visible = seen[:, None, None, :]  # [B, 1, 1, N]
            mask = (visible if mask is None else mask & visible) | own
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x)
        return out


def position_table(*shape: int) -> nn.Parameter:
    """Learned position embeddings of the given shape [..., width], initialised with std 0.01."""
    return _drawn(*shape, std=0.01)


def embedding(count: int, width: int) -> nn.Embedding:
    """An nn.Embedding of `count` rows, initialised from N(0, 1)."""
    table: nn.Embedding = nn.Embedding.from_pretrained(_drawn(count, width, std=1.0), freeze=False)
    return table


def _drawn(*shape: int, std: float) -> nn.Parameter:
    table = torch.empty(*shape)
    if not table.is_meta:  # on meta, torch would import for seconds and draw nothing
        nn.init.normal_(table, std=std)
    return nn.Parameter(table)


def after_caption(
    body: Transformer, positions: Tensor, context: int, tokens: Tensor, rest: Tensor, mask: Tensor
) -> Tensor:
    """The transformer states [B, K, width] of the positions after a caption's tokens.

    Args:
        positions: position embeddings, [1, context + K or more, width]. The rest always has the positions
            from `context` on, although captions are padded only to the longest of the batch.
        tokens: token embeddings, [B, L, width] with L ≤ context.
        rest: embeddings of the positions after the tokens, [B, K, width].
        mask: True for real tokens, [B, L].
    """
    length, more = tokens.shape[1], rest.shape[1]
    places = torch.cat([positions[:, :length], positions[:, context : context + more]], dim=1)
    seen = torch.cat([mask, mask.new_ones(len(rest), more)], dim=1)
    states: Tensor = body(torch.cat([tokens, rest], dim=1) + places, seen)
    return states[:, length:]


class TextEncoder(nn.Module):
    """A transformer text encoder, token ids [B, L] → states [B, L, width].

    The decoder trains one of its own (GLIDE; Nichol et al. 2021). With `causal` and `quick_gelu` it is the
    text encoder of OpenAI's CLIP (Radford et al. 2021).
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        *,
        causal: bool = False,
        activation: Activation = F.gelu,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens = embedding(vocabulary, width)
        self.positions = position_table(context, width)
        self.body = Transformer(
            width, depth, heads, causal=causal, activation=activation, mlp_width=mlp_width
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.body(self.tokens(ids) + self.positions[: ids.shape[1]], seen=mask)
        return out


def clip_text_encoder(config: ClipTextConfig) -> TextEncoder:
    """The text encoder of a CLIP of transformers, without its projection."""
    activations: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}
    return TextEncoder(
        config.vocabulary,
        config.context,
        config.width,
        config.depth,
        config.heads,
        causal=True,
        activation=activations[config.activation],
        mlp_width=config.mlp_width,
    )
