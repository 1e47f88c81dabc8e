"""The inpainting decoder: initialisation, training and edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.diffusion import Diffusion, DiffusionConfig
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import ExampleRng
from unclip.errors import ConfigError
from unclip.nn.layers import zero_init
from unclip.nn.unet import UNetConfig
from unclip.pipeline import Pipeline
from unclip.stages.batch import Batch
from unclip.stages.decoder import Decoder, DecoderConfig, random_keep
from unclip.train.start import start_from

D, W, SIDE = 8, 12, 16


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def decoder(**config: Any) -> Decoder:
    """Small, and with no weight zero but those that are to be."""
    refine = config.pop("refine", 0)
    shape = {"size": SIDE, "embed": D, "token_width": W, "context_width": 16, **config}
    unet = UNetConfig(channels=32, multipliers=(1, 1), depth=1, attention=(1,), patch=2, refine=refine)
    stage = Decoder(DecoderConfig(**shape, unet=unet))
    new = stage.network.unet.conv_in.weight[:, 3 * 4 :].clone()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        stage.network.unet.conv_in.weight[:, 3 * 4 :] = new
        if stage.network.unet.refine is not None:
            zero_init(stage.network.unet.refine.conv_2)
    return stage.eval()


def text(n: int) -> Text:
    mask = torch.ones(n, 3, dtype=torch.bool)
    return Text([""] * n, mask.long(), mask, torch.randn(n, D), torch.randn(n, 3, W))


def denoised(stage: Decoder, known: Known | None) -> Tensor:
    torch.manual_seed(1)
    z_i, x, caption, null = torch.randn(2, D), torch.randn(2, 3, SIDE, SIDE), text(2), text(2)
    return stage.denoiser(*stage.conditions(z_i, caption, null, known, x.shape), stage.config.sampling)(
        x, 500
    ).x0


def half() -> Known:
    keep = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    keep[:, : SIDE // 2] = True
    return Known(torch.full((1, 3, SIDE, SIDE), 0.7), keep)


def started(tmp_path: Path, **config: Any) -> tuple[Decoder, Decoder]:
    """A plain decoder, and an inpainting one that training would start from it."""
    plain = decoder()
    plain.save(tmp_path)
    stage = decoder(inpaint=True, **config)
    start_from(stage, tmp_path)
    return plain, stage


@pytest.mark.parametrize("refine", [0, 8])
def test_it_starts_as_the_plain_decoder_whatever_is_known(refine: int, tmp_path: Path) -> None:
    plain, stage = started(tmp_path, refine=refine)
    for known in (None, half()):
        torch.testing.assert_close(denoised(stage, known), denoised(plain, None), rtol=1e-4, atol=1e-4)


def test_a_refinement_is_taken_over_both_ways(tmp_path: Path) -> None:
    plain = decoder(refine=8)
    with torch.no_grad():
        plain.network.unet.refine.conv_2.weight.normal_()
    stage, back = decoder(inpaint=True, refine=8), decoder(refine=8)
    stage.load_state_dict(stage.adapt_state_dict(plain.state_dict()))
    back.load_state_dict(back.adapt_state_dict(stage.state_dict()))
    for one, known in ((stage, None), (stage, half()), (back, None)):
        torch.testing.assert_close(denoised(one, known), denoised(plain, None), rtol=1e-4, atol=1e-4)


def test_it_learns_to_look_at_what_is_known_and_not_below_the_mask(tmp_path: Path) -> None:
    _, stage = started(tmp_path)
    seen = Batch(
        ("a", "b"), torch.rand(2, 3, SIDE, SIDE), torch.randn(2, D), text(2), text(1), seeds=torch.arange(2)
    )
    stage(seen).mean().backward()
    weight = stage.network.unet.conv_in.weight
    assert weight.grad is not None and (weight.grad[:, 3 * 4 :] != 0).any(dim=(0, 2, 3)).all()
    with torch.no_grad():
        weight -= weight.grad
    known = half()
    below = Known(torch.where(known.keep, known.x0, -1.0), known.keep)
    other = Known(-known.x0, known.keep)
    assert torch.equal(denoised(stage, known), denoised(stage, below))
    assert not torch.allclose(denoised(stage, known), denoised(stage, other), atol=1e-3)


def test_what_is_known_is_not_asked_for_in_training() -> None:
    diffusion = Diffusion(DiffusionConfig(predict="v", variance="learned", objective="hybrid"))
    x0, t, eps = torch.rand(2, 3, SIDE, SIDE), torch.tensor([10, 900]), torch.randn(2, 3, SIDE, SIDE)
    keep = half().keep.expand(2, 1, SIDE, SIDE)
    output = torch.randn(2, 6, SIDE, SIDE, requires_grad=True)
    loss = diffusion.loss(lambda x_t, t: output, x0, {}, t, eps, keep)
    (grad,) = torch.autograd.grad(loss.sum(), output)
    mean = grad[:, :3]
    assert (mean[~keep.expand_as(mean)] != 0).all() and (mean[keep.expand_as(mean)] == 0).all()
    alpha, sigma = diffusion.schedule.coefficients(t, x0)
    simple = Diffusion(DiffusionConfig(predict="v", variance="learned"))
    asked = (output[:, :3] - (alpha * eps - sigma * x0)) ** 2 * ~keep
    torch.testing.assert_close(
        simple.loss(lambda x_t, t: output, x0, {}, t, eps, keep), asked.mean((1, 2, 3))
    )


def test_a_checkpoint_says_that_it_inpaints_and_a_plain_one_starts_as_it_is_where_nothing_is_known(
    tmp_path: Path,
) -> None:
    _, stage = started(tmp_path)
    (tmp_path / "saved").mkdir()
    stage.save(tmp_path / "saved")
    again = Decoder.load(tmp_path / "saved")
    assert again.inpaints and torch.equal(denoised(again, half()), denoised(stage, half()))
    with torch.no_grad():
        again.network.unet.conv_in.weight[:, 3 * 4 :] += (
            0.1  # as trained: the channels of what is known are not zero
        )
    again.save(tmp_path / "saved")
    plain = decoder()
    start_from(plain, tmp_path / "saved")
    torch.testing.assert_close(denoised(plain, None), denoised(again, None), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ConfigError, match="another shape than this run's stage: stage.embed is 8 there, 16 here"
    ):
        start_from(decoder(embed=16), tmp_path / "saved")


def test_masks_are_each_examples_own_and_of_all_kinds() -> None:
    like = torch.empty(300, 3, SIDE, SIDE)
    keep = random_keep(ExampleRng(torch.arange(300), torch.device("cpu")), like)
    assert keep.shape == (300, 1, SIDE, SIDE)
    again = random_keep(ExampleRng(torch.tensor([7]), torch.device("cpu")), like[:1])
    assert torch.equal(again[0], keep[7])
    share = keep.float().mean(dim=(1, 2, 3))
    assert 0.4 < (share == 0).float().mean() < 0.6
    assert 0.1 < (share > 0.6).float().mean() < 0.5
    whole_edge = keep[:, 0, :, 0].all(1) & (share < 1)
    assert whole_edge.float().mean() > 0.1  # the picture goes on at one side, as in outpainting


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    """The tiny model with an inpainting decoder, whose new channels are not zero."""
    torch.manual_seed(0)
    model = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    config = model.decoder.config.model_dump()
    stage = Decoder(DecoderConfig(**{**config, "inpaint": True}))
    stage.load_state_dict(stage.adapt_state_dict(model.decoder.state_dict()))
    with torch.no_grad():
        stage.network.unet.conv_in.weight[:, 3:] += 0.2
    model.decoder = stage.eval()
    return model


def test_edits_and_outpainting_take_one_repeat_and_keep_the_kept(pipe: Pipeline) -> None:
    image, mask = Image.new("RGB", (64, 64), (200, 60, 20)), Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    counted: list[tuple[str, int]] = []
    made = pipe.edit(
        image, "a fox", mask, seed=1, on_step=lambda role, i, n, step: counted.append((role, n))
    ).images[0]
    assert counted.count(("decoder", 2)) == 2
    assert np.array_equal(np.asarray(made)[:, :32], np.asarray(image)[:, :32])
    wide = pipe.outpaint(image, "a fox", (96, 64), seed=1).images[0]
    assert np.array_equal(np.asarray(wide)[:, 16:80], np.asarray(image))
    other = pipe.edit(Image.new("RGB", (64, 64), (20, 60, 200)), "a fox", mask, seed=1).images[0]
    assert not np.array_equal(np.asarray(made)[:, 40:], np.asarray(other)[:, 40:])


def test_it_still_draws_from_a_prompt(pipe: Pipeline) -> None:
    assert pipe("a fox", seed=1, size=64).images[0].size == (64, 64)
