"""Samplers on data whose optimal denoiser and result are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unclip.diffusion.diffusion import Denoise, Diffusion, DiffusionConfig, Prediction
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import SAMPLERS, Sampler, ddim, ddpm, dpmpp_2m, find_sampler, sampler, unipc
from unclip.diffusion.schedule import Schedule
from unclip.errors import RequestError

MEAN, DEVIATION = 0.4, 0.6
ALL = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("dpmpp_2m", 0.0), ("unipc", 0.0)]
COSINE = Schedule.named("cosine")


def best_denoiser(schedule: Schedule, mix: float = 0.0) -> Denoise:
    """E[x0 | x_t] where the data is N(MEAN, DEVIATION²)."""

    def denoise(x: Tensor, t: int) -> Prediction:
        alpha, sigma = schedule.at(t)
        gain = DEVIATION**2 * alpha / (alpha**2 * DEVIATION**2 + sigma**2)
        x0 = MEAN + gain * (x - alpha * MEAN)
        return Prediction(x0, (x - alpha * x0) / sigma, mix)

    return denoise


def some_denoiser(x: Tensor, t: int) -> Prediction:
    """Nothing of meaning, but not linear."""
    x0 = torch.tanh(2 * x + t / 1000 + x.roll(1, -1))
    alpha, sigma = COSINE.at(t)
    return Prediction(x0, (x - alpha * x0) / sigma, 0.0)


def end(walk: Sampler, denoise: Denoise, x: Tensor, schedule: Schedule, times: Sequence[int]) -> Tensor:
    *_, last = walk(denoise, x, schedule, times, SeededNoise(range(len(x))))
    return last.x


# --- they sample the right distribution ---


@pytest.mark.parametrize(("name", "eta"), ALL)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_samples_of_gaussian_data_have_its_mean_and_variance(name: str, eta: float, schedule: str) -> None:
    tables = Schedule.named(schedule)
    x = SeededNoise([1])(torch.empty(1, 20_000, dtype=torch.float64))
    samples = end(find_sampler(name, eta), best_denoiser(tables), x, tables, tables.grid(250))
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.03)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_ancestral_sampling_is_right_with_any_variance_given_enough_steps(mix: float) -> None:
    x = SeededNoise([1])(torch.empty(1, 20_000, dtype=torch.float64))
    samples = end(ddpm, best_denoiser(COSINE, mix), x, COSINE, COSINE.grid(1000))
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.03)


@pytest.mark.parametrize("steps", [4, 12])
def test_the_analytic_variance_is_right_however_few_the_steps(steps: int) -> None:
    # Of Gaussian data Var[x0 | x_t] is known, and with the best variance every ancestral step keeps the
    # marginals exactly.
    x0_variance = DEVIATION**2 * COSINE.sigma**2 / (COSINE.alpha**2 * DEVIATION**2 + COSINE.sigma**2)
    schedule = replace(COSINE, x0_variance=x0_variance)
    start = torch.randn(40000, 1, generator=torch.Generator().manual_seed(0))

    def deviations(name: str) -> list[float]:
        """Of x after each step but the last (whose mean, without noise, is narrower), over what it should
        be.
        """
        times, generator = schedule.grid(steps), torch.Generator().manual_seed(1)
        walk = find_sampler(name)(
            best_denoiser(schedule),
            start,
            schedule,
            times,
            lambda like: torch.randn(like.shape, generator=generator),
        )
        right = [(schedule.alpha[s] ** 2 * DEVIATION**2 + schedule.sigma[s] ** 2).sqrt() for s in times[1:]]
        return [float(step.x.std() / one) for step, one in zip(walk, right, strict=False)]

    assert deviations("analytic_dpm") == pytest.approx([1.0] * (steps - 1), abs=0.02)
    assert min(deviations("ddpm")) < 0.96


def test_without_a_measured_variance_the_analytic_one_says_what_to_do() -> None:
    schedule = Schedule.named("cosine")
    with pytest.raises(RequestError, match="unclip calibrate"):
        end(SAMPLERS["analytic_dpm"], some_denoiser, torch.zeros(2, 3), schedule, schedule.grid(3))


def test_a_network_goes_all_the_way() -> None:
    process = Diffusion(DiffusionConfig(predict="x0", clamp=None))
    target = torch.linspace(-1, 1, 12).view(2, 6)
    for name, eta in ALL:
        x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
        out = end(
            find_sampler(name, eta),
            process.denoiser(lambda x, t: target, {}),
            x,
            process.schedule,
            [999, 500, 0],
        )
        torch.testing.assert_close(out, target, rtol=0, atol=1e-6)


# --- they agree with each other and with theory ---


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_ddim_with_eta_one_is_ddpm(steps: int) -> None:
    x = SeededNoise([9, 10])(torch.empty(2, 8, dtype=torch.float64))
    walks = [find_sampler(name, eta) for name, eta in (("ddpm", 0.0), ("ddim", 1.0))]
    first, second = (
        list(w(some_denoiser, x, COSINE, COSINE.grid(steps), SeededNoise([1, 2]))) for w in walks
    )
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-9)
        torch.testing.assert_close(a.x0, b.x0, rtol=0, atol=1e-9)


def flow_error(walk: Sampler, steps: int) -> float:
    """How far from the exact solution of the probability-flow ODE a solver ends, between two inner times."""
    schedule, start, stop = Schedule.named("linear"), 900, 100
    times = [start - i * (start - stop) // steps for i in range(steps + 1)]
    x = torch.tensor([[1.3]], dtype=torch.float64)
    *_, arrived, _ = walk(best_denoiser(schedule), x, schedule, times, SeededNoise([0]))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.at(start), schedule.at(stop)
    spread = [math.sqrt(a**2 * DEVIATION**2 + s**2) for a, s in ((alpha_t, sigma_t), (alpha_s, sigma_s))]
    exact = alpha_s * MEAN + spread[1] / spread[0] * (x.item() - alpha_t * MEAN)
    return abs(arrived.x.item() - exact)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("unipc", 3)])
def test_order_of_convergence(name: str, order: int) -> None:
    errors = [flow_error(find_sampler(name), steps) for steps in (100, 200, 400)]
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == pytest.approx([order] * 2, abs=0.2)


def test_second_order_is_closer_at_few_steps() -> None:
    assert flow_error(dpmpp_2m, 20) < flow_error(ddim, 20) / 3


def test_correcting_raises_the_order_and_is_closer_still() -> None:
    assert flow_error(unipc, 10) < flow_error(dpmpp_2m, 10) / 3


@pytest.mark.parametrize(("mix", "bound"), [(0.0, "small"), (1.0, "large")])
def test_ancestral_noise_has_the_bounds_variance(mix: float, bound: str) -> None:
    x = torch.zeros(1, 50_000)
    first = next(ddpm(lambda x, t: Prediction(x, x, mix), x, COSINE, [800, 300, 0], SeededNoise([3])))
    assert first.x.var().item() == pytest.approx(getattr(COSINE.posterior(800, 300), bound), rel=0.03)


def test_ancestral_noise_may_differ_from_pixel_to_pixel() -> None:
    mix = torch.tensor([0.0, 1.0]).repeat(25_000)[None]
    x = torch.zeros(1, 50_000)
    first = next(ddpm(lambda x, t: Prediction(x, x, mix), x, COSINE, [400, 300, 0], SeededNoise([3])))
    posterior = COSINE.posterior(400, 300)
    assert first.x[0, ::2].var().item() == pytest.approx(posterior.small, rel=0.05)
    assert first.x[0, 1::2].var().item() == pytest.approx(posterior.large, rel=0.05)


# --- they are generators of steps ---


@pytest.mark.parametrize(("name", "eta"), ALL)
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_every_time_is_one_step_and_the_last_is_clean(name: str, eta: float, steps: int) -> None:
    times = COSINE.grid(steps)
    x = SeededNoise([9])(torch.empty(1, 8))
    walked = list(find_sampler(name, eta)(some_denoiser, x, COSINE, times, SeededNoise([1])))
    assert [step.t for step in walked] == times
    assert all(step.x.shape == step.x0.shape == x.shape and step.x.dtype == x.dtype for step in walked)
    torch.testing.assert_close(walked[-1].x, walked[-1].x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "eta", "draws"),
    [("ddpm", 0.0, 4), ("ddim", 0.0, 0), ("ddim", 0.5, 4), ("dpmpp_2m", 0.0, 0), ("unipc", 0.0, 0)],
)
def test_fresh_noise_between_steps_only(name: str, eta: float, draws: int) -> None:
    drawn = 0

    def noise(like: Tensor) -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.zeros_like(like)

    list(find_sampler(name, eta)(some_denoiser, torch.zeros(1, 4), COSINE, COSINE.grid(5), noise))
    assert drawn == draws


@pytest.mark.parametrize(("name", "eta"), ALL)
def test_leaving_the_loop_stops_the_work(name: str, eta: float) -> None:
    calls = 0

    def denoise(x: Tensor, t: int) -> Prediction:
        nonlocal calls
        calls += 1
        return some_denoiser(x, t)

    for step in find_sampler(name, eta)(
        denoise, torch.zeros(1, 4), COSINE, COSINE.grid(50), SeededNoise([1])
    ):
        if step.t < 900:
            break
    assert calls < 10


@pytest.mark.parametrize(("name", "eta"), ALL)
def test_the_starting_noise_is_not_changed_in_place(name: str, eta: float) -> None:
    x = torch.ones(1, 4)
    end(find_sampler(name, eta), some_denoiser, x, COSINE, COSINE.grid(3))
    assert torch.equal(x, torch.ones(1, 4))


# --- they are known by name ---


def test_unknown_sampler_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"no sampler 'euler'; there are .*ddim.*ddpm.*dpmpp_2m"):
        find_sampler("euler")


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m"])
def test_eta_is_for_ddim(name: str) -> None:
    with pytest.raises(RequestError, match="takes no eta"):
        find_sampler(name, 0.5)


def test_ones_own_sampler_needs_a_decorator_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SAMPLERS, "mine", raising=False)

    @sampler
    def mine(denoise, x, schedule, times, noise):  # type: ignore[no-untyped-def]
        yield from ddim(denoise, x, schedule, times, noise)

    try:
        assert find_sampler("mine") is mine
    finally:
        del SAMPLERS["mine"]
