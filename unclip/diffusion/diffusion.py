"""Gaussian diffusion: the network's prediction, its training loss, and the denoiser made from it.

A network is any callable `network(x_t, t, **cond)`; with learned variance it returns twice the channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.diffusion.config import DiffusionConfig as DiffusionConfig
from unclip.diffusion.gaussian import broadcast_to, discretised_log_likelihood, gaussian_kl
from unclip.diffusion.schedule import CLEAN, Schedule

Cond = Mapping[str, Tensor]
Network = Callable[..., Tensor]

# Weight of L_vlb in the hybrid objective (λ of Nichol & Dhariwal 2021, §3.1).
HYBRID_WEIGHT = 0.001


class Prediction(NamedTuple):
    """The denoiser's output for x_t, for every kind of prediction.

    Attributes:
        x0: the predicted clean data.
        eps: the predicted noise.
        variance_mix: log-scale interpolation of the reverse variance, in [0, 1]: 0 is β̃, 1 is β.
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | float


Denoise = Callable[[Tensor, int], Prediction]


class Guidance(NamedTuple):
    """Classifier-free guidance (Ho & Salimans 2022).

    Attributes:
        scale: guidance scale; 1 is none.
        interval: guide only where low ≤ t/T ≤ high (Kynkäänniemi et al. 2024); elsewhere the null half is not
            computed.
        rescale: share by which the guided prediction is rescaled to the standard deviation of the conditional
            one (Lin et al. 2023, §3.4).
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def active(self, t: int, times: int) -> bool:
        """Whether the step at timestep t needs the null half."""
        inside = self.interval is None or self.interval[0] <= t / times <= self.interval[1]
        return self.scale != 1.0 and inside

    def combine(self, cond: Tensor, null: Tensor) -> Tensor:
        """The guided prediction; x0, eps and v are affine in each other, so all three combine alike."""
        guided = null + self.scale * (cond - null)
        if self.rescale:
            axes = tuple(range(1, cond.ndim))
            ratio = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
            guided = guided * (1 + self.rescale * (ratio - 1))
        return guided


class Diffusion:
    """A configured diffusion process: the loss of a network, and the denoiser made from it."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.schedule = replace(
            Schedule.named(config.schedule, config.times, config.betas),
            spacing=config.spacing,
            offset=config.offset,
        )
        if config.x0_variance is not None:
            self.schedule = replace(
                self.schedule, x0_variance=_interpolated(config.x0_variance, config.times)
            )
        self._weights = _loss_weights(self.schedule, config)

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Made when a loss needs it: sampling does not, and it takes longer than loading a small network."""
        return _variance_bounds(self.schedule)

    @property
    def learned(self) -> bool:
        """Whether the second half of the network's output is the variance."""
        return self.config.variance == "learned"

    def loss(
        self,
        network: Network,
        x0: Tensor,
        cond: Cond,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """The loss of each example, [B].

        Args:
            network: called as network(x_t, t, **cond).
            x0: clean data, [B, ...].
            cond: tensors with the batch first.
            t: timesteps [B]. Default: uniform. Fixed timesteps and noise make validation comparable.
            eps: noise shaped as x0. Default: drawn.
            keep: True where x0 is known when sampling, which the loss ignores; broadcasts over x0.
        """
        t = torch.randint(self.schedule.times, (len(x0),)) if t is None else t
        eps = torch.randn_like(x0) if eps is None else eps
        alpha, sigma = self.schedule.coefficients(t, x0)
        x_t = alpha * x0 + sigma * eps
        output, variance_mix = self._split(network(x_t, t.to(x0.device), **cond).float())
        target = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[self.config.predict]
        if keep is not None:
            output = torch.where(keep, target, output)
        simple = _mean(F.mse_loss(output, target, reduction="none"))
        if self.config.weight != "none":
            simple = simple * self._weights[t.cpu()].to(x0.device, torch.float32)
        if self.config.objective == "simple":
            return simple
        # In the hybrid objective the bound trains the variance only, not the mean.
        mean_output = output.detach() if self.config.objective == "hybrid" else output
        bound = self.vlb(x0, x_t, t, self._x0(mean_output, x_t, alpha, sigma), variance_mix)
        if self.config.objective == "vlb":
            return bound
        return simple + HYBRID_WEIGHT * self.schedule.times * bound

    def vlb(self, x0: Tensor, x_t: Tensor, t: Tensor, x0_hat: Tensor, variance_mix: Tensor | float) -> Tensor:
        """The term L_{t-1} of the variational bound for each example, in bits per dimension, [B].

        KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t)) for t > 0; the discretised negative log-likelihood of the
        data at t = 0 (Ho et al. 2020, eq. 5 and 13).
        """
        x_weight, x0_weight, log_small, log_large = (
            broadcast_to(table[t.cpu()], x0, torch.float32) for table in self._bounds
        )
        true_mean = x_weight * x_t + x0_weight * x0
        mean = x_weight * x_t + x0_weight * x0_hat
        log_variance = variance_mix * log_large + (1 - variance_mix) * log_small
        kl = gaussian_kl(true_mean - mean, log_small, log_variance)
        nll = -discretised_log_likelihood(x0, mean, 0.5 * log_variance, self.config.levels)
        return torch.where(t.to(x0.device) == 0, _mean(nll), _mean(kl)) / math.log(2)

    def bound_term(self, network: Network, x0: Tensor, cond: Cond, t: Tensor, eps: Tensor) -> Tensor:
        """The term of the bound at timesteps t [B] for given noise, in bits per dimension, [B]; see `vlb`.

        The predicted x0 is clamped as in sampling, so that the bound is that of the sampled model.
        """
        alpha, sigma = self.schedule.coefficients(t, x0)
        x_t = alpha * x0 + sigma * eps
        output, variance_mix = self._split(network(x_t, t.to(x0.device), **cond).float())
        return self.vlb(x0, x_t, t, self._clamped(self._x0(output, x_t, alpha, sigma)), variance_mix)

    def denoiser(
        self, network: Network, cond: Cond, null: Cond | None = None, guidance: Guidance = Guidance()
    ) -> Denoise:
        """The network as a function (x_t, t) → Prediction, guided and clamped.

        Args:
            network: called once per step; where guidance is active, cond and null form one batch.
            cond: the condition; tensors with the batch first.
            null: the null condition, with the same keys and shapes.
            guidance: combines the raw outputs before x0 is clamped; the variance is that of the conditional
                half.
        """
        if guidance.scale != 1.0 and null is None:
            raise ValueError("guidance needs a null condition")

        def denoise(x: Tensor, t: int) -> Prediction:
            if null is not None and guidance.active(t, self.schedule.times):
                both = {key: torch.cat([value, null[key]]) for key, value in cond.items()}
                raw = network(torch.cat([x, x]), torch.full((2 * len(x),), t, device=x.device), **both)
                raw_cond, raw_null = raw.to(x.dtype).chunk(2)
                output, variance_mix = self._split(raw_cond)
                output = guidance.combine(output, self._split(raw_null)[0])
            else:
                raw = network(x, torch.full((len(x),), t, device=x.device), **cond)
                output, variance_mix = self._split(raw.to(x.dtype))
            alpha, sigma = self.schedule.at(t)
            x0 = self._clamped(self._x0(output, x, alpha, sigma))
            return Prediction(x0, (x - alpha * x0) / sigma, variance_mix)

        return denoise

    def _x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        if self.config.predict == "eps":
            return (x - sigma * output) / alpha
        if self.config.predict == "v":
            return alpha * x - sigma * output
        return output

    def _clamped(self, x0: Tensor) -> Tensor:
        bound, threshold = self.config.clamp, self.config.threshold
        if threshold is not None:
            quantile, largest = threshold
            s = x0.abs().flatten(1).quantile(quantile, dim=1).clamp(1, largest)
            s = s.view(-1, *(1,) * (x0.ndim - 1))
            return torch.clamp(x0, -s, s) / s
        return x0 if bound is None else x0.clamp(-bound, bound)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.learned:
            output, variance_mix = output.chunk(2, dim=1)
            return output, (variance_mix + 1) / 2
        return output, float(self.config.variance == "fixed_large")


def _variance_bounds(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tables [T] of x_weight, x0_weight, log β̃ and log β for adjacent timesteps.

    β̃ is zero at t = 0; there the bound uses that of t = 1 (Nichol & Dhariwal 2021).
    """
    rows = [schedule.posterior(t, t - 1 if t else CLEAN) for t in range(schedule.times)]
    small = [rows[max(t, 1)].small for t in range(schedule.times)]
    table = [[r.x_weight for r in rows], [r.x0_weight for r in rows], small, [r.large for r in rows]]
    x_weight, x0_weight, small_, large = torch.tensor(table, dtype=torch.float64, device="cpu")
    return x_weight, x0_weight, small_.log(), large.log()


def _interpolated(values: tuple[float, ...], times: int) -> Tensor:
    """A table [T] by linear interpolation between the values."""
    table = torch.tensor(values, dtype=torch.float64, device="cpu")[None, None]
    return F.interpolate(table, times, mode="linear", align_corners=True)[0, 0]


def _loss_weights(schedule: Schedule, config: DiffusionConfig) -> Tensor:
    """The weight of L_simple by timestep, float64 [T]."""
    snr = (schedule.alpha / schedule.sigma) ** 2
    if config.weight == "none":
        return torch.ones_like(snr)
    if config.weight == "min_snr":
        of_x0 = snr.clamp(max=config.gamma or 5.0)
    else:
        of_x0 = snr / (1 + snr) ** (config.gamma or 1.0)
    # A squared error of 1 in x0 is one of SNR in eps and of SNR + 1 in v.
    return of_x0 / {"x0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[config.predict]


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)
