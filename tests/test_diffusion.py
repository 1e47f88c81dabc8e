"""The loss, the bound and the denoiser, against oracles and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from unclip.diffusion.diffusion import HYBRID_WEIGHT, Diffusion, DiffusionConfig, Guidance

PREDICTIONS = ["eps", "x0", "v"]
Network = Callable[..., Tensor]


def diffusion(**config: Any) -> Diffusion:
    return Diffusion(DiffusionConfig(**{"clamp": None, **config}))


def knows(process: Diffusion, x0: Tensor) -> Network:
    """A network that answers as if x0 were the only picture there is."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.schedule.coefficients(t, x)
        eps = (x - alpha * x0) / sigma
        return {"eps": eps, "x0": x0.expand_as(x), "v": alpha * eps - sigma * x0}[process.config.predict]

    return network


class Guesses(nn.Module):
    """A network with one parameter for the mean and one for the variance, which also counts its calls."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.outputs = outputs
        self.mean, self.variance = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.2))
        self.batches: list[int] = []

    def forward(self, x: Tensor, t: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        self.batches.append(len(x))
        shift = bias.view(-1, *[1] * (x.ndim - 1)) if isinstance(bias, Tensor) else bias
        mean = self.mean * x + shift
        return (
            mean
            if self.outputs == 1
            else torch.cat([mean, (self.variance + shift) * torch.ones_like(x)], dim=1)
        )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- the simple loss ---


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("shape", [(4, 16), (4, 3, 8, 8)])
def test_an_oracle_has_no_loss(predict: str, shape: tuple[int, ...]) -> None:
    process = diffusion(predict=predict)
    x0 = torch.rand(shape) * 2 - 1
    t = torch.tensor([10, 200, 500, 900])
    loss = process.loss(knows(process, x0), x0, {}, t)
    assert loss.shape == (4,)
    torch.testing.assert_close(loss, torch.zeros(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_loss_is_the_mean_square_error_of_what_is_predicted(predict: str) -> None:
    process = diffusion(predict=predict)
    x0, eps, t = torch.randn(3, 16), torch.randn(3, 16), torch.tensor([5, 500, 990])
    alpha, sigma = process.schedule.coefficients(t, x0)
    target = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[predict]
    loss = process.loss(lambda x, t: torch.full_like(x, 0.25), x0, {}, t, eps)
    torch.testing.assert_close(loss, ((target - 0.25) ** 2).mean(1))


def test_loss_without_times_covers_them_all_and_follows_torchs_seed() -> None:
    process, seen = diffusion(times=10), set()

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.update(t.tolist())
        return x

    x0 = torch.randn(500, 2)
    torch.manual_seed(1)
    first = process.loss(network, x0, {})
    torch.manual_seed(1)
    assert torch.equal(first, process.loss(network, x0, {}))
    assert seen == set(range(10))


def test_loss_of_an_example_does_not_depend_on_its_batch() -> None:
    process, network = diffusion(predict="v"), Guesses(outputs=1)
    x0, eps, t = torch.randn(5, 8), torch.randn(5, 8), torch.tensor([1, 2, 500, 900, 999])
    together = process.loss(network, x0, {}, t, eps)
    alone = torch.cat(
        [process.loss(network, x0[i : i + 1], {}, t[i : i + 1], eps[i : i + 1]) for i in range(5)]
    )
    torch.testing.assert_close(together, alone)


def test_half_precision_output_still_gives_a_float32_loss() -> None:
    process = diffusion()
    assert process.loss(lambda x, t: x.bfloat16(), torch.randn(2, 4), {}).dtype == torch.float32


def test_conditions_reach_the_network() -> None:
    got: dict[str, Tensor] = {}

    def network(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        got.update(cond)
        return x

    diffusion().loss(network, torch.randn(2, 4), {"text": torch.ones(2)})
    assert list(got) == ["text"]


# --- the variational bound ---


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("spread", [0.0, 0.4, 1.0])
def test_bound_is_the_kl_divergence_of_the_two_gaussians(schedule: str, spread: float) -> None:
    process = diffusion(schedule=schedule, variance="learned")
    times = [1, 2, 50, 500, 998]
    x0, guess, eps = torch.randn(5, 12).clamp(-1, 1), torch.randn(5, 12).clamp(-1, 1), torch.randn(5, 12)
    t = torch.tensor(times)
    alpha, sigma = process.schedule.coefficients(t, x0)
    x_t = alpha * x0 + sigma * eps
    expected = []
    for row, time in enumerate(times):
        q = process.schedule.posterior(time, time - 1)
        true, mean = (q.x_weight * x_t[row].double() + q.x0_weight * x[row].double() for x in (x0, guess))
        variance = q.small ** (1 - spread) * q.large**spread
        kl = kl_divergence(Normal(true, q.small**0.5), Normal(mean, variance**0.5))
        expected.append(kl.mean() / math.log(2))
    bound = process.vlb(x0, x_t, t, guess, torch.full((5, 12), spread))
    torch.testing.assert_close(bound.double(), torch.stack(expected), rtol=2e-3, atol=1e-5)


def test_bound_of_an_exact_model_vanishes_above_time_zero() -> None:
    process = diffusion(variance="learned")
    x0, x_t = torch.randn(4, 8), torch.randn(4, 8)
    bound = process.vlb(x0, x_t, torch.tensor([1, 10, 500, 999]), x0, 0.0)
    torch.testing.assert_close(bound, torch.zeros(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [20, 300, 800])
def test_bound_of_the_best_model_of_gaussian_data_is_its_closed_form(t: int) -> None:
    process, deviation, n = diffusion(), 0.7, 200_000
    alpha, sigma = process.schedule.at(t)
    x0 = deviation * torch.randn(1, n)
    x_t = alpha * x0 + sigma * torch.randn(1, n)
    total = alpha**2 * deviation**2 + sigma**2
    best = deviation**2 * alpha / total * x_t  # E[x0 | x_t]
    left = deviation**2 * sigma**2 / total  # Var[x0 | x_t]
    q = process.schedule.posterior(t, t - 1)
    expected = q.x0_weight**2 * left / (2 * q.small) / math.log(2)
    assert process.vlb(x0, x_t, torch.tensor([t]), best, 0.0).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("times", [10, 1000])
@pytest.mark.parametrize("guess", [-1.3, -1.0, -0.2, 0.0, 0.77, 1.0])
def test_the_256_values_of_a_byte_have_total_probability_one(times: int, guess: float) -> None:
    process = diffusion(times=times, variance="learned")
    x0 = (torch.arange(256) / 127.5 - 1)[:, None]
    t = torch.zeros(256, dtype=torch.long)
    bits = process.vlb(x0, torch.zeros_like(x0), t, torch.full_like(x0, guess), 1.0)
    assert (2 ** -bits.double()).sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_variance_at_time_zero_starts_at_that_of_time_one(spread: float) -> None:
    # Between x_0 and the clean end the posterior has no width; Nichol & Dhariwal (2021) take the next one.
    process = diffusion(times=100, variance="learned")
    x0, guess = torch.tensor([[0.2, -0.4]]), torch.tensor([[0.22, -0.35]])
    small, large = process.schedule.posterior(1, 0).small, process.schedule.posterior(0, -1).large
    model = Normal(guess.double(), (small ** (1 - spread) * large**spread) ** 0.5)
    probability = model.cdf(x0.double() + 1 / 255) - model.cdf(x0.double() - 1 / 255)
    bits = process.vlb(x0, torch.zeros(1, 2), torch.tensor([0]), guess, torch.full((1, 2), spread))
    torch.testing.assert_close(bits.double(), -probability.log2().mean(1), rtol=1e-3, atol=1e-4)


def test_likelihood_at_time_zero_prefers_the_truth() -> None:
    process = diffusion(variance="learned")
    x0 = torch.tensor([[0.2]])
    zero = torch.tensor([0])
    near, far = (process.vlb(x0, x0, zero, x0 + off, 1.0) for off in (0.0, 0.05))
    assert near < far


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_vlb_objective_trains_with_any_variance(variance: str) -> None:
    process = diffusion(variance=variance, objective="vlb", predict="x0")
    network = Guesses(outputs=1 + (variance == "learned"))
    loss = process.loss(network, torch.rand(6, 8) * 2 - 1, {}, torch.tensor([0, 1, 20, 300, 800, 999]))
    assert loss.shape == (6,)
    assert loss.isfinite().all()
    loss.mean().backward()
    assert network.mean.grad is not None and network.mean.grad.abs() > 0


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_hybrid_trains_the_mean_by_the_simple_loss_alone(predict: str) -> None:
    x0, eps, t = torch.rand(4, 8) * 2 - 1, torch.randn(4, 8), torch.tensor([1, 100, 500, 900])
    gradients = {}
    for objective in ("simple", "hybrid", "vlb"):
        process, network = diffusion(predict=predict, variance="learned", objective=objective), Guesses()
        process.loss(network, x0, {}, t, eps).mean().backward()
        gradients[objective] = (network.mean.grad, network.variance.grad)
    of_the_bound = gradients["vlb"][1]
    assert of_the_bound is not None
    assert gradients["simple"][1] is None or gradients["simple"][1] == 0
    torch.testing.assert_close(gradients["hybrid"][0], gradients["simple"][0])
    torch.testing.assert_close(gradients["hybrid"][1], HYBRID_WEIGHT * 1000 * of_the_bound)
    assert gradients["vlb"][0] != 0


def test_hybrid_is_the_simple_loss_plus_the_weighted_bound() -> None:
    x0, eps, t = torch.rand(4, 8) * 2 - 1, torch.randn(4, 8), torch.tensor([0, 100, 500, 900])
    network = Guesses()
    simple, bound, hybrid = (
        diffusion(times=1000, variance="learned", objective=objective).loss(network, x0, {}, t, eps)
        for objective in ("simple", "vlb", "hybrid")
    )
    torch.testing.assert_close(hybrid, simple + bound)  # 0.001 · T = 1


# --- the denoiser ---


@pytest.mark.parametrize("t", [0, 30, 500, 999])
def test_all_predictions_read_the_same(t: int) -> None:
    x0, eps = (
        torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1,
        torch.randn(2, 3, 4, 4, dtype=torch.float64),
    )
    alpha, sigma = diffusion().schedule.at(t)
    outputs = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}
    for predict, output in outputs.items():
        denoise = diffusion(predict=predict).denoiser(lambda x, t, output=output: output, {})
        prediction = denoise(alpha * x0 + sigma * eps, t)
        torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=1e-9)
        torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_clamped_x0_and_eps_still_make_up_x(predict: str) -> None:
    process = diffusion(predict=predict, clamp=0.5)
    x = torch.randn(2, 6, dtype=torch.float64)
    prediction = process.denoiser(lambda x, t: 3 * x, {})(x, 400)
    alpha, sigma = process.schedule.at(400)
    assert prediction.x0.abs().max() == 0.5
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x)


def test_without_a_clamp_x0_is_free() -> None:
    assert diffusion(predict="x0").denoiser(lambda x, t: 100 * x, {})(torch.ones(1, 2), 5).x0.max() == 100


@pytest.mark.parametrize(("variance", "mix"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_fixed_variance_is_one_of_the_bounds(variance: str, mix: float) -> None:
    assert diffusion(variance=variance).denoiser(lambda x, t: x, {})(torch.ones(1, 2), 5).variance_mix == mix


@pytest.mark.parametrize(("output", "mix"), [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)])
def test_learned_variance_lies_between_the_bounds(output: float, mix: float) -> None:
    process = diffusion(variance="learned", predict="x0")
    prediction = process.denoiser(lambda x, t: torch.cat([x, torch.full_like(x, output)], 1), {})(
        torch.ones(2, 3, 4, 4), 5
    )
    assert prediction.x0.shape == (2, 3, 4, 4)
    torch.testing.assert_close(prediction.variance_mix, torch.full((2, 3, 4, 4), mix))


def test_prediction_has_the_precision_of_x_not_of_the_network() -> None:
    prediction = diffusion().denoiser(lambda x, t: x.bfloat16(), {})(torch.randn(1, 4), 500)
    assert prediction.x0.dtype == prediction.eps.dtype == torch.float32


# --- guidance ---

COND, NULL = {"bias": torch.tensor([0.5, -1.0])}, {"bias": torch.tensor([0.1, 0.2])}


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guidance_mixes_x0_whatever_is_predicted(predict: str, scale: float) -> None:
    process, network, x = diffusion(predict=predict), Guesses(outputs=1), torch.randn(2, 6)
    cond, null = (process.denoiser(network, c)(x, 300) for c in (COND, NULL))
    guided = process.denoiser(network, COND, NULL, Guidance(scale))(x, 300)
    torch.testing.assert_close(guided.x0, null.x0 + scale * (cond.x0 - null.x0))
    torch.testing.assert_close(guided.eps, null.eps + scale * (cond.eps - null.eps))


def test_guidance_comes_before_the_clamp() -> None:
    x = torch.zeros(2, 6)
    free, clamped = (
        diffusion(predict="x0", clamp=clamp)
        .denoiser(Guesses(outputs=1), COND, NULL, Guidance(3.0))(x, 300)
        .x0
        for clamp in (None, 1.0)
    )
    torch.testing.assert_close(clamped, free.clamp(-1, 1))
    assert (free.abs() > 1).any()


def test_scale_one_is_no_guidance_and_half_the_work() -> None:
    process, network, x = diffusion(), Guesses(outputs=1), torch.randn(2, 6)
    plain = process.denoiser(network, COND)(x, 300)
    one = process.denoiser(network, COND, NULL, Guidance(1.0))(x, 300)
    assert torch.equal(plain.x0, one.x0)
    assert network.batches == [2, 2]


def test_both_halves_take_one_call() -> None:
    network = Guesses(outputs=1)
    diffusion().denoiser(network, COND, NULL, Guidance(2.0))(torch.randn(2, 6), 300)
    assert network.batches == [4]


def test_outside_its_interval_guidance_costs_and_changes_nothing() -> None:
    process, network, x = diffusion(), Guesses(outputs=1), torch.randn(2, 6)
    denoise = process.denoiser(network, COND, NULL, Guidance(3.0, interval=(0.2, 0.8)))
    for t in (100, 200, 500, 800, 900):
        denoise(x, t)
    assert network.batches == [2, 4, 4, 4, 2]
    assert torch.equal(denoise(x, 900).x0, process.denoiser(network, COND)(x, 900).x0)


def test_variance_is_the_conditional_halfs() -> None:
    process, network, x = diffusion(variance="learned"), Guesses(), torch.randn(2, 6)
    guided, cond = (
        process.denoiser(network, COND, null, g)(x, 300)
        for null, g in ((NULL, Guidance(3.0)), (None, Guidance()))
    )
    assert (
        isinstance(guided.variance_mix, Tensor)
        and isinstance(cond.variance_mix, Tensor)
        and torch.equal(guided.variance_mix, cond.variance_mix)
    )
    assert not torch.equal(guided.x0, cond.x0)


def test_full_rescale_restores_the_deviation_of_each_example() -> None:
    cond, null = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    deviations = {r: Guidance(5.0, rescale=r).combine(cond, null).std((1, 2)) for r in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(deviations[1.0], cond.std((1, 2)))
    torch.testing.assert_close(deviations[0.5], (deviations[0.0] + deviations[1.0]) / 2)
    assert (deviations[0.0] > 2 * deviations[1.0]).all()


def test_guidance_without_a_null_condition_is_an_error() -> None:
    with pytest.raises(ValueError, match="null"):
        diffusion().denoiser(Guesses(outputs=1), COND, None, Guidance(2.0))


# --- the config ---


@pytest.mark.parametrize(
    "wrong",
    [{"schedule": "cosin"}, {"times": 1}, {"predict": "noise"}, {"variance": "big"}, {"objektive": "vlb"}],
)
def test_wrong_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DiffusionConfig(**wrong)
