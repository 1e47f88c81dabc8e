"""Spherical interpolation between two latents, and the weighted mean of several on the sphere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.errors import RequestError

STRAIGHT = 1e-4  # radians; a shorter arc is a line to float precision
ROUNDS = 60  # iterations of the mean on the sphere, which converges linearly


def slerp(a: Tensor, b: Tensor, theta: float) -> Tensor:
    """Spherical interpolation from a (theta = 0) to b (theta = 1), lengths interpolated linearly.

    Shoemake 1985, "Animating rotation with quaternion curves".

    Args:
        a, b: [B, ...]; each row is one vector.

    Raises:
        RequestError: opposite vectors, which have no unique shortest path.
    """
    rows_a, rows_b = a.flatten(1).double(), b.flatten(1).double()
    length_a, length_b = rows_a.norm(dim=1, keepdim=True), rows_b.norm(dim=1, keepdim=True)
    unit_a, unit_b = rows_a / length_a.clamp(min=1e-12), rows_b / length_b.clamp(min=1e-12)
    # Half-angle form (Kahan): acos of the dot product loses precision near 0 and π.
    angle = 2 * torch.atan2(
        (unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True)
    )
    if (angle > torch.pi - STRAIGHT).any():
        raise RequestError("the two are opposite: no path between them is the shortest")
    sine = angle.sin().clamp(min=1e-12)
    near = angle < STRAIGHT
    weight_a = torch.where(near, 1 - theta, ((1 - theta) * angle).sin() / sine)
    weight_b = torch.where(near, theta, (theta * angle).sin() / sine)
    length = (1 - theta) * length_a + theta * length_b
    between: Tensor = length * (weight_a * unit_a + weight_b * unit_b)
    return between.reshape(a.shape).to(a)


def weighted_mean(rows: Tensor, weights: Sequence[float], *, straight: bool = False) -> Tensor:
    """The weighted mean [B, ...] of K latents [K, B, ...] on the sphere, lengths averaged linearly.

    The point at which the weighted tangents to all latents sum to zero (Buss & Fillmore 2001, algorithm
    A1). Of two latents it equals `slerp` at the second one's weight. Independent of their order.

    Args:
        weights: K non-negative numbers whose sum is 1.
        straight: use the direction of the plain weighted sum instead.

    Raises:
        RequestError: the latents are opposite and have no unique mean.
    """
    share = torch.tensor(weights, dtype=torch.float64, device=rows.device)[:, None, None]
    vectors = rows.flatten(2).double()
    lengths = vectors.norm(dim=2, keepdim=True)
    units = vectors / lengths.clamp(min=1e-12)
    start = (share * units).sum(0)
    if (start.norm(dim=1) < STRAIGHT).any():
        raise RequestError("the prompts are opposite: nothing is in the middle of them")
    if straight:
        middle = F.normalize((share * vectors).sum(0), dim=1)
    else:
        middle = F.normalize(start, dim=1)
        for _ in range(ROUNDS):
            cosine = (units * middle).sum(2, keepdim=True)
            away = units - cosine * middle
            sine = away.norm(dim=2, keepdim=True)
            # Log map: the tangent at the middle towards each unit vector, as long as the angle between them.
            tangent = (share * torch.atan2(sine, cosine) * away / sine.clamp(min=1e-12)).sum(0)
            angle = tangent.norm(dim=1, keepdim=True)
            middle = F.normalize(angle.cos() * middle + angle.sin() * tangent / angle.clamp(min=1e-12), dim=1)
    mean: Tensor = (share * lengths).sum(0) * middle
    return mean.reshape(rows.shape[1:]).to(rows)
