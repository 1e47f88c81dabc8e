"""Diffusion in continuous time, 0 ≤ t ≤ 1: the SDEs of Song et al. (2021), and the walks back along them.

dx = f(t) x dt + g(t) dw. All three drifts are linear in x, so x_t = α(t) x_0 + σ(t) ε, as in discrete time;
what a network gives is the score ∇ log p_t(x). The deterministic way back, and the likelihood along it, are
in flow.py. Equations are numbered as in the paper.
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
SNR = 0.16  # of the corrector (the paper's r, appendix G, for VE; of images under VP it takes 0.01)


class Sde(ABC):
    """A forward process. Times and coefficients are float64 [B]."""

    prior_std: float  # of x at t = 1
    end: float  # the time where sampling stops; below it the score is too steep for a network

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """f(t), the drift's factor of x."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t)."""

    @abstractmethod
    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α(t) and σ(t) of x_t = α x_0 + σ ε (eq. 29)."""

    def perturb(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t [B, ...] of clean data x0 [B, ...] and noise shaped as it."""
        alpha, sigma = self.marginal(t)
        return broadcast_to(alpha, x0) * x0 + broadcast_to(sigma, x0) * eps


@dataclass(frozen=True)
class VP(Sde):
    """Variance preserving: DDPM's noise as its steps become infinitely many (eq. 11), β from 0.1 to 20."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    prior_std: float = 1.0
    end: float = 1e-3

    def beta(self, t: Tensor) -> Tensor:
        """The linear schedule; DDPM's β_i is β(i/T)/T."""
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
    """VP with less noise on the way, never more variance than VP's (eq. 12); the best likelihoods of the
    paper.
    """

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self.beta_integral(t))).sqrt()

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self.beta_integral(t)
        return torch.exp(-total / 2), -torch.expm1(-total)


@dataclass(frozen=True)
class VE(Sde):
    """Variance exploding: noise is added to data that stays as large as it is (eq. 9).

    As in the paper σ(0) is sigma_min, not 0. sigma_max must be well above the data's spread: the prior has no
    mean.
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


# --- learning the score ---


def score_of(sde: Sde, network: Network, cond: Cond | None = None) -> Score:
    """The score that a network says when it predicts the noise: −ε/σ(t). It is called as network(x_t, t,
    **cond).
    """

    def score(x: Tensor, t: Tensor) -> Tensor:
        eps: Tensor = network(x, t, **(cond or {}))
        return -eps / broadcast_to(sde.marginal(t)[1], x)

    return score


def score_matching(sde: Sde, network: Network, x0: Tensor, cond: Cond, t: Tensor, eps: Tensor) -> Tensor:
    """Denoising score matching of each example, [B] (eq. 7), for a network that predicts the noise.

    The weight is the paper's λ(t) = σ²: what remains is the mean square of ε's error, DDPM's L_simple.

    Args:
        t: [B] from `sde.end` to 1. eps: noise shaped as x0 [B, ...].
    """
    eps_hat: Tensor = network(sde.perturb(x0, t, eps), t, **cond)
    return (eps_hat - eps).square().flatten(1).mean(1)


def guided(score: Score, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0) -> Score:
    """The score of what is wanted: ∇ log p_t(x) + scale · ∇ log p_t(y | x) (eq. 14).

    Args:
        log_prob: x [B, ...], t [B] → log p_t(y | x) [B], as a classifier of noised data says.
    """

    def both(x: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(log_prob(leaf, t).sum(), leaf)
        return score(x, t) + scale * slope

    return both


# --- sampling ---


class Moment(NamedTuple):
    """Where a walk is: the time, and x there."""

    t: float
    x: Tensor


Predictor = Callable[[Sde, Score, Tensor, float, float, NoiseSource], Tensor]


def euler_maruyama(sde: Sde, score: Score, x: Tensor, t: float, s: float, noise: NoiseSource) -> Tensor:
    """One step of the reverse SDE dx = [f x − g² ∇ log p] dt + g dw̄, from t down to s (eq. 6)."""
    times = at(t, x)
    rate, g, step = sde.rate(times)[0].item(), sde.diffusion(times)[0].item(), t - s
    return x - step * (rate * x - g**2 * score(x, times)) + g * math.sqrt(step) * noise(x)


def reverse_diffusion(sde: Sde, score: Score, x: Tensor, t: float, s: float, noise: NoiseSource) -> Tensor:
    """A step that is discretised as the forward one is (eq. 46), here by the exact kernel q(x_t | x_s)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _marginal(sde, t), _marginal(sde, s)
    ratio = alpha_t / alpha_s
    variance = max(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0)
    return (2 - ratio) * x + variance * score(x, at(t, x)) + math.sqrt(variance) * noise(x)


def langevin(sde: Sde, score: Score, x: Tensor, t: float, noise: NoiseSource, snr: float = SNR) -> Tensor:
    """One step of Langevin dynamics at time t, which draws x nearer to p_t (algorithms 4 and 5).

    The paper's step is 2 (r ‖z‖/‖score‖)². Here the norm of the score is the one that is expected, ‖z‖/σ(t):
    where the score itself vanishes, as between two modes, the measured norm would make the step boundless.
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
    """Walks from the prior to data: predictor–corrector sampling (algorithm 1).

    Args:
        x: `sde.prior_std` × noise, [B, ...].
        corrections: Langevin steps after each of the predictor's. snr: theirs.
        known: what is kept as it is while the rest is imputed (appendix I.2).

    Yields:
        `steps` moments down to `sde.end`, and a last one at 0: the mean of x_0 that the score says (Tweedie's
            formula).
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
    """The time t for each of a batch: float64 [B] on the device of x [B, ...]."""
    return torch.full((len(x),), t, dtype=torch.float64, device=x.device)


def _impute(sde: Sde, x: Tensor, t: float, noise: NoiseSource, known: Known | None) -> Tensor:
    if known is None:
        return x
    return torch.where(known.keep, sde.perturb(known.x0, at(t, x), noise(x)), x)


def _marginal(sde: Sde, t: float) -> tuple[float, float]:
    alpha, sigma = sde.marginal(torch.tensor([t], dtype=torch.float64))
    return alpha.item(), sigma.item()
