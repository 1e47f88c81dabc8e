"""How many bits a discrete-time model spends on a picture: the variational bound, term by term.

L = L_T + Σ L_{t−1} + L_0 (Sohl-Dickstein et al. 2015, eq. 14; Ho et al. 2020, eq. 5), an upper bound on −log
p(x_0).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.diffusion import Cond, Diffusion, Network
from unclip.diffusion.gaussian import prior_kl
from unclip.diffusion.noise import ExampleRng


class Bound(NamedTuple):
    """The parts of the bound in bits per dimension, each [B].

    Attributes:
        prior: L_T, what is left of the picture in x_T.
        steps: Σ L_{t−1}, the reverse steps but the last.
        last: L_0, the step to the data's own levels.
    """

    prior: Tensor
    steps: Tensor
    last: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, [B]."""
        return self.prior + self.steps + self.last


def bound(
    diffusion: Diffusion,
    network: Network,
    x0: Tensor,
    cond: Cond,
    chance: ExampleRng,
    terms: int | None = None,
) -> Bound:
    """The bound of pictures x0 [B, ...], by one draw of the noise for each term.

    Args:
        chance: what is drawn for each picture.
        terms: how many of the T − 1 terms of the sum are computed, at most: one at random of each of so many
            stretches, which stands for all of it. The mean stays the same; the spread grows. None computes
            all.
    """
    times = diffusion.schedule.times
    if terms is None or terms >= times - 1:
        edges = list(range(1, times + 1))
    else:  # shorter stretches towards t = 0, where the terms are large and change fast
        edges = sorted({1 + round((times - 1) * (i / terms) ** 2) for i in range(terms + 1)})
    last = diffusion.bound_term(network, x0, cond, torch.zeros(len(x0), dtype=torch.long), chance.normal(x0))
    steps = torch.zeros_like(last)
    for start, stop in pairwise(edges):
        t = start + (chance.uniform().cpu() * (stop - start)).long()
        steps += (stop - start) * diffusion.bound_term(network, x0, cond, t, chance.normal(x0))
    return Bound(_prior(diffusion, x0), steps, last)


def _prior(diffusion: Diffusion, x0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) ‖ N(0, I)), in bits per dimension."""
    alpha, sigma = diffusion.schedule.at(diffusion.schedule.times - 1)
    return prior_kl(x0, alpha, sigma).flatten(1).mean(1) / math.log(2)
