"""The correction of an edit's seam: what it removes, and what it leaves alone."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from unclip.pipeline.membrane import join

SIDE = 96


def disc(side: int = SIDE) -> Tensor:
    """A round mask [side, side] that reaches beyond the left edge."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (y - side / 2) ** 2 + (x - side / 6) ** 2 < (side / 3) ** 2


def textured(side: int = SIDE, seed: int = 0) -> Tensor:
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return 0.01 * noise + torch.linspace(-0.3, 0.3, side)


@pytest.mark.parametrize("side", [40, SIDE, 300, 517])
def test_a_step_of_brightness_is_gone_from_all_of_the_painted_part(side: int) -> None:
    picture, paint = textured(side), disc(side)
    joined = join(picture + torch.tensor([0.1, -0.05, 0.15]).view(3, 1, 1), picture, paint)
    assert torch.equal(joined[..., ~paint], picture[..., ~paint])
    assert (joined - picture).abs().max() < 0.05


def test_a_slope_of_brightness_along_the_border_is_followed() -> None:
    picture, paint = textured(), disc()
    slope = torch.linspace(-0.15, 0.15, SIDE).view(SIDE, 1)
    rest = (join(picture + slope, picture, paint) - picture)[..., paint]
    assert rest.abs().mean() < 0.15 * slope.expand(SIDE, SIDE)[paint].abs().mean()


def test_the_colour_of_an_object_that_ends_at_the_border_does_not_spread() -> None:
    picture, paint = torch.zeros(1, 3, SIDE, SIDE), disc()
    picture[..., 40:70, :] = torch.tensor([0.9, -0.9, -0.9]).view(
        3, 1, 1
    )  # a red belt that is not painted on
    joined = join(torch.zeros(1, 3, SIDE, SIDE), picture, paint)
    away = (
        torch.nn.functional.max_pool2d((~paint).float()[None], 17, 1, 8)[0] == 0
    )  # over 8 px from the border
    assert paint[40:70].any() and away.any()
    assert joined[..., away].abs().max() < 0.02


def test_every_image_is_corrected_as_if_it_were_alone() -> None:
    picture, paint = textured(), disc()
    made = torch.cat([textured(seed=seed) + 0.1 * seed for seed in range(3)])
    together = join(made, picture, paint)
    for i in range(3):
        assert torch.equal(join(made[i : i + 1], picture, paint)[0], together[i])


def test_islands_frames_and_single_pixels_of_paint() -> None:
    picture = textured()
    masks = [torch.zeros(SIDE, SIDE, dtype=torch.bool) for _ in range(4)]
    masks[0][3, 5] = masks[0][0, 0] = masks[0][-1, -1] = True
    masks[1][:, 40:43] = True
    masks[2][:] = True
    masks[2][20:30, 20:30] = False
    for paint in masks:  # the last one paints nothing
        joined = join(picture + 0.1, picture, paint)
        assert torch.equal(joined[..., ~paint], picture[..., ~paint])
        assert torch.isfinite(joined).all() and (joined - picture).abs().max() < 0.08


def test_without_kept_pixels_there_is_no_border() -> None:
    made = 9 * textured()
    assert torch.equal(join(made, textured(), torch.ones(SIDE, SIDE, dtype=torch.bool)), made.clamp(-1, 1))


def test_the_correction_of_1024_pixels_takes_a_fraction_of_a_second() -> None:
    picture, paint = torch.zeros(1, 3, 1024, 1024), torch.zeros(1024, 1024, dtype=torch.bool)
    paint[16:-16, 16:-16] = True
    started = time.thread_time()
    join(picture + 0.1, picture, paint)
    assert time.thread_time() - started < 1.5  # 0.25 s on an idle core
