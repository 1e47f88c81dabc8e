"""The variational bound of a discrete-time model, an upper bound on −log p(x_0).

L = L_T + Σ L_{t−1} + L_0 (Sohl-Dickstein et al. 2015, eq. 14; Ho et al. 2020, eq. 5).
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
        prior: L_T, the information about x_0 left in x_T.
        steps: Σ L_{t−1}, the reverse steps except the last.
        last: L_0, the step to the data's discrete levels.
    """

    prior: Tensor
    steps: Tensor
    last: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, [B]."""
        return self.prior + self.steps + self.last


def bound(
    diffusion: Diffusion, network: Network, x0: Tensor, cond: Cond, rng: ExampleRng, terms: int | None = None
) -> Bound:
    """The bound of data x0 [B, ...], with one noise sample per term.

    Args:
        rng: the generator of each example.
        terms: number of terms in a stratified estimate of the sum: one random timestep from each of `terms`
            intervals. Unbiased, with higher variance. None computes all T − 1 terms.
    """
    times = diffusion.schedule.times
    if terms is None or terms >= times - 1:
        edges = list(range(1, times + 1))
    else:  # shorter intervals near t = 0, where the terms are large and change fast
        edges = sorted({1 + round((times - 1) * (i / terms) ** 2) for i in range(terms + 1)})
    last = diffusion.bound_term(network, x0, cond, torch.zeros(len(x0), dtype=torch.long), rng.normal(x0))
    steps = torch.zeros_like(last)
    for start, stop in pairwise(edges):
        t = start + (rng.uniform().cpu() * (stop - start)).long()
        steps += (stop - start) * diffusion.bound_term(network, x0, cond, t, rng.normal(x0))
    return Bound(_prior(diffusion, x0), steps, last)


def _prior(diffusion: Diffusion, x0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) ‖ N(0, I)), in bits per dimension."""
    alpha, sigma = diffusion.schedule.at(diffusion.schedule.times - 1)
    return prior_kl(x0, alpha, sigma).flatten(1).mean(1) / math.log(2)
