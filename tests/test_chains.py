"""The chains of Sohl-Dickstein et al. 2015 against closed forms: marginals, posteriors and bounds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from unclip.diffusion.chains import BinomialChain, GaussianChain, Normal, Reverse
from unclip.diffusion.schedule import Schedule
from unclip.nn.mlp import TimestepMlp

DEVIATION = 0.5
SCHEDULE = Schedule.named("linear", 20)


def noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.default_generator, dtype=like.dtype)


def true_reverse(widen: float = 0.0) -> Reverse:
    """q(x_{t-1} | x_t) of data N(0, DEVIATION²), which is Gaussian: the joint of neighbours, conditioned."""

    def reverse(x: Tensor, t: Tensor) -> Normal:
        (time,) = set(t.tolist())
        (alpha, sigma), (alpha_s, sigma_s) = SCHEDULE.at(time), SCHEDULE.at(time - 1)
        ratio = alpha / alpha_s
        here, before = (a**2 * DEVIATION**2 + s**2 for a, s in ((alpha, sigma), (alpha_s, sigma_s)))
        gain = ratio * before / here
        variance = before - gain * ratio * before
        return Normal(gain * x, torch.full_like(x, math.log(variance) + widen))

    return reverse


def test_the_bound_of_the_true_reverse_is_the_entropy_and_of_any_other_more() -> None:
    torch.manual_seed(0)
    x0 = DEVIATION * torch.randn(4000, 2, dtype=torch.float64)
    chain = GaussianChain(SCHEDULE)
    alpha, sigma = SCHEDULE.at(SCHEDULE.times - 1)
    end = alpha**2 * DEVIATION**2 + sigma**2
    entropy = math.log(2 * math.pi * math.e * DEVIATION**2) / math.log(2)  # of two dimensions, in bits
    mismatch = (end - 1 - math.log(end)) / math.log(2)
    found = chain.bound(true_reverse(), x0, noise)
    error = (found.std() / len(x0) ** 0.5).item()
    assert found.mean().item() == pytest.approx(entropy + mismatch, abs=4 * error) and error < 0.05
    assert chain.bound(true_reverse(0.3), x0, noise).mean() > found.mean() + 0.1


def test_the_walk_has_the_variance_of_the_data() -> None:
    torch.manual_seed(0)
    chain = GaussianChain(SCHEDULE)
    *_, x = chain.walk(true_reverse(), torch.randn(4000, 2, dtype=torch.float64), noise)
    assert x.std().item() == pytest.approx(DEVIATION, rel=0.05)


def test_a_network_that_says_nothing_makes_the_steps_of_pure_noise() -> None:
    chain = GaussianChain(SCHEDULE)
    x, t = torch.randn(3, 2), torch.tensor([0, 7, 19])
    found = chain.reverse(TimestepMlp(2, 4, times=20))(x, t)
    (alpha, _), (alpha_s, _) = SCHEDULE.at(7), SCHEDULE.at(6)
    beta = 1 - (alpha / alpha_s) ** 2
    torch.testing.assert_close(found.mean[1], math.sqrt(1 - beta) * x[1])
    assert found.log_variance[1].exp().tolist() == pytest.approx([beta, beta], rel=1e-5)


def test_a_few_steps_of_training_lower_the_bound() -> None:
    torch.manual_seed(0)
    chain = GaussianChain(SCHEDULE)
    network = TimestepMlp(2, 4, width=32, times=20)
    reverse = chain.reverse(network)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    x0 = torch.tensor([[0.9, -0.9]]) + 0.1 * torch.randn(256, 2)
    before = chain.bound(reverse, x0, noise).mean()
    for _ in range(60):
        optimizer.zero_grad()
        chain.term(reverse, x0, torch.randint(20, (256,)), torch.randn(256, 2)).mean().backward()
        optimizer.step()
    assert chain.bound(reverse, x0, noise).mean() < before - 0.5


def test_the_bits_marginal_is_the_product_of_its_steps() -> None:
    chain = BinomialChain(7)
    chance = torch.tensor(
        [[1.0, 0.0]], dtype=torch.float64
    )  # P(x = 1) of a bit that was 1 and of one that was 0
    x0 = chance.clone()
    for step in range(1, 8):  # the paper's t
        beta = 1 / (7 - step + 1)
        chance = chance * (1 - beta) + beta / 2
        torch.testing.assert_close(chain.marginal(x0, torch.tensor([step - 1])), chance)
    torch.testing.assert_close(chance, torch.full_like(chance, 0.5))


def test_the_bits_posterior_is_bayes_rule_on_whole_paths() -> None:
    chain = BinomialChain(4)
    for start, end, t in itertools.product((0, 1), (0, 1), range(4)):
        weights = {0: 0.0, 1: 0.0}  # of x_{t-1}, over every path from x_0 to x_t
        for path in itertools.product((0, 1), repeat=t):
            states = (start, *path, end)
            chance = 1.0
            for step, (a, b) in enumerate(itertools.pairwise(states), start=1):
                beta = 1 / (4 - step + 1)
                chance *= (1 - beta) * (a == b) + beta / 2
            weights[states[-2]] += chance
        x0, x_t = (torch.tensor([[float(bit)]], dtype=torch.float64) for bit in (start, end))
        found = chain.posterior(x_t, x0, torch.tensor([t])).item()
        assert found == pytest.approx(weights[1] / (weights[0] + weights[1]), abs=1e-12)


def test_one_bits_bound_of_the_true_reverse_is_its_entropy_exactly() -> None:
    chain, p = BinomialChain(6), 0.2
    chances = torch.tensor([1 - p, p], dtype=torch.float64)

    def guess(x: Tensor, t: Tensor) -> Tensor:  # P(x_0 = 1 | x_t)
        one, zero = (chain.marginal(torch.full_like(x, bit), t) for bit in (1.0, 0.0))
        one, zero = (torch.where(x > 0.5, m, 1 - m) for m in (one, zero))
        return p * one / (p * one + (1 - p) * zero)

    total = 0.0
    for bit, t in itertools.product((0, 1), range(6)):  # the expectation over x_t, summed and not drawn
        x0, time = torch.tensor([[float(bit)]], dtype=torch.float64), torch.tensor([t])
        chance = chain.marginal(x0, time)
        as_one, as_zero = (
            chain.term(chain.reverse(guess), x0, time, torch.full_like(x0, u)) for u in (0.0, 1.0)
        )
        total += (chances[bit] * (chance * as_one + (1 - chance) * as_zero)).item()
    assert total == pytest.approx(-(p * math.log(p) + (1 - p) * math.log(1 - p)), abs=1e-9)


def test_a_certain_guess_costs_a_finite_number_of_bits_in_single_precision_too() -> None:
    chain, x0 = BinomialChain(6), torch.tensor([[1.0, 0.0]])
    for guess in (x0, 1 - x0):
        reverse = chain.reverse(lambda x, t, guess=guess: guess.expand_as(x))
        bits = chain.bound(reverse, x0, torch.Generator().manual_seed(0))
        assert bits.isfinite().all() and (bits.item() < 1e-6) == (guess is x0)
    logits = torch.zeros(
        1, 2, requires_grad=True
    )  # and trains: at t = 0 the truth is certain, a slope is not
    chain.term(
        chain.reverse(lambda x, t: logits.sigmoid()), x0, torch.tensor([0]), torch.full((1, 2), 0.5)
    ).sum().backward()
    assert (
        logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 0] < 0 < logits.grad[0, 1]
    )


def test_the_heartbeats_best_reverse_comes_near_the_entropy_and_beats_one_in_five() -> None:
    """What factorised flips cost, and that they sample the five sequences: the network of the page can only
    come near.
    """
    chain = BinomialChain(100)
    beats = (torch.arange(20)[None] % 5 == torch.arange(5)[:, None]).double()

    def guess(x: Tensor, t: Tensor) -> Tensor:
        chance = torch.stack([chain.marginal(beat.expand_as(x), t) for beat in beats])
        log_p = torch.where(x > 0.5, chance, 1 - chance).clamp(min=1e-300).log().sum(2)
        return log_p.softmax(0).T @ beats

    generator = torch.Generator().manual_seed(0)
    found = chain.bound(chain.reverse(guess), beats.repeat(40, 1), generator).mean().item()
    assert math.log2(5) - 0.05 < found < math.log2(5) + 0.4
    *_, x = chain.walk(
        chain.reverse(guess), torch.randint(2, (200, 20), generator=generator).double(), generator
    )
    assert (x[:, None] == beats).all(2).any(1).double().mean() > 0.95
