"""The probability-flow ODE: deterministic samples and exact likelihoods (Song et al. 2021, §4.3).

dx/dt = f(t) x − ½ g(t)² ∇ log p_t(x) has the marginal densities of the diffusion (eq. 13). scipy's adaptive
RK45 solves it in float64; the network sees the dtype of x. The solver chooses one step for the whole batch,
so an image depends on the others in its batch, within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unclip.diffusion.gaussian import broadcast_to
from unclip.diffusion.samplers import NoiseSource
from unclip.diffusion.sde import Score, Sde
from unclip.errors import RequestError

TOLERANCE = 1e-5  # relative and absolute (appendix D.4)
START = 1e-5  # the time at which likelihoods start: at 0 the score diverges (appendix C)

# The score and its divergence [B] at x [B, ...] and times [B].
Divergence = Callable[[Score, Tensor, Tensor], tuple[Tensor, Tensor]]


def flow(
    sde: Sde, score: Score, x: Tensor, *, start: float, stop: float, tolerance: float = TOLERANCE
) -> tuple[Tensor, int]:
    """Moves x [B, ...] along the ODE: from 1 to `sde.end` it samples, in the other direction it encodes.

    Returns:
        x at `stop`, and the number of score evaluations.

    Raises:
        RequestError: the score is not finite somewhere on the way, or scipy is not installed.
    """

    def slope(state: Tensor, t: Tensor) -> Tensor:
        x_t = state.reshape(x.shape).to(x)
        with torch.no_grad():
            return _velocity(sde, x_t, t, score(x_t, t)).flatten(1)

    moved, evaluations = _solve(slope, x.flatten(1), start, stop, tolerance)
    return moved.reshape(x.shape).to(x), evaluations


def log_likelihood(
    sde: Sde, score: Score, x0: Tensor, divergence: Divergence, *, tolerance: float = TOLERANCE
) -> tuple[Tensor, int]:
    """log p(x0) of each example in nats, float64 [B], and the number of score evaluations.

    Along the ODE log p changes by minus the divergence of its velocity (instantaneous change of variables,
    eq. 39): log p(x_0) = log prior(x_1) + ∫ div dt.

    Args:
        x0: clean data [B, ...]; add uniform noise of one level's width to quantised data first.
        divergence: `exact_divergence`, or a `Hutchinson`.

    Raises:
        RequestError: the score is not finite somewhere on the way, or scipy is not installed.
    """
    numbers = x0[0].numel()

    def slope(state: Tensor, t: Tensor) -> Tensor:
        x_t = state[:, :-1].reshape(x0.shape).to(x0)
        value, trace = divergence(score, x_t, t)
        change = numbers * sde.rate(t) - sde.diffusion(t) ** 2 / 2 * trace.double()
        return torch.cat([_velocity(sde, x_t, t, value).flatten(1).double(), change[:, None]], dim=1)

    data = x0.flatten(1).double()
    end, evaluations = _solve(
        slope, torch.cat([data, torch.zeros_like(data[:, :1])], dim=1), START, 1.0, tolerance
    )
    x1, change, std = end[:, :-1], end[:, -1], sde.prior_std
    prior = -(x1 / std).square().sum(1) / 2 - numbers * math.log(std * math.sqrt(2 * math.pi))
    return prior + change, evaluations


def bits_per_dim(log_p: Tensor, numbers: int, spacing: float = 1.0) -> Tensor:
    """log p [B] in nats of a density as bits per dimension [B].

    Args:
        numbers: dimensions of an example.
        spacing: distance between neighbouring levels before dequantisation (2/255 for 8-bit data in
            [−1, 1]); density times cell size is a probability. 1 for continuous data.
    """
    return -log_p / (numbers * math.log(2)) - math.log2(spacing)


def exact_divergence(score: Score, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The exact trace of the score's Jacobian, by one backward pass per dimension."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        value = score(leaf, t)
        columns = value.flatten(1).sum(0)  # examples are independent
        rows = [torch.autograd.grad(column, leaf, retain_graph=True)[0].flatten(1) for column in columns]
    return value.detach(), torch.stack([row[:, i] for i, row in enumerate(rows)]).sum(0)


class Hutchinson:
    """Hutchinson's estimate of the trace, E[vᵀ J v] = tr J (eq. 40), by one backward pass per probe.

    The probes are fixed along a path, so that the ODE is deterministic.

    Args:
        noise: source of Gaussian noise per example (`SeededNoise`).
        like: the data [B, ...].
        probes: number of probes to average.
        kind: Rademacher probes (±1, as in the paper's code) have the smaller variance.
    """

    def __init__(
        self,
        noise: NoiseSource,
        like: Tensor,
        probes: int = 1,
        kind: Literal["rademacher", "gaussian"] = "rademacher",
    ) -> None:
        drawn = torch.stack([noise(like) for _ in range(probes)])
        self.probes = drawn if kind == "gaussian" else torch.where(drawn < 0, -1.0, 1.0).to(drawn)

    def __call__(self, score: Score, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = score(leaf, t)
            total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
            for probe in self.probes:
                (product,) = torch.autograd.grad((value * probe).sum(), leaf, retain_graph=True)
                total = total + (product * probe).flatten(1).sum(1)
        return value.detach(), total / len(self.probes)


def _velocity(sde: Sde, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
    return broadcast_to(sde.rate(t), x) * x - broadcast_to(sde.diffusion(t) ** 2 / 2, x) * score


def _solve(
    slope: Callable[[Tensor, Tensor], Tensor], state: Tensor, start: float, stop: float, tolerance: float
) -> tuple[Tensor, int]:
    """Solves the ODE for the rows of `state` [B, K] by RK45: float64 state, and number of evaluations."""
    try:
        from scipy.integrate import solve_ivp
    except ModuleNotFoundError:
        raise RequestError("the probability-flow ODE needs scipy: pip install 'unclip[lecture]'") from None

    def flat(t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        here = torch.from_numpy(y).reshape(state.shape).to(state.device)
        change = slope(here, torch.full((len(here),), t, dtype=torch.float64, device=state.device))
        if not change.isfinite().all():  # RK45 would shrink its step forever
            raise RequestError(
                f"the score is not finite at t = {t:.4g}; train longer, or start later than there"
            )
        return change.double().cpu().numpy().ravel()

    found = solve_ivp(
        flat, (start, stop), state.double().cpu().numpy().ravel(), rtol=tolerance, atol=tolerance
    )
    if not found.success:
        raise RequestError(
            f"the probability-flow ODE has no solution at a tolerance of {tolerance:g}: {found.message}"
        )
    return torch.from_numpy(found.y[:, -1].copy()).reshape(state.shape).to(state.device), int(found.nfev)
