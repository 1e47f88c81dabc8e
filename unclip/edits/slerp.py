"""The path between two latents."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.errors import RequestError

STRAIGHT = 1e-4  # radians; below, the arc is a line to float precision


def slerp(a: Tensor, b: Tensor, theta: float) -> Tensor:
    """From a (theta = 0) to b (theta = 1) along the great circle, the lengths blended in proportion (Shoemake 1985).

    Args:
        a, b: [B, ...]; each row is one vector.

    Raises:
        RequestError: opposite vectors, between which no path is the shortest.
    """
    rows_a, rows_b = a.flatten(1).double(), b.flatten(1).double()
    length_a, length_b = rows_a.norm(dim=1, keepdim=True), rows_b.norm(dim=1, keepdim=True)
    unit_a, unit_b = rows_a / length_a.clamp(min=1e-12), rows_b / length_b.clamp(min=1e-12)
    # Half-angle form: acos of a dot product is blind near 0 and π.
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True))
    if (angle > torch.pi - STRAIGHT).any():
        raise RequestError("the two are opposite: no path between them is the shortest")
    sine = angle.sin().clamp(min=1e-12)
    near = angle < STRAIGHT
    weight_a = torch.where(near, 1 - theta, ((1 - theta) * angle).sin() / sine)
    weight_b = torch.where(near, theta, (theta * angle).sin() / sine)
    length = (1 - theta) * length_a + theta * length_b
    between: Tensor = length * (weight_a * unit_a + weight_b * unit_b)
    return between.reshape(a.shape).to(a)
