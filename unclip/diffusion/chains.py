"""The two Markov chains of Sohl-Dickstein et al. (2015), where diffusion models begin: Gaussian steps, and
flips of bits.

Both are trained by the variational bound itself, L_T + Σ L_t + L_0, whose every term is a divergence in
closed form. Time t is the house's: t = 0 is the paper's first step, and `CLEAN` is before it.
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
    """p(x_{t-1} | x_t) with both moments learned: mean and log of the diagonal covariance, each shaped as
    x_t.
    """

    mean: Tensor
    log_variance: Tensor


Reverse = Callable[[Tensor, Tensor], Normal]  # x_t [B, ...], t int64 [B]


class GaussianChain:
    """x_t ~ N(√(1−β) x_{t-1}, β), and the way back with a learned mean and covariance."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        rows = [schedule.posterior(t, t - 1 if t else CLEAN) for t in range(schedule.times)]
        fields = [[row.x_weight, row.x0_weight, row.small, row.large] for row in rows]
        self._posterior = torch.tensor(fields, dtype=torch.float64, device="cpu")

    def reverse(self, network: Network) -> Reverse:
        """Both moments as a network says: it gives [B, 2n], and where it says 0 the step is that of pure
        noise.
        """

        def moments(x: Tensor, t: Tensor) -> Normal:
            push, widen = network(x, t).chunk(2, dim=1)
            beta = self._columns(t, x)[3]
            return Normal((1 - beta).sqrt() * x + beta.sqrt() * push, beta.log() + widen)

        return moments

    def term(self, reverse: Reverse, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """L_t of each example in nats [B]: KL(q(x_{t-1} | x_t, x_0) ‖ p); at t = 0 −log p(x_0 | x_1), a
        density's.

        Args:
            t: int64 [B]. eps: the noise that makes x_t of x0 [B, ...].
        """
        x_weight, x0_weight, small, _ = self._columns(t, x0)
        alpha, sigma = self.schedule.coefficients(t, x0)
        x_t = alpha * x0 + sigma * eps
        p = reverse(x_t, t)
        off = x_weight * x_t + x0_weight * x0 - p.mean
        # At t = 0 q is a point, and what is left of the divergence is −log p(x_0 | x_1).
        nll = 0.5 * (p.log_variance + off.square() * torch.exp(-p.log_variance) + math.log(2 * math.pi))
        first = broadcast_to(t == 0, x0, torch.bool)
        divergence = torch.where(first, nll, gaussian_kl(off, small.log(), p.log_variance))
        return divergence.flatten(1).sum(1)

    def prior_term(self, x0: Tensor) -> Tensor:
        """L_T of each example in nats [B]: KL(q(x_T | x_0) ‖ N(0, 1)), with nothing in it to learn."""
        alpha, sigma = self.schedule.at(self.schedule.times - 1)
        return prior_kl(x0, alpha, sigma).flatten(1).sum(1)

    @torch.no_grad()
    def bound(self, reverse: Reverse, x0: Tensor, noise: NoiseSource) -> Tensor:
        """−log p(x0) of each example at most, in bits [B]: every term once, with noise of its own."""
        total = self.prior_term(x0)
        for t in range(self.schedule.times):
            total = total + self.term(reverse, x0, torch.full((len(x0),), t), noise(x0))
        return total / math.log(2)

    @torch.no_grad()
    def walk(self, reverse: Reverse, x: Tensor, noise: NoiseSource) -> Iterator[Tensor]:
        """From x_T, Gaussian noise [B, ...], to x_0, state by state."""
        for t in reversed(range(self.schedule.times)):
            p = reverse(x, torch.full((len(x),), t))
            x = p.mean + torch.exp(p.log_variance / 2) * noise(x)
            yield x

    def _columns(self, t: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(broadcast_to(column, like) for column in self._posterior[t.cpu()].unbind(1))


Flips = Callable[[Tensor, Tensor], Tensor]  # x_t [B, n] of 0 and 1, t int64 [B] → P(x_{t-1} = 1 | x_t) [B, n]


@dataclass(frozen=True)
class BinomialChain:
    """Bits that are drawn anew with probability β, by a fair coin; β_t = 1/(T − t) erases 1/T of the bits at
    each step.
    """

    times: int

    def kept(self, t: Tensor) -> Tensor:
        """The share of bits not yet drawn anew at time t, ∏ (1 − β), float64 [B]: 1 before the first step, 0
        at the end.
        """
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

    def reverse(self, guess: Network) -> Flips:
        """The way back of a network that guesses x_0: both values of a bit, each weighed as it says.

        Args:
            guess: x_t [B, n], t [B] → P(x_0 = 1 | x_t) of each bit [B, n].
        """

        def flips(x: Tensor, t: Tensor) -> Tensor:
            one: Tensor = guess(x, t)
            ones = torch.ones_like(x)
            return one * self.posterior(x, ones, t) + (1 - one) * self.posterior(x, 0 * ones, t)

        return flips

    def term(self, reverse: Flips, x0: Tensor, t: Tensor, uniform: Tensor) -> Tensor:
        """L_t of each example in nats [B]: KL(q(x_{t-1} | x_t, x_0) ‖ p). At t = 0 it is −log p(x_0 | x_1) by
        itself.

        Args:
            t: int64 [B]. uniform: in [0, 1) [B, n], draws x_t of x0 [B, n].
        """
        x_t = (uniform < self.marginal(x0, t)).to(x0)
        q = self.posterior(x_t, x0, t).double()
        p = reverse(x_t, t).double().clamp(1e-12, 1 - 1e-12)  # in float32 the upper end would be 1
        divergence = torch.xlogy(q, q) - q * p.log() + torch.xlogy(1 - q, 1 - q) - (1 - q) * (1 - p).log()
        return divergence.sum(1)

    @torch.no_grad()
    def bound(self, reverse: Flips, x0: Tensor, generator: torch.Generator) -> Tensor:
        """−log P(x0) of each example at most, in bits [B]. L_T is 0: at the end every bit is a coin's."""
        total = torch.zeros(len(x0), dtype=x0.dtype)
        for t in range(self.times):
            uniform = torch.rand(x0.shape, generator=generator, dtype=x0.dtype)
            total = total + self.term(reverse, x0, torch.full((len(x0),), t), uniform)
        return total / math.log(2)

    @torch.no_grad()
    def walk(self, reverse: Flips, x: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """From x_T, fair coins [B, n], to x_0, state by state."""
        for t in reversed(range(self.times)):
            uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype)
            x = (uniform < reverse(x, torch.full((len(x),), t))).to(x)
            yield x
