"""Noise schedules against closed forms, and the posterior against the exact Gaussian one."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from unclip.diffusion.schedule import BETAS, CLEAN, Schedule
from unclip.errors import ConfigError

NAMES = sorted(BETAS)
TIMES = [2, 10, 100, 1000]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("times", TIMES)
def test_variance_is_preserved_at_every_time(name: str, times: int) -> None:
    schedule = Schedule.named(name, times)
    assert schedule.times == times == len(schedule.sigma)
    torch.testing.assert_close(
        schedule.alpha**2 + schedule.sigma**2, torch.ones(times, dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("times", TIMES)
def test_noise_only_grows(name: str, times: int) -> None:
    schedule = Schedule.named(name, times)
    assert (schedule.alpha.diff() < 0).all()
    assert (schedule.sigma.diff() >= 0).all()
    assert (schedule.alpha > 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("times", TIMES)
def test_betas_are_positive_and_capped(name: str, times: int) -> None:
    betas = BETAS[name](times)
    assert betas.dtype == torch.float64
    assert ((betas > 0) & (betas <= 0.999)).all()


def test_linear_betas_are_the_published_ones() -> None:
    betas = BETAS["linear"](1000)
    assert betas[0].item() == pytest.approx(1e-4, rel=1e-12)
    assert betas[-1].item() == pytest.approx(0.02, rel=1e-12)
    torch.testing.assert_close(betas.diff(), betas.diff().mean().expand(999), rtol=1e-9, atol=0)


def test_linear_schedule_ends_equally_noisy_whatever_its_length() -> None:
    # The scaled betas approximate one and the same integral, exp(−∫β).
    ends = [2 * math.log(Schedule.named("linear", times).alpha[-1].item()) for times in (500, 1000, 4000)]
    assert ends == pytest.approx([ends[1]] * 3, rel=0.02)


def test_cosine_schedule_is_the_formula() -> None:
    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha_bar = Schedule.named("cosine").alpha ** 2
    for t in (0, 1, 10, 100, 500, 900, 990):  # beyond, the cap on beta shows
        assert alpha_bar[t].item() == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-10)
    assert BETAS["cosine"](1000)[-1].item() == 0.999


def test_clean_end_has_no_noise() -> None:
    assert Schedule.named("cosine").at(CLEAN) == (1.0, 0.0)


def test_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no noise schedule 'cosin'; there are .*cosine"):
        Schedule.named("cosin")


def test_tables_stay_real_float64_under_a_meta_device() -> None:
    with torch.device("meta"):
        schedule = Schedule.named("cosine", 50)
    assert schedule.alpha.device.type == "cpu"
    assert schedule.at(3) == Schedule.named("cosine", 50).at(3)


# --- the grid ---


def test_one_step_starts_from_pure_noise() -> None:
    assert Schedule.named("cosine").grid(1) == [999]


@pytest.mark.parametrize("steps", [2, 3, 7, 25, 50, 333, 999, 1000])
def test_grid_falls_from_the_last_time_to_zero(steps: int) -> None:
    times = Schedule.named("cosine").grid(steps)
    assert len(times) == steps
    assert (times[0], times[-1]) == (999, 0)
    gaps = [a - b for a, b in pairwise(times)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_seven_steps_are_karlos() -> None:
    assert Schedule.named("cosine").grid(7) == [999, 832, 666, 500, 333, 166, 0]


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_impossible_number_of_steps_is_an_error(steps: int) -> None:
    with pytest.raises(ConfigError, match="must be between 1 and 1000"):
        Schedule.named("cosine").grid(steps)


# --- coefficients ---


@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 4, 4)])
def test_coefficients_broadcast_over_the_batch(shape: tuple[int, ...]) -> None:
    schedule = Schedule.named("cosine")
    alpha, sigma = schedule.coefficients(torch.tensor([0, 500, 999]), torch.zeros(shape))
    assert alpha.shape == sigma.shape == (3, *[1] * (len(shape) - 1))
    for row, t in enumerate((0, 500, 999)):
        assert (alpha[row].item(), sigma[row].item()) == pytest.approx(schedule.at(t), rel=1e-6)


# --- the posterior ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("t", "s"), [(1, 0), (500, 499), (999, 998), (999, 0), (999, 832), (166, 0), (500, 333)]
)
def test_posterior_is_the_exact_gaussian_conditional(name: str, t: int, s: int) -> None:
    schedule = Schedule.named(name)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(t), schedule.at(s)
    # x_s = α_s x0 + σ_s ε and x_t = (α_t/α_s) x_s + fresh noise: condition the joint Gaussian of both on x_t.
    ratio = alpha_t / alpha_s
    covariance, variance_s, variance_t = ratio * sigma_s**2, sigma_s**2, sigma_t**2
    gain = covariance / variance_t
    posterior = schedule.posterior(t, s)
    assert posterior.x_weight == pytest.approx(gain, rel=1e-9)
    assert posterior.x0_weight == pytest.approx(alpha_s - gain * alpha_t, rel=1e-6)
    assert posterior.small == pytest.approx(variance_s - gain * covariance, rel=1e-5)
    assert posterior.large == pytest.approx(variance_t - ratio**2 * variance_s, rel=1e-9)
    assert 0 < posterior.small < posterior.large


@pytest.mark.parametrize("t", [1, 20, 999])
def test_posterior_of_adjacent_times_is_ho_et_al(t: int) -> None:
    beta, bar = BETAS["linear"](1000), Schedule.named("linear").alpha ** 2
    posterior = Schedule.named("linear").posterior(t, t - 1)
    assert posterior.large == pytest.approx(beta[t].item(), rel=1e-9)
    assert posterior.small == pytest.approx(((1 - bar[t - 1]) / (1 - bar[t]) * beta[t]).item(), rel=1e-9)
    assert posterior.x0_weight == pytest.approx((bar[t - 1].sqrt() * beta[t] / (1 - bar[t])).item(), rel=1e-9)


@pytest.mark.parametrize("t", [0, 166, 999])
def test_posterior_to_the_clean_end_is_x0_itself(t: int) -> None:
    posterior = Schedule.named("cosine").posterior(t, CLEAN)
    assert posterior.x_weight == 0
    assert posterior.x0_weight == pytest.approx(1)
    assert posterior.small == 0
