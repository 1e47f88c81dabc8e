"""The measures themselves: pure functions of features [N, D], in float64, each with a bootstrap over the
pictures.

A resample is a vector of weights: how often each picture was drawn. Every measure takes them, so its interval
needs no second implementation; weights of one are the measure itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.errors import RequestError

CHUNK = 2048  # rows of a kernel matrix held at a time
NEIGHBOURS = 3  # of precision and recall; Kynkäänniemi et al. 2019
SPLITS = 10  # of the Inception Score; Salimans et al. 2016
SIGMA = 10.0  # of CMMD's kernel; Jayasumana et al. 2024
CMMD_UNIT = 1000.0  # CMMD is reported in thousandths
CLIP_UNIT = 100.0  # the CLIP score, in hundredths of a cosine

Kernel = Callable[[Tensor, Tensor], Tensor]  # [N, D], [M, D] → [N, M]


class Estimate(NamedTuple):
    """A figure and its 95 % interval by bootstrap over the measured pictures; None where none was asked
    for.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        shown = f"{self.value:.4g}"
        return shown if self.low is None else f"{shown} [{self.low:.4g}, {self.high:.4g}]"


def fid(features: Tensor, reference: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """Fréchet distance of the two Gaussians with the features' moments (Heusel et al. 2017, eq. 6); 0 is
    best.

    Args:
        features: [N, D]; reference: [M, D], with N, M > D.
        resamples: of `features`, for the interval. seed: of the resamples.

    Raises:
        RequestError: fewer pictures than features, or other bad features.
    """
    x, y = _checked(features, reference)
    few = min(len(x), len(y))
    if few <= x.shape[1]:
        raise RequestError(
            f"fid: {few} pictures for {x.shape[1]} features; it needs more pictures than features (kid and "
            "cmmd do not)"
        )
    mean, cov = _moments(y, torch.ones(len(y), dtype=torch.float64))
    values, vectors = torch.linalg.eigh(cov)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def distance(weights: Tensor) -> float:
        other_mean, other_cov = _moments(x, weights)
        # tr √(Σ₁Σ₂) = tr √(√Σ₂ Σ₁ √Σ₂), whose matrix is symmetric: real eigenvalues, no imaginary dust.
        both = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
        return float((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * both)

    return _estimate(distance, len(x), resamples, seed)


def kid(features: Tensor, reference: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """Kernel Inception Distance: unbiased squared MMD with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018);
    0 is best.

    Over all pictures at once; the mean over random subsets, as others report it, estimates the same with more
    noise.
    """
    x, y = _checked(features, reference)

    def cubic(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    return _mmd(x, y, cubic, unbiased=True, resamples=resamples, seed=seed)


def cmmd(features: Tensor, reference: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """CLIP-MMD: biased squared MMD of unit embeddings, Gaussian kernel of σ = 10, in thousandths (Jayasumana
    et al. 2024).
    """
    x, y = (z / z.norm(dim=1, keepdim=True) for z in _checked(features, reference))

    def gaussian(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp((a @ b.T - 1) / SIGMA**2)  # ‖a − b‖² = 2 − 2 a·b

    value, low, high = _mmd(x, y, gaussian, unbiased=False, resamples=resamples, seed=seed)
    return Estimate(
        CMMD_UNIT * value, *(None if bound is None else CMMD_UNIT * bound for bound in (low, high))
    )


def inception_score(logits: Tensor, *, splits: int = SPLITS, resamples: int = 0, seed: int = 0) -> Estimate:
    """exp E KL(p(y|x) ‖ p(y)) of a classifier's logits [N, C], mean over `splits` parts (Salimans et al.
    2016).

    From 1, where all pictures look alike or none is clear, to the number of classes.
    """
    (logits,) = _checked(logits)
    if len(logits) < splits:
        raise RequestError(f"is: {len(logits)} pictures for {splits} splits; it needs at least one for each")
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    edges = [i * len(p) // splits for i in range(splits + 1)]

    def score(weights: Tensor) -> float:
        found = []
        for start, end in pairwise(edges):
            w = weights[start:end]
            if not w.any():  # a resample may leave a small split out
                continue
            share = w / w.sum()
            marginal = share @ p[start:end]
            divergence = (p[start:end] * (log_p[start:end] - marginal.log())).nan_to_num().sum(dim=1)
            found.append(float((share @ divergence).exp()))
        return sum(found) / len(found)

    return _estimate(score, len(p), resamples, seed)


class PrecisionRecall(NamedTuple):
    """Shares of the measured pictures that look like the reference, and of the reference that the pictures
    cover.
    """

    precision: Estimate
    recall: Estimate


def precision_recall(
    features: Tensor, reference: Tensor, *, neighbours: int = NEIGHBOURS, resamples: int = 0, seed: int = 0
) -> PrecisionRecall:
    """Whether each point lies within some other set's point's `neighbours`-th neighbour (Kynkäänniemi et al.
    2019).
    """
    x, y = _checked(features, reference)
    if min(len(x), len(y)) <= neighbours:
        raise RequestError(
            f"precision-recall: {min(len(x), len(y))} pictures; it needs more than {neighbours}, the "
            "neighbours it looks at"
        )
    return PrecisionRecall(
        mean_of(_covered(x, y, neighbours), resamples=resamples, seed=seed),
        mean_of(_covered(y, x, neighbours), resamples=resamples, seed=seed),
    )


def clip_score(images: Tensor, texts: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """100 · mean of max(cos(z_i, z_t), 0) over pictures [N, D] and their captions [N, D] (Hessel et al. 2021,
    w = 1).
    """
    x, y = _checked(images, texts)
    if len(x) != len(y):
        raise RequestError(f"clip: {len(x)} pictures and {len(y)} captions; each picture needs its own")
    cosines = torch.nn.functional.cosine_similarity(x, y).clamp(min=0)
    return mean_of(CLIP_UNIT * cosines, resamples=resamples, seed=seed)


def recall(
    queries: Tensor,
    candidates: Tensor,
    right: tuple[Tensor, Tensor],
    ks: Sequence[int],
    *,
    resamples: int = 0,
    seed: int = 0,
) -> dict[int, Estimate]:
    """k → share of the queries that have a right candidate among the k of highest cosine (recall@k).

    A wrong candidate exactly as near as the right one goes before it: a space that has collapsed to a point
        finds nothing.

    Args:
        queries: [Q, D]; candidates: [C, D].
        right: a number for each query [Q] and for each candidate [C]; equal ones belong together.
        resamples: of the queries, for the interval, the candidates held fixed. seed: of the resamples.
    """
    x, y = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-12) for z in _checked(queries, candidates))
    ahead = torch.cat(
        [
            _wrong_ahead(part @ y.T, own[:, None] == right[1])
            for part, own in zip(x.split(CHUNK), right[0].split(CHUNK), strict=True)
        ]
    )
    return {k: mean_of((ahead < k).double(), resamples=resamples, seed=seed) for k in ks}


def _wrong_ahead(scores: Tensor, right: Tensor) -> Tensor:
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~right).sum(dim=1)


def _checked(*sets: Tensor) -> tuple[Tensor, ...]:
    """In float64, if they can be compared."""
    widths = [features.shape[1] for features in sets]
    if len(set(widths)) > 1:
        raise RequestError(f"features of {widths[0]} and of {widths[1]} dimensions are of two extractors")
    for features in sets:
        bad = int((~features.isfinite().all(dim=1)).sum())
        if bad:
            raise RequestError(f"the features of {bad} of {len(features)} pictures are not finite numbers")
        if len(features) < 2:
            raise RequestError(f"{len(features)} pictures are too few to measure")
    return tuple(features.double() for features in sets)


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    total = weights.sum()
    mean = weights @ x / total
    centred = x - mean
    return mean, (centred * weights[:, None]).T @ centred / (total - 1)


def _mmd(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool, resamples: int, seed: int) -> Estimate:
    """One pass over the kernel matrices for all resamples of x."""
    weights = torch.stack(
        [torch.ones(len(x), dtype=torch.float64), *_resamples(len(x), resamples, seed)], dim=1
    )
    ones = torch.ones(len(y), 1, dtype=torch.float64)
    within_x = _weighted_sum(x, x, weights, weights, kernel)
    within_y = _weighted_sum(y, y, ones, ones, kernel)
    across = _weighted_sum(x, y, weights, ones, kernel)
    n, m = len(x), len(y)
    if unbiased:  # without each point's kernel with itself
        own_x, own_y = (torch.cat([kernel(a[None], a[None])[0] for a in points]) for points in (x, y))
        means = (within_x - own_x @ weights) / (n * (n - 1)) + (within_y - own_y.sum()) / (m * (m - 1))
    else:
        means = within_x / n**2 + within_y / m**2
    values = means - 2 * across / (n * m)
    return _with_interval(float(values[0]), values[1:])


def _weighted_sum(x: Tensor, y: Tensor, over_x: Tensor, over_y: Tensor, kernel: Kernel) -> Tensor:
    """Σ_ij w_i k(x_i, y_j) v_j for each column of weights: over_x [N, R], over_y [M, R or 1] → [R]."""
    total = torch.zeros(over_x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        total += (over_x[rows] * (kernel(x[rows], y) @ over_y)).sum(dim=0)
    return total


def _covered(points: Tensor, manifold: Tensor, neighbours: int) -> Tensor:
    """1 for each point within reach of one of the manifold, [N]."""
    radii = torch.cat(
        [torch.cdist(part, manifold).kthvalue(neighbours + 1, dim=1).values for part in manifold.split(CHUNK)]
    )
    return torch.cat(
        [(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(CHUNK)]
    ).double()


def mean_of(values: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """The mean of values [N], one of each picture, in float64."""
    return _estimate(lambda weights: float(weights @ values / weights.sum()), len(values), resamples, seed)


def _resamples(n: int, count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        drawn = torch.randint(n, (n,), generator=generator)
        yield torch.bincount(drawn, minlength=n).double()


def _estimate(measure: Callable[[Tensor], float], n: int, resamples: int, seed: int) -> Estimate:
    value = measure(torch.ones(n, dtype=torch.float64))
    return _with_interval(
        value, torch.tensor([measure(weights) for weights in _resamples(n, resamples, seed)])
    )


def _with_interval(value: float, resampled: Tensor) -> Estimate:
    if not len(resampled):
        return Estimate(value)
    # Around the value: the resamples' own mean is biased, as they hold pictures twice.
    spread = resampled.double() - resampled.double().mean()
    low, high = spread.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, value + low, value + high)
