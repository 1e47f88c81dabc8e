"""Metrics of features [N, D]: pure functions in float64, with bootstrap intervals over the images.

A bootstrap resample is a vector of weights, the number of times each image was drawn. Every metric takes
weights, so its interval needs no second implementation; weights of one give the metric itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.errors import RequestError

CHUNK = 2048  # rows of a kernel matrix in memory at a time
NEIGHBOURS = 3  # k of precision and recall; Kynkäänniemi et al. 2019
SPLITS = 10  # parts of the Inception Score; Salimans et al. 2016
SIGMA = 10.0  # bandwidth of CMMD's kernel; Jayasumana et al. 2024
CMMD_UNIT = 1000.0  # CMMD is reported × 1000
CLIP_UNIT = 100.0  # the CLIP score is reported × 100

Kernel = Callable[[Tensor, Tensor], Tensor]  # [N, D], [M, D] → [N, M]


class Estimate(NamedTuple):
    """A value with its 95 % bootstrap interval over the images; None without resamples.

    The interval holds only values that the measure can have.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        text = f"{self.value:.4g}"
        return text if self.low is None else f"{text} [{self.low:.4g}, {self.high:.4g}]"


def fid(features: Tensor, reference: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """Fréchet distance of Gaussians with the features' moments (Heusel et al. 2017, eq. 6); 0 is best.

    Args:
        features: [N, D] of the images, N > D.
        reference: [M, D] of the reference, M > D.
        resamples: number of bootstrap resamples of `features`; 0 for no interval.
        seed: seed of the resamples.

    Raises:
        RequestError: there are too few images for D features, or features are not finite.
    """
    x, y = checked(features, reference)
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
        # tr √(Σ₁Σ₂) = tr √(√Σ₂ Σ₁ √Σ₂); the right-hand matrix is symmetric, with real eigenvalues.
        both = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
        return float((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * both)

    return _estimate(distance, len(x), resamples, seed)


def kid(features: Tensor, reference: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """Kernel Inception Distance: unbiased squared MMD with kernel (x·y / D + 1)³; 0 is best.

    Bińkowski et al. 2018. Computed over all images at once. The usual mean over random subsets estimates the
    same value with more noise.
    """
    x, y = checked(features, reference)

    def cubic(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    return _mmd(x, y, cubic, unbiased=True, resamples=resamples, seed=seed)


def cmmd(features: Tensor, reference: Tensor, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """CMMD × 1000: biased squared MMD of normalised embeddings, Gaussian kernel of σ = 10.

    Jayasumana et al. 2024.
    """
    x, y = (z / z.norm(dim=1, keepdim=True) for z in checked(features, reference))

    def gaussian(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp((a @ b.T - 1) / SIGMA**2)  # ‖a − b‖² = 2 − 2 a·b

    value, low, high = _mmd(x, y, gaussian, unbiased=False, resamples=resamples, seed=seed)
    return Estimate(
        CMMD_UNIT * value, *(None if bound is None else CMMD_UNIT * bound for bound in (low, high))
    )


def inception_score(logits: Tensor, *, splits: int = SPLITS, resamples: int = 0, seed: int = 0) -> Estimate:
    """Inception Score: exp E KL(p(y|x) ‖ p(y)) of logits [N, C], mean over `splits` parts.

    Salimans et al. 2016. Between 1 (one class only, or no confident prediction) and C.
    """
    (logits,) = checked(logits)
    if len(logits) < splits:
        raise RequestError(f"is: {len(logits)} pictures for {splits} splits; it needs at least one for each")
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    edges = [i * len(p) // splits for i in range(splits + 1)]

    def score(weights: Tensor) -> float:
        found = []
        for start, end in pairwise(edges):
            w = weights[start:end]
            if not w.any():  # a resample may draw nothing from a small split
                continue
            share = w / w.sum()
            marginal = share @ p[start:end]
            divergence = (p[start:end] * (log_p[start:end] - marginal.log())).nan_to_num().sum(dim=1)
            found.append(float((share @ divergence).exp()))
        return sum(found) / len(found)

    return _estimate(score, len(p), resamples, seed, 1.0, p.shape[1])


class PrecisionRecall(NamedTuple):
    """Share of images within the reference's manifold, and of the reference within the images' manifold."""

    precision: Estimate
    recall: Estimate


def precision_recall(
    features: Tensor, reference: Tensor, *, neighbours: int = NEIGHBOURS, resamples: int = 0, seed: int = 0
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

    A point lies within a manifold if it is no farther from one of its points than that point's k-th nearest
    neighbour in the manifold, k = `neighbours`.
    """
    x, y = checked(features, reference)
    if min(len(x), len(y)) <= neighbours:
        raise RequestError(
            f"precision-recall: {min(len(x), len(y))} pictures; it needs more than {neighbours}, its number "
            "of neighbours"
        )
    return PrecisionRecall(
        mean_of(_covered(x, y, neighbours), least=0, most=1, resamples=resamples, seed=seed),
        mean_of(_covered(y, x, neighbours), least=0, most=1, resamples=resamples, seed=seed),
    )


def clip_score(
    images: Tensor, texts: Tensor, owner: Tensor | None = None, *, resamples: int = 0, seed: int = 0
) -> Estimate:
    """CLIP score: 100 · mean of max(cos(z_i, z_t), 0) (Hessel et al. 2021 with w = 1).

    Args:
        images: z_i [N, D].
        texts: z_t [M, D] of their captions.
        owner: index of each caption's image, [M]; the captions of an image are averaged first. None: M = N,
            one caption per image in the images' order.
    """
    x, y = checked(images, texts)
    if owner is None:
        owner = torch.arange(len(y))
    if len(owner) != len(y) or len(owner.unique()) != len(x):
        raise RequestError(f"clip: {len(x)} pictures and {len(y)} captions; each picture needs its own")
    cosines = torch.nn.functional.cosine_similarity(x[owner], y).clamp(min=0)
    means = torch.zeros(len(x), dtype=x.dtype).index_add(0, owner, cosines) / owner.bincount()
    return mean_of(CLIP_UNIT * means, least=0, most=CLIP_UNIT, resamples=resamples, seed=seed)


def checked(*sets: Tensor) -> tuple[Tensor, ...]:
    """Convert features to float64, and check that they can be compared.

    Raises:
        RequestError: they have several widths, are not finite, or are of fewer than two images.
    """
    widths = [features.shape[1] for features in sets]
    if len(set(widths)) > 1:
        sizes = f"{widths[0]} and of {widths[1]}"
        raise RequestError(f"features of {sizes} dimensions are not from the same extractor")
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
    """Squared MMD with all resamples of x in one pass over the kernel matrices."""
    weights = torch.stack(
        [torch.ones(len(x), dtype=torch.float64), *_resamples(len(x), resamples, seed)], dim=1
    )
    ones = torch.ones(len(y), 1, dtype=torch.float64)
    within_x = _weighted_sum(x, x, weights, weights, kernel)
    within_y = _weighted_sum(y, y, ones, ones, kernel)
    across = _weighted_sum(x, y, weights, ones, kernel)
    n, m = len(x), len(y)
    if unbiased:  # without the diagonal
        own_x, own_y = (torch.cat([kernel(a[None], a[None])[0] for a in points]) for points in (x, y))
        means = (within_x - own_x @ weights) / (n * (n - 1)) + (within_y - own_y.sum()) / (m * (m - 1))
    else:
        means = within_x / n**2 + within_y / m**2
    values = means - 2 * across / (n * m)
    return _with_interval(float(values[0]), values[1:], -inf if unbiased else 0.0)


def _weighted_sum(x: Tensor, y: Tensor, over_x: Tensor, over_y: Tensor, kernel: Kernel) -> Tensor:
    """Σ_ij w_i k(x_i, y_j) v_j for each column of weights: over_x [N, R], over_y [M, R or 1] → [R]."""
    total = torch.zeros(over_x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        total += (over_x[rows] * (kernel(x[rows], y) @ over_y)).sum(dim=0)
    return total


def _covered(points: Tensor, manifold: Tensor, neighbours: int) -> Tensor:
    """1.0 for each point that lies within the manifold, [N]."""
    radii = torch.cat(
        [torch.cdist(part, manifold).kthvalue(neighbours + 1, dim=1).values for part in manifold.split(CHUNK)]
    )
    return torch.cat(
        [(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(CHUNK)]
    ).double()


def mean_of(
    values: Tensor, *, least: float = -inf, most: float = inf, resamples: int = 0, seed: int = 0
) -> Estimate:
    """Mean of values [N] in float64, one value per image, none below `least` or above `most`."""
    return _estimate(
        lambda weights: float(weights @ values / weights.sum()), len(values), resamples, seed, least, most
    )


def _resamples(n: int, count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        drawn = torch.randint(n, (n,), generator=generator)
        yield torch.bincount(drawn, minlength=n).double()


def _estimate(
    measure: Callable[[Tensor], float],
    n: int,
    resamples: int,
    seed: int,
    least: float = 0.0,
    most: float = inf,
) -> Estimate:
    value = measure(torch.ones(n, dtype=torch.float64))
    resampled = torch.tensor([measure(weights) for weights in _resamples(n, resamples, seed)])
    return _with_interval(value, resampled, least, most)


def _with_interval(value: float, resampled: Tensor, least: float, most: float = inf) -> Estimate:
    """The interval, cut at the least and the largest value that the measure can have."""
    if not len(resampled):
        return Estimate(value)
    # Centred on the value: repeated images bias the mean of the resamples.
    spread = resampled.double() - resampled.double().mean()
    low, high = spread.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, min(value, max(least, value + low)), max(value, min(most, value + high)))
