"""SDEs on Gaussians and mixtures with known score, marginals and likelihood."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unclip.diffusion.flow import Hutchinson, bits_per_dim, exact_divergence, flow, log_likelihood
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import NoiseSource
from unclip.diffusion.schedule import Schedule
from unclip.diffusion.sde import (
    SDES,
    VE,
    VP,
    Predictor,
    Score,
    Sde,
    SubVP,
    at,
    euler_maruyama,
    guided,
    langevin,
    reverse_diffusion,
    sample,
    score_matching,
    score_of,
    tweedie,
)
from unclip.errors import RequestError

ALL = [VP(), SubVP(), VE()]
NAMES = list(SDES)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
# Their mean is nothing, as the priors' is; `AWAY` moves them from there.
MEANS = torch.tensor([[-0.7, 0.42], [0.3, -0.18]], dtype=torch.float64)
COVARIANCES = torch.tensor([[[0.20, 0.12], [0.12, 0.10]], [[0.08, 0.0], [0.0, 0.25]]], dtype=torch.float64)
AWAY = torch.tensor([0.6, -0.4], dtype=torch.float64)
COUNT = 1000


class Mixture:
    """Correlated Gaussians in the plane, and what a diffusion makes of them.

    Args:
        only: one of the two, centred. shift: of all means [2].
    """

    def __init__(self, only: int | None = None, shift: Tensor | float = 0.0) -> None:
        if only is None:
            self.weights, self.means, self.covariances = WEIGHTS, MEANS, COVARIANCES
        else:
            self.weights, self.means = (
                torch.ones(1, dtype=torch.float64),
                torch.zeros(1, 2, dtype=torch.float64),
            )
            self.covariances = COVARIANCES[only : only + 1]
        self.means = self.means + shift

    def terms(self, sde: Sde, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log of weight × density of each component [B, K], and the components' scores [B, K, 2]."""
        alpha, sigma = (value[:, None, None, None] for value in sde.marginal(t))
        spread = alpha**2 * self.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
        off = x.double()[:, None] - alpha[..., 0] * self.means
        pull = torch.linalg.solve(spread, off)
        log_p = (
            self.weights.log() - (off * pull).sum(2) / 2 - torch.logdet(spread) / 2 - math.log(2 * math.pi)
        )
        return log_p, -pull

    def log_p(self, sde: Sde, x: Tensor, t: Tensor) -> Tensor:
        return self.terms(sde, x, t)[0].logsumexp(1)

    def score(self, sde: Sde) -> Score:
        def score(x: Tensor, t: Tensor) -> Tensor:
            log_p, scores = self.terms(sde, x, t)
            return (log_p.softmax(1)[..., None] * scores).sum(1)

        return score

    def draw(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, 2, 1, generator=generator, dtype=torch.float64)
        drawn: Tensor = self.means[which] + (torch.linalg.cholesky(self.covariances)[which] @ z)[..., 0]
        return drawn

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.means
        off = self.means - mean
        return mean, torch.einsum(
            "k,kij->ij", self.weights, self.covariances + off[:, :, None] * off[:, None, :]
        )


def prior(sde: Sde, count: int = COUNT) -> tuple[Tensor, NoiseSource]:
    generator = torch.Generator().manual_seed(1)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    return sde.prior_std * noise(torch.empty(count, 2, dtype=torch.float64)), noise


def assert_moments(x: Tensor, mean: Tensor, covariance: Tensor, bias: float = 0.0) -> None:
    """Within four standard errors, and what the discretisation adds."""
    n = len(x)
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt() + bias).all()
    error = (covariance.diag()[:, None] * covariance.diag()[None] + covariance**2) / n
    assert ((x.T.cov() - covariance).abs() < 4 * error.sqrt() + bias).all()


# --- the processes themselves ---


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
def test_the_marginals_solve_the_equations_of_their_drift_and_diffusion(sde: Sde) -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    h = 1e-6
    (alpha, sigma), (alpha_low, sigma_low), (alpha_high, sigma_high) = (
        sde.marginal(t + d) for d in (0.0, -h, h)
    )
    torch.testing.assert_close((alpha_high - alpha_low) / (2 * h), sde.rate(t) * alpha, rtol=1e-6, atol=1e-8)
    growth = (sigma_high**2 - sigma_low**2) / (2 * h)
    torch.testing.assert_close(
        growth, 2 * sde.rate(t) * sigma**2 + sde.diffusion(t) ** 2, rtol=1e-6, atol=1e-7
    )


def test_vp_is_what_ddpm_becomes_and_sub_vp_never_has_more_variance() -> None:
    tables = Schedule.named("linear")
    alpha, sigma = VP().marginal((torch.arange(1000, dtype=torch.float64) + 1) / 1000)
    torch.testing.assert_close(alpha, tables.alpha, rtol=0, atol=2e-3)
    torch.testing.assert_close(sigma, tables.sigma, rtol=0, atol=2e-3)
    assert (SubVP().marginal(torch.linspace(0, 1, 50))[1] <= VP().marginal(torch.linspace(0, 1, 50))[1]).all()
    assert VE().marginal(torch.tensor([0.0, 1.0]))[1].tolist() == pytest.approx([0.01, 50.0])


# --- the ways back ---


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
@pytest.mark.parametrize("predictor", [euler_maruyama, reverse_diffusion])
def test_the_reverse_sde_has_the_moments_of_the_data(sde: Sde, predictor: Predictor) -> None:
    data = Mixture(only=0)
    x, noise = prior(sde)
    *_, last = sample(sde, data.score(sde), x, noise, steps=150, predictor=predictor)
    assert last.t == 0.0
    assert_moments(last.x, *data.moments(), bias=0.01)


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
def test_predictor_and_corrector_find_both_modes(sde: Sde) -> None:
    data = Mixture()
    x, noise = prior(sde)
    *_, last = sample(sde, data.score(sde), x, noise, steps=100, corrections=1)
    assert_moments(last.x, *data.moments(), bias=0.02)


def test_langevin_alone_brings_strangers_to_the_marginal_and_survives_a_score_of_nothing() -> None:
    sde, data = VP(), Mixture(only=1)
    x, noise = prior(sde)
    for _ in range(150):
        x = langevin(sde, data.score(sde), x, 0.4, noise, snr=0.3)
    alpha, sigma = sde.marginal(torch.tensor([0.4]))
    mean, covariance = data.moments()
    assert_moments(x, alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(2), bias=0.02)
    flat = langevin(sde, lambda x, t: torch.zeros_like(x), x, 0.4, noise)
    assert flat.isfinite().all() and (flat - x).abs().max() < 2


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
def test_the_flow_samples_and_leads_back_to_where_it_came_from(sde: Sde) -> None:
    data = Mixture()
    x, _ = prior(sde)
    made, evaluations = flow(sde, data.score(sde), x, start=1.0, stop=sde.end)
    assert 20 < evaluations < 1000
    assert_moments(tweedie(sde, data.score(sde), made, sde.end), *data.moments())
    back, _ = flow(sde, data.score(sde), made, start=sde.end, stop=1.0)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3 * sde.prior_std)


# --- likelihood ---


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
@pytest.mark.parametrize("only", [0, None], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("shift", [0.0, AWAY], ids=["centred", "away"])
def test_the_likelihood_is_the_true_one_to_a_hundredth_of_a_bit(
    sde: Sde, only: int | None, shift: Tensor | float
) -> None:
    data = Mixture(only, shift)
    x = data.draw(64, seed=3)
    true = bits_per_dim(data.log_p(sde, x, at(0.0, x)), 2)
    exact, _ = log_likelihood(sde, data.score(sde), x, exact_divergence)
    off = bits_per_dim(exact, 2) - true
    assert off.mean().abs() < 0.01
    # The prior knows nothing of what of the mean is left at t = 1 (all of it under VE): so many of its
    # deviations, by which an example's figure leans towards where its path ended, within four of them.
    left = (sde.marginal(torch.ones(1))[0] * data.moments()[0]).norm() / sde.prior_std
    assert off.abs().max() < 0.01 + 4 * left / (2 * math.log(2))
    many = x.repeat(16, 1)  # one probe each: the estimate is right in the mean
    guessed, _ = log_likelihood(sde, data.score(sde), many, Hutchinson(SeededNoise(range(len(many))), many))
    deviation = (bits_per_dim(guessed, 2) - true.repeat(16)).std() / len(many) ** 0.5
    assert abs(bits_per_dim(guessed, 2).mean() - true.mean()) < 0.01 + 3 * deviation


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_estimate_the_divergence_and_belong_to_their_example(kind: str) -> None:
    data, sde = Mixture(), VP()
    x = data.draw(3, seed=1)
    t = at(0.3, x)
    value, true = exact_divergence(data.score(sde), x, t)
    torch.testing.assert_close(value, data.score(sde)(x, t))
    estimate = Hutchinson(SeededNoise([5, 6, 7]), x, probes=2000, kind=kind)(data.score(sde), x, t)[1]  # type: ignore[arg-type]
    torch.testing.assert_close(estimate, true, rtol=0.1, atol=0.1)
    alone = Hutchinson(SeededNoise([6]), x[1:2], kind=kind).probes  # type: ignore[arg-type]
    torch.testing.assert_close(alone[0, 0], Hutchinson(SeededNoise([5, 6, 7]), x, kind=kind).probes[0, 1])  # type: ignore[arg-type]


def test_bits_of_whole_numbers() -> None:
    even = torch.tensor([-3 * math.log(2.0)])  # uniform over [−1, 1]³
    assert bits_per_dim(even, 3, spacing=2 / 256).item() == pytest.approx(8.0)


# --- control ---


def test_what_is_known_stays_and_the_rest_follows_from_it() -> None:
    data = Mixture(only=0)
    x, noise = prior(VP())
    known = Known(torch.full_like(x, -0.5), torch.tensor([True, False]))
    *_, last = sample(VP(), data.score(VP()), x, noise, steps=150, corrections=1, known=known)
    assert (last.x[:, 0] == -0.5).all()
    mean, covariance = data.moments()
    slope = covariance[0, 1] / covariance[0, 0]
    wanted = (mean[1] + slope * (-0.5 - mean[0])).item()
    # Imputation is approximate: it knows the known part at each time, not what it will become (appendix I.2).
    assert last.x[:, 1].mean().item() == pytest.approx(wanted, abs=0.06)
    free = covariance[1, 1].sqrt().item()
    assert last.x[:, 1].std().item() < 0.75 * free


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
def test_guidance_draws_the_class_alone(sde: Sde) -> None:
    data = Mixture()

    def log_prob(x: Tensor, t: Tensor) -> Tensor:  # Bayes, at time t
        return data.terms(sde, x, t)[0].log_softmax(1)[:, 1]

    x, noise = prior(sde)
    *_, last = sample(sde, guided(data.score(sde), log_prob), x, noise, steps=150)
    assert_moments(last.x, MEANS[1], COVARIANCES[1], bias=0.01)


# --- learning ---


@pytest.mark.parametrize("sde", ALL, ids=NAMES)
def test_score_matching_is_least_at_the_true_score(sde: Sde) -> None:
    data = Mixture()
    x0 = data.draw(4000, seed=2)
    generator = torch.Generator().manual_seed(0)
    t = 0.02 + 0.98 * torch.rand(len(x0), generator=generator, dtype=torch.float64)
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)

    def network(x: Tensor, t: Tensor, factor: Tensor) -> Tensor:
        return -sde.marginal(t)[1][:, None] * data.score(sde)(x, t).detach() * factor

    losses = [
        score_matching(sde, network, x0, {"factor": torch.tensor(f)}, t, eps).mean() for f in (0.8, 1.0, 1.2)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]
    score = score_of(sde, network, {"factor": torch.tensor(1.0)})
    torch.testing.assert_close(score(x0, t), data.score(sde)(x0, t).detach())


# --- what may go wrong ---


def test_a_score_that_is_no_number_ends_the_solver() -> None:
    def broken(x: Tensor, t: Tensor) -> Tensor:
        return x * float("nan")

    x, _ = prior(VP(), 4)
    ways: list[Callable[[], object]] = [
        lambda: flow(VP(), broken, x, start=1.0, stop=1e-3),
        lambda: log_likelihood(VP(), broken, x, exact_divergence),
    ]
    for way in ways:
        with pytest.raises(RequestError, match="not finite at t ="):
            way()


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    x, _ = prior(VP(), 4)
    with pytest.raises(RequestError, match=r"unclip\[lecture\]"):
        flow(VP(), lambda x, t: -x, x, start=1.0, stop=1e-3)
