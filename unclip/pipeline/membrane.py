"""Seamless edits: a smooth correction of the painted pixels, so that no step of brightness shows at the mask.

The correction is a membrane, the solution of Laplace's equation in the painted part (Pérez et al. 2003,
"Poisson image editing"). It is tied at the border to the differences between kept and painted pixels.
"""

from __future__ import annotations

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 256  # cells per side of the membrane: it is smooth
TOLERANCE = 0.25  # difference, of a range of 2, from which a step is an edge of an object
NEAR = 64  # such an edge is softened within about 1/64 of the side, and no further
SWEEPS = 4  # of Jacobi's method at each level of the solver
OFFSETS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # (row, column) of a pixel's neighbours


def join(made: Tensor, picture: Tensor, paint: Tensor) -> Tensor:
    """The painted pixels of `made`, corrected to meet the kept pixels of `picture` at the mask's border.

    Two corrections are added. The membrane removes steps of brightness from the whole painted part; it
    ignores large differences, because the colour of an object that ends at the border must not spread. The
    second one is the same with a short range and softens every step that is left.

    Each image is computed alone, on the CPU in float32, so that it does not depend on its batch or device.

    Args:
        made: [B, 3, H, W] in [−1, 1].
        picture: [1, 3, H, W]. Only its kept pixels are read.
        paint: True where to paint, [H, W].

    Returns:
        [B, 3, H, W], clamped where painted. Kept pixels equal the picture's bit for bit.
    """
    side, painted = max(paint.shape), paint.cpu()
    if painted.all():
        return made.clamp(-1, 1)
    box = _bounding_box(painted)
    mask, own = painted[box], picture[0][:, *box].float().cpu()
    border = _border(mask)
    corrected = made.clamp(-1, 1).clone()
    for one in corrected:
        part = _corrected(one[:, *box].float().cpu(), own, mask, border, side)
        one[:, *box] = part.to(one)
    return torch.where(paint.to(made.device), corrected, picture.to(made))


def _bounding_box(paint: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the painted part and of one kept pixel around it."""
    spans = []
    for axis in (1, 0):
        found = paint.any(axis).nonzero()[:, 0]
        spans.append(slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2) if len(found) else slice(0, 1))
    return spans[0], spans[1]


def _border(paint: Tensor) -> tuple[Tensor, Tensor]:
    """Flat indices [N] of painted pixels and of their kept neighbours, one entry per pair."""
    height, width = paint.shape
    around = F.pad(paint, (1, 1, 1, 1), value=True)  # nothing is kept outside the picture
    inside, outside = [], []
    for y, x in OFFSETS:
        at = (paint & ~around[1 + y : 1 + y + height, 1 + x : 1 + x + width]).flatten().nonzero()[:, 0]
        inside.append(at)
        outside.append(at + y * width + x)
    return torch.cat(inside), torch.cat(outside)


def _corrected(
    made: Tensor, picture: Tensor, paint: Tensor, border: tuple[Tensor, Tensor], side: int
) -> Tensor:
    """One image [3, H, W] with both corrections; `side` is that of the whole picture in pixels."""
    inside, outside = border
    wanted = picture.flatten(1)[:, outside]
    coarse = -(-side // GRID)
    for cell, reach in ((coarse, inf), (1, max(1.5, side / NEAR))):
        step = wanted - made.flatten(1)[:, inside]
        if reach == inf:
            weight = torch.exp(-((step.abs().amax(0) / TOLERANCE) ** 2)) / cell
        else:  # firmer in large pictures, whose inner steps are smaller
            weight = torch.full((len(inside),), 1 + side / 1024)
        made = made + _membrane(paint, inside, step, weight, cell, reach)
    return made.clamp(-1, 1)


def _membrane(paint: Tensor, inside: Tensor, step: Tensor, weight: Tensor, cell: int, reach: float) -> Tensor:
    """Minimise Σ |∇c|² + Σ c²/reach² over painted pixels, + Σ weight (c − step)² over the border.

    Args:
        inside: flat indices [N] of the border's painted pixels.
        step: [3, N]. weight: [N].
        cell: side in pixels of a grid cell.
        reach: distance in pixels within which the correction fades; infinite for Laplace's equation.

    Returns:
        c [3, H, W].
    """
    height, width = paint.shape
    share = F.avg_pool2d(paint.float()[None], cell, ceil_mode=True)
    rows, columns = share.shape[1:]
    at = inside // width // cell * columns + inside % width // cell
    pull = torch.zeros(3, rows * columns).index_add_(1, at, weight * step).view(3, rows, columns)
    firm = torch.zeros(rows * columns).index_add_(0, at, weight).view(1, rows, columns)
    across = torch.minimum(share[:, :, 1:], share[:, :, :-1])
    down = torch.minimum(share[:, 1:], share[:, :-1])
    solved = _solve(across, down, pull, firm + share * (cell / reach) ** 2)
    if cell > 1:
        solved = F.interpolate(solved[None], scale_factor=cell, mode="bilinear")[0]
    return solved[:, :height, :width]


def _solve(across: Tensor, down: Tensor, pull: Tensor, firm: Tensor) -> Tensor:
    """Solve (L + firm) c = pull from coarse to fine, L the Laplacian of a grid with these conductances.

    Args:
        across, down: conductances to the right [1, H, W − 1] and downwards [1, H − 1, W].
        pull: [3, H, W]. firm: [1, H, W].
    """
    height, width = firm.shape[1:]
    if max(height, width) <= 2:
        return _relax(torch.zeros_like(pull), across, down, pull, firm, 16 * SWEEPS)
    odd = (0, width % 2, 0, height % 2)
    # A coarse cell holds 2 × 2: two edges side by side, each twice as long.
    wide = F.pad(across, (0, 1 + width % 2, 0, height % 2))
    tall = F.pad(down, (0, width % 2, 0, 1 + height % 2))
    coarse = _solve(
        (wide[:, ::2, 1::2] + wide[:, 1::2, 1::2])[:, :, :-1] / 2,
        (tall[:, 1::2, ::2] + tall[:, 1::2, 1::2])[:, :-1] / 2,
        4 * F.avg_pool2d(F.pad(pull, odd), 2),
        4 * F.avg_pool2d(F.pad(firm, odd), 2),
    )
    start = F.interpolate(coarse[None], scale_factor=2, mode="bilinear")[0, :, :height, :width]
    return _relax(start.contiguous(), across, down, pull, firm, SWEEPS)


def _relax(c: Tensor, across: Tensor, down: Tensor, pull: Tensor, firm: Tensor, sweeps: int) -> Tensor:
    """Damped Jacobi sweeps on c, in place."""
    diagonal = firm.clone()
    for part, flow in _neighbours(diagonal, across, down):
        part += flow
    rate = 0.8 / diagonal.clamp(min=1e-6)
    for _ in range(sweeps):
        rest = torch.addcmul(pull, firm, c, value=-1)
        horizontal, vertical = across * c.diff(dim=2), down * c.diff(dim=1)
        for sign, (part, flow) in zip((1, -1, 1, -1), _neighbours(rest, horizontal, vertical), strict=True):
            part.add_(flow, alpha=sign)
        c.addcmul_(rate, rest)
    return c


def _neighbours(grid: Tensor, across: Tensor, down: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of a grid from which and to which each edge leads, with the values of these edges."""
    return [(grid[:, :, :-1], across), (grid[:, :, 1:], across), (grid[:, :-1], down), (grid[:, 1:], down)]
