"""Diffusion in continuous time, 0 ≤ t ≤ 1: the SDEs of Song et al. (2021) and their samplers.

dx = f(t) x dt + g(t) dw. All three drifts are linear in x, so x_t = α(t) x_0 + σ(t) ε, as in discrete time.
The network gives the score ∇ log p_t(x). The probability-flow ODE and its likelihoods are in flow.py.
Equations are numbered as in the paper.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.diffusion import Cond, Network
from unclip.diffusion.gaussian import broadcast_to
from unclip.diffusion.inpainting import Known
from unclip.diffusion.samplers import NoiseSource

Score = Callable[[Tensor, Tensor], Tensor]  # x [B, ...], times [B] → ∇ log p_t(x) [B, ...]
SNR = 0.16  # signal-to-noise ratio r of the corrector (appendix G, for VE; 0.01 for images under VP)


class Sde(ABC):
    """A forward process. Times and coefficients are float64 [B]."""

    prior_std: float  # standard deviation of x at t = 1
    end: float  # the time at which sampling stops; closer to 0 the score diverges

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """f(t), the coefficient of x in the drift."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), the coefficient of the noise."""

    @abstractmethod
    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(t) and σ(t) of x_t = α x_0 + σ ε (eq. 29)."""

    def perturb(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t [B, ...] from clean data x0 [B, ...] and noise shaped as x0."""
        alpha, sigma = self.marginal(t)
        return broadcast_to(alpha, x0) * x0 + broadcast_to(sigma, x0) * eps


@dataclass(frozen=True)
class VP(Sde):
    """Variance preserving: the limit of DDPM for infinitely many steps (eq. 11), β from 0.1 to 20."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    prior_std: float = 1.0
    end: float = 1e-3

    def beta(self, t: Tensor) -> Tensor:
        """β(t), linear in t; DDPM's β_i is β(i/T)/T."""
        return self.beta_min + t.double() * (self.beta_max - self.beta_min)

    def beta_integral(self, t: Tensor) -> Tensor:
        """∫₀ᵗ β."""
        return self.beta_min * t.double() + (self.beta_max - self.beta_min) * t.double() ** 2 / 2

    def rate(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self.beta_integral(t)
        return torch.exp(-total / 2), (-torch.expm1(-total)).sqrt()


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP: variance at most that of VP at every time (eq. 12); the paper's best likelihoods."""

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self.beta_integral(t))).sqrt()

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self.beta_integral(t)
        return torch.exp(-total / 2), -torch.expm1(-total)


@dataclass(frozen=True)
class VE(Sde):
    """Variance exploding: noise is added to data of constant scale (eq. 9).

    σ(0) is sigma_min, not 0, as in the paper. The prior has mean 0, so sigma_max must be well above the
    standard deviation of the data.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    end: float = 1e-5

    @property
    def prior_std(self) -> float:  # type: ignore[override]
        return self.sigma_max

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t, dtype=torch.float64)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.marginal(t)[1] * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        ratio = self.sigma_max / self.sigma_min
        return torch.ones_like(t, dtype=torch.float64), self.sigma_min * ratio ** t.double()


SDES: dict[str, type[Sde]] = {"vp": VP, "subvp": SubVP, "ve": VE}


def score_of(sde: Sde, network: Network, cond: Cond | None = None) -> Score:
    """The score −ε/σ(t) of a network that predicts the noise, called as network(x_t, t, **cond)."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        eps: Tensor = network(x, t, **(cond or {}))
        return -eps / broadcast_to(sde.marginal(t)[1], x)

    return score


def score_matching(sde: Sde, network: Network, x0: Tensor, cond: Cond, t: Tensor, eps: Tensor) -> Tensor:
    """Denoising score matching of each example, [B] (eq. 7), for a network that predicts the noise.

    With the paper's weight λ(t) = σ² it is the mean squared error of ε, DDPM's L_simple.

    Args:
        t: [B] from `sde.end` to 1. eps: noise shaped as x0 [B, ...].
    """
    eps_hat: Tensor = network(sde.perturb(x0, t, eps), t, **cond)
    return (eps_hat - eps).square().flatten(1).mean(1)


def guided(score: Score, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0) -> Score:
    """The conditional score ∇ log p_t(x) + scale · ∇ log p_t(y | x) (eq. 14).

    Args:
        log_prob: x [B, ...], t [B] → log p_t(y | x) [B], from a classifier of noised data.
    """

    def guided_score(x: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)
        return score(x, t) + scale * slope

    return guided_score


class Moment(NamedTuple):
    """A state of the sampler: the time, and x."""

    t: float
    x: Tensor


Predictor = Callable[[Sde, Score, Tensor, float, float, NoiseSource], Tensor]


def euler_maruyama(sde: Sde, score: Score, x: Tensor, t: float, s: float, noise: NoiseSource) -> Tensor:
    """One step of the reverse SDE dx = [f x − g² ∇ log p] dt + g dw̄, from t down to s (eq. 6)."""
    host_t, step = torch.tensor([t], dtype=torch.float64), t - s  # on the CPU: no GPU synchronisation
    rate, g = sde.rate(host_t).item(), sde.diffusion(host_t).item()
    return x - step * (rate * x - g**2 * score(x, at(t, x))) + g * math.sqrt(step) * noise(x)


def reverse_diffusion(sde: Sde, score: Score, x: Tensor, t: float, s: float, noise: NoiseSource) -> Tensor:
    """One step with the discretisation of the forward process (eq. 46), by the exact kernel q(x_t | x_s)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _marginal(sde, t), _marginal(sde, s)
    ratio = alpha_t / alpha_s
    variance = max(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0)
    return (2 - ratio) * x + variance * score(x, at(t, x)) + math.sqrt(variance) * noise(x)


def langevin(sde: Sde, score: Score, x: Tensor, t: float, noise: NoiseSource, snr: float = SNR) -> Tensor:
    """One step of Langevin dynamics at time t, the corrector (algorithms 4 and 5).

    The paper's step size is 2 (r ‖z‖/‖score‖)². Here the norm of the score is its expected value ‖z‖/σ(t):
    between two modes the score vanishes, and the measured norm would make the step unbounded.
    """
    step = 2 * (snr * _marginal(sde, t)[1]) ** 2
    return x + step * score(x, at(t, x)) + math.sqrt(2 * step) * noise(x)


def sample(
    sde: Sde,
    score: Score,
    x: Tensor,
    noise: NoiseSource,
    *,
    steps: int = 1000,
    predictor: Predictor = reverse_diffusion,
    corrections: int = 0,
    snr: float = SNR,
    known: Known | None = None,
) -> Iterator[Moment]:
    """Predictor–corrector sampling from the prior to data (algorithm 1).

    Args:
        x: `sde.prior_std` × noise, [B, ...].
        corrections: Langevin steps after each predictor step.
        snr: signal-to-noise ratio of the Langevin steps.
        known: the part to keep; the rest is imputed (appendix I.2).

    Yields:
        `steps` moments down to `sde.end`, and a last one at 0: the mean of x_0 by Tweedie's formula.
    """
    times = torch.linspace(1.0, sde.end, steps + 1, dtype=torch.float64).tolist()
    for t, s in pairwise(times):
        x = _impute(sde, predictor(sde, score, x, t, s, noise), s, noise, known)
        for _ in range(corrections):
            x = _impute(sde, langevin(sde, score, x, s, noise, snr), s, noise, known)
        yield Moment(s, x)
    clean = tweedie(sde, score, x, sde.end)
    yield Moment(0.0, clean if known is None else torch.where(known.keep, known.x0, clean))


def tweedie(sde: Sde, score: Score, x: Tensor, t: float) -> Tensor:
    """E[x_0 | x_t] = (x_t + σ² ∇ log p_t(x_t)) / α (Efron 2011)."""
    alpha, sigma = _marginal(sde, t)
    return (x + sigma**2 * score(x, at(t, x))) / alpha


def at(t: float, x: Tensor) -> Tensor:
    """The time t repeated for a batch: float64 [B], on the device of x [B, ...]."""
    return torch.full((len(x),), t, dtype=torch.float64, device=x.device)


def _impute(sde: Sde, x: Tensor, t: float, noise: NoiseSource, known: Known | None) -> Tensor:
    if known is None:
        return x
    return torch.where(known.keep, sde.perturb(known.x0, at(t, x), noise(x)), x)


def _marginal(sde: Sde, t: float) -> tuple[float, float]:
    alpha, sigma = sde.marginal(torch.tensor([t], dtype=torch.float64))
    return alpha.item(), sigma.item()
