"""Recall@k of queries among candidates, and its value by chance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unclip.evaluate.metrics import CHUNK, Estimate, checked, mean_of


def recall(
    queries: Tensor,
    candidates: Tensor,
    right: tuple[Tensor, Tensor],
    ks: Sequence[int],
    *,
    resamples: int = 0,
    seed: int = 0,
) -> dict[int, Estimate]:
    """Recall@k by cosine similarity: the share of queries with a right candidate among the k best.

    Ties count as wrong, so that a collapsed embedding space scores 0. Other right candidates take no place.

    Args:
        queries: [Q, D].
        candidates: [C, D].
        right: the pairs that match, as indices of queries [P] and of candidates [P]; at least one per query.
        resamples: number of bootstrap resamples of the queries; the candidates stay fixed.
        seed: seed of the resamples.
    """
    x, y = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-12) for z in checked(queries, candidates))
    ahead = []
    for start in range(0, len(x), CHUNK):
        scores = x[start : start + CHUNK] @ y.T
        here = (right[0] >= start) & (right[0] < start + CHUNK)
        matches = torch.zeros(scores.shape, dtype=torch.bool)
        matches[right[0][here] - start, right[1][here]] = True
        ahead.append(_wrong_ahead(scores, matches))
    places = torch.cat(ahead)
    return {k: mean_of((places < k).double(), least=0, most=1, resamples=resamples, seed=seed) for k in ks}


def chance_of_recall(right: tuple[Tensor, Tensor], count: int, k: int) -> float:
    """Expected recall@k of a random order of the candidates.

    Args:
        right: as for `recall`. count: number of candidates, more than k.
    """
    wrong = count - torch.bincount(right[0]).double()
    missed = torch.ones_like(wrong)
    for i in range(k):  # none of the first k is right
        missed *= (wrong - i).clamp(min=0) / (count - i)
    return float(1 - missed.mean())


def _wrong_ahead(scores: Tensor, right: Tensor) -> Tensor:
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~right).sum(dim=1)
