"""The Gaussian and the binomial Markov chain of Sohl-Dickstein et al. (2015).

Both are trained by the variational bound L_T + Σ L_t + L_0, whose terms are divergences in closed form.
Timesteps are numbered as in `Schedule`: t = 0 is the paper's first step, and `CLEAN` comes before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.diffusion import Network
from unclip.diffusion.gaussian import broadcast_to, gaussian_kl, prior_kl
from unclip.diffusion.samplers import NoiseSource
from unclip.diffusion.schedule import CLEAN, Schedule


class Normal(NamedTuple):
    """p(x_{t-1} | x_t): its mean and the log of its diagonal covariance, each shaped as x_t."""

    mean: Tensor
    log_variance: Tensor


Reverse = Callable[[Tensor, Tensor], Normal]  # x_t [B, ...], t int64 [B]


class GaussianChain:
    """The chain x_t ~ N(√(1−β) x_{t-1}, β), reversed with a learned mean and covariance."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        rows = [schedule.posterior(t, t - 1 if t else CLEAN) for t in range(schedule.times)]
        fields = [[row.x_weight, row.x0_weight, row.small, row.large] for row in rows]
        self._posterior = torch.tensor(fields, dtype=torch.float64, device="cpu")

    def reverse(self, network: Network) -> Reverse:
        """The reverse step from the output [B, 2n] of a network; an output of 0 is the step of pure noise."""

        def moments(x: Tensor, t: Tensor) -> Normal:
            mean_shift, log_scale = network(x, t).chunk(2, dim=1)
            beta = self._columns(t, x)[3]
            return Normal((1 - beta).sqrt() * x + beta.sqrt() * mean_shift, beta.log() + log_scale)

        return moments

    def term(self, reverse: Reverse, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The term L_t of the bound for each example, in nats, [B].

        KL(q(x_{t-1} | x_t, x_0) ‖ p) for t > 0, and −log of the density p(x_0 | x_1) at t = 0.

        Args:
            t: int64 [B].
            eps: the noise in x_t, shaped as x0 [B, ...].
        """
        x_weight, x0_weight, small, _ = self._columns(t, x0)
        alpha, sigma = self.schedule.coefficients(t, x0)
        x_t = alpha * x0 + sigma * eps
        p = reverse(x_t, t)
        offset = x_weight * x_t + x0_weight * x0 - p.mean
        nll = 0.5 * (p.log_variance + offset.square() * torch.exp(-p.log_variance) + math.log(2 * math.pi))
        first = broadcast_to(t == 0, x0, torch.bool)
        divergence = torch.where(first, nll, gaussian_kl(offset, small.log(), p.log_variance))
        return divergence.flatten(1).sum(1)

    def prior_term(self, x0: Tensor) -> Tensor:
        """The term L_T = KL(q(x_T | x_0) ‖ N(0, 1)) of each example, in nats, [B]; it has no parameters."""
        alpha, sigma = self.schedule.at(self.schedule.times - 1)
        return prior_kl(x0, alpha, sigma).flatten(1).sum(1)

    @torch.no_grad()
    def bound(self, reverse: Reverse, x0: Tensor, noise: NoiseSource) -> Tensor:
        """The upper bound on −log p(x0) of each example, in bits, [B], with one noise sample per term."""
        total = self.prior_term(x0)
        for t in range(self.schedule.times):
            total = total + self.term(reverse, x0, torch.full((len(x0),), t), noise(x0))
        return total / math.log(2)

    @torch.no_grad()
    def walk(self, reverse: Reverse, x: Tensor, noise: NoiseSource) -> Iterator[Tensor]:
        """Samples from x_T, Gaussian noise [B, ...], down to x_0; yields every state."""
        for t in reversed(range(self.schedule.times)):
            p = reverse(x, torch.full((len(x),), t))
            x = p.mean + torch.exp(p.log_variance / 2) * noise(x)
            yield x

    def _columns(self, t: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(broadcast_to(column, like) for column in self._posterior[t.cpu()].unbind(1))


Flips = Callable[[Tensor, Tensor], Tensor]  # x_t [B, n] of 0 and 1, t int64 [B] → P(x_{t-1} = 1 | x_t) [B, n]


@dataclass(frozen=True)
class BinomialChain:
    """A chain that resamples each bit with probability β_t = 1/(T − t), which erases 1/T of them per step."""

    times: int

    def kept(self, t: Tensor) -> Tensor:
        """The share of bits not yet resampled at t, ∏ (1 − β), float64 [B]; it falls linearly to 0."""
        return (self.times - 1 - t.double()) / self.times

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """P(x_t = 1 | x_0) of each bit [B, n]."""
        kept = self.kept(t)[:, None].to(x0)
        return kept * x0 + (1 - kept) / 2

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """P(x_{t-1} = 1 | x_t, x_0) of each bit [B, n]."""
        flipped = (1 / (self.times - t.double()) / 2)[:, None].to(x0)  # P(x_t ≠ x_{t-1})
        before = self.marginal(x0, t - 1)
        one = before * torch.where(x_t > 0.5, 1 - flipped, flipped)
        zero = (1 - before) * torch.where(x_t > 0.5, flipped, 1 - flipped)
        return one / (one + zero)

    def reverse(self, network: Network) -> Flips:
        """The reverse step of an x0-prediction: the posterior averaged over the predicted x_0.

        Args:
            network: x_t [B, n], t [B] → P(x_0 = 1 | x_t) of each bit [B, n].
        """

        def flips(x: Tensor, t: Tensor) -> Tensor:
            one: Tensor = network(x, t)
            ones = torch.ones_like(x)
            return one * self.posterior(x, ones, t) + (1 - one) * self.posterior(x, 0 * ones, t)

        return flips

    def term(self, reverse: Flips, x0: Tensor, t: Tensor, uniform: Tensor) -> Tensor:
        """The term L_t = KL(q(x_{t-1} | x_t, x_0) ‖ p) of each example, in nats, [B].

        At t = 0 q is a point mass, so the term is −log p(x_0 | x_1).

        Args:
            t: int64 [B].
            uniform: uniform noise in [0, 1) from which x_t is drawn, [B, n].
        """
        x_t = (uniform < self.marginal(x0, t)).to(x0)
        q = self.posterior(x_t, x0, t).double()
        p = reverse(x_t, t).double().clamp(1e-12, 1 - 1e-12)  # in float32 1 − 1e-12 rounds to 1
        divergence = torch.xlogy(q, q) - q * p.log() + torch.xlogy(1 - q, 1 - q) - (1 - q) * (1 - p).log()
        return divergence.sum(1)

    @torch.no_grad()
    def bound(self, reverse: Flips, x0: Tensor, generator: torch.Generator) -> Tensor:
        """The upper bound on −log P(x0) of each example, in bits, [B]; L_T is 0, x_T ignores x0."""
        total = torch.zeros(len(x0), dtype=x0.dtype)
        for t in range(self.times):
            uniform = torch.rand(x0.shape, generator=generator, dtype=x0.dtype)
            total = total + self.term(reverse, x0, torch.full((len(x0),), t), uniform)
        return total / math.log(2)

    @torch.no_grad()
    def walk(self, reverse: Flips, x: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Samples from x_T, fair coins [B, n], down to x_0; yields every state."""
        for t in reversed(range(self.times)):
            uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype)
            x = (uniform < reverse(x, torch.full((len(x),), t))).to(x)
            yield x
