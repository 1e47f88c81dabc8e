"""Seeded noise: one seed gives one image in any batch, independent between stages and candidates."""

from __future__ import annotations

import pytest
import torch

from unclip.diffusion.noise import SeededNoise


def draws(noise: SeededNoise, shape: tuple[int, ...], n: int = 3) -> list[torch.Tensor]:
    return [noise(torch.empty(shape)) for _ in range(n)]


def test_a_picture_alone_has_the_noise_it_has_in_a_batch() -> None:
    together = draws(SeededNoise([7, 8, 9]), (3, 2, 4))
    for row, seed in enumerate((7, 8, 9)):
        for many, one in zip(together, draws(SeededNoise([seed]), (1, 2, 4)), strict=True):
            assert torch.equal(many[row], one[0])


def test_same_seed_same_noise_other_seed_other_noise() -> None:
    assert torch.equal(SeededNoise([1])(torch.empty(1, 9)), SeededNoise([1])(torch.empty(1, 9)))
    assert not torch.equal(SeededNoise([1])(torch.empty(1, 9)), SeededNoise([2])(torch.empty(1, 9)))


def test_draws_of_one_noise_differ() -> None:
    first, second, third = draws(SeededNoise([1]), (1, 9))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_streams_of_one_seed_are_apart() -> None:
    streams = [SeededNoise([3], stream)(torch.empty(1, 1000))[0] for stream in ("", "prior", "decoder")]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(3)
    assert correlation.abs().max() < 0.15


def test_neighbouring_seeds_are_uncorrelated() -> None:
    correlation = torch.corrcoef(SeededNoise(range(5))(torch.empty(5, 1000))) - torch.eye(5)
    assert correlation.abs().max() < 0.15


def test_noise_is_standard_normal() -> None:
    sample = SeededNoise([0])(torch.empty(1, 100_000))
    assert sample.mean().abs() < 0.02
    assert sample.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_only_rounds_the_same_noise(dtype: torch.dtype) -> None:
    rounded = SeededNoise([5])(torch.empty(1, 8, dtype=dtype))
    assert rounded.dtype == dtype
    assert torch.equal(rounded, SeededNoise([5])(torch.empty(1, 8)).to(dtype))


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63, 2**80])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert SeededNoise([seed])(torch.empty(1, 4)).isfinite().all()


def test_first_candidate_is_the_noise_of_a_single_draw() -> None:
    single = SeededNoise([4, 5], "prior")(torch.empty(2, 6))
    several = SeededNoise([4, 5], "prior").candidates(3)(torch.empty(6, 6))
    assert torch.equal(several[::3], single)
    assert len({tuple(row.tolist()) for row in several}) == 6


def test_more_candidates_keep_the_earlier_ones() -> None:
    two, four = (SeededNoise([4], "prior").candidates(n)(torch.empty(n, 6)) for n in (2, 4))
    assert torch.equal(four[:2], two)


def test_a_candidate_is_drawn_alone_by_its_number() -> None:
    several = SeededNoise([4, 5], "prior").candidates(3)(torch.empty(6, 6))
    assert torch.equal(SeededNoise([4, 5], "prior", [2, 1])(torch.empty(2, 6)), several[[2, 4]])


def test_candidates_do_not_disturb_the_noise_they_come_from() -> None:
    noise = SeededNoise([4])
    noise.candidates(3)(torch.empty(3, 6))
    assert torch.equal(noise(torch.empty(1, 6)), SeededNoise([4])(torch.empty(1, 6)))


def test_noise_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SeededNoise([1, 2], "x").candidates(2)(torch.empty(4, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_number_of_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="noise for 2 images was asked for 3"):
        SeededNoise([1, 2])(torch.empty(3, 4))
