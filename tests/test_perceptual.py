"""The decoder's perceptual loss and the shift of training timesteps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unclip.clip import ClipSizes, Text
from unclip.diffusion.diffusion import DiffusionConfig
from unclip.diffusion.noise import ExampleRng
from unclip.errors import ConfigError
from unclip.nn.unet import UNetConfig
from unclip.stages.batch import Batch
from unclip.stages.decoder import Decoder, DecoderConfig

D, W, SIDE, N = 8, 12, 16, 64


class Reader:
    """A stand-in for CLIP: a fixed linear map of the pixels."""

    identity, width, token_width, context, reference = "reader", D, W, 48, None

    def __init__(self) -> None:
        self.weight = torch.randn(3 * SIDE * SIDE, D)

    def encode_image(self, images: Tensor, *, gradients: bool = False) -> Tensor:
        with torch.inference_mode(not gradients):
            return images.float().flatten(1) @ self.weight


def decoder(clip: ClipSizes | None = None, **config: Any) -> Decoder:
    torch.manual_seed(0)
    unet = UNetConfig(channels=32, multipliers=(1,), depth=1)
    shape = {"size": SIDE, "embed": D, "token_width": W, "context_width": 16, "unet": unet}
    stage = Decoder(DecoderConfig(**{**shape, **config}))
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    stage.for_clip(clip or Reader())
    return stage


def batch(reader: Reader) -> Batch:
    torch.manual_seed(1)
    image, mask = torch.rand(N, 3, SIDE, SIDE) * 2 - 1, torch.ones(N, 3, dtype=torch.bool)
    text = Text([""] * N, mask.long(), mask, torch.randn(N, D), torch.randn(N, 3, W))
    z_i = reader.encode_image(image).clone()
    return Batch(
        image=image, image_embed=z_i, text=text, null=text.rows(0, 1), seeds=torch.arange(N), captions=[]
    )


def test_the_loss_is_weighted_and_has_gradients() -> None:
    reader = Reader()
    losses = []
    for weight in (0.0, 1.0, 2.0):
        stage = decoder(reader, perceptual=weight)
        losses.append(stage(batch(reader)))
    torch.testing.assert_close(losses[2] - losses[0], 2 * (losses[1] - losses[0]), atol=1e-5, rtol=1e-4)
    assert (losses[1] >= losses[0] - 1e-6).all() and losses[1].mean() > losses[0].mean() + 0.1
    gradients = torch.autograd.grad(
        (losses[2] - losses[0]).sum(), list(stage.parameters()), allow_unused=True
    )
    assert any(g is not None and g.abs().max() > 0 for g in gradients)


def test_a_network_that_is_told_nothing_has_no_perceptual_loss() -> None:
    reader = Reader()
    dropped = {"embed_drop": 1.0, "text_drop": 1.0}
    plain, read = (decoder(reader, perceptual=weight, **dropped)(batch(reader)) for weight in (0.0, 1.0))
    torch.testing.assert_close(plain, read)


def test_stored_embeddings_leave_nothing_to_read_with() -> None:
    class Stored:
        identity, width, token_width, context = "stored", D, W, 48

    with pytest.raises(ConfigError, match=r"stage\.perceptual reads pictures with the CLIP"):
        decoder(Stored(), perceptual=0.1)
    decoder(Stored())


def test_timesteps_shift_to_more_noise() -> None:
    seeds = torch.arange(2000)
    drawn = {}
    for shift in (1.0, 3.0):
        stage = decoder(diffusion=DiffusionConfig(timestep_shift=shift))
        rng = ExampleRng(seeds, torch.device("cpu"))
        drawn[shift] = stage._draw(rng, torch.zeros(len(seeds), 1))
    t, u = drawn[3.0][0], drawn[1.0][0] / 1000
    assert torch.equal(t, (1000 * 3 * u / (1 + 2 * u)).long())
    assert t.min() >= 0 and t.max() < 1000 and t.float().median() > 700
    assert torch.equal(drawn[3.0][1], drawn[1.0][1])  # the same noise
