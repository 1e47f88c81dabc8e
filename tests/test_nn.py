"""Networks: attention masks, shapes and published sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from unclip.nn.layers import TimeEmbedding, attend, timestep_embedding, zero_init
from unclip.nn.norm import GroupNorm
from unclip.nn.transformer import TextEncoder, Transformer
from unclip.nn.unet import UNet, UNetConfig
from unclip.nn.unet_blocks import upsample_conv
from unclip.stages.prior import Prior, PriorConfig


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(module: nn.Module) -> nn.Module:
    """With every parameter random: fresh residual branches are zero and would hide what they do."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- layers ---


def test_timestep_features_are_cosines_then_sines() -> None:
    features = timestep_embedding(torch.tensor([0, 1, 999]), 8)
    assert features.shape == (3, 8)
    for row, t in enumerate((0, 1, 999)):
        angles = [t * 10_000 ** (-i / 4) for i in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        torch.testing.assert_close(features[row], torch.tensor(expected), rtol=0, atol=1e-4)


def test_odd_width_is_padded() -> None:
    assert timestep_embedding(torch.tensor([5]), 7).shape == (1, 7)
    assert timestep_embedding(torch.tensor([5]), 7)[0, -1] == 0


def test_time_embedding_tells_neighbouring_times_apart() -> None:
    a, b = TimeEmbedding(32, 16)(torch.tensor([500, 501]))
    assert not torch.allclose(a, b, atol=1e-4)


def test_attention_is_a_softmax_over_the_seen_keys() -> None:
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    mask = torch.rand(2, 1, 1, 5) > 0.3
    mask[..., 0] = True
    out = attend(q, k, v, heads=2, mask=mask)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = (q[..., part] @ k[..., part].mT / 2).masked_fill(~mask[:, 0], float("-inf"))
        torch.testing.assert_close(out[..., part], scores.softmax(-1) @ v[..., part])


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("channels", [8, 64])
@pytest.mark.parametrize("sides", [(5, 7), (31, 40)])  # the larger ones are another kernel's
def test_group_norm_with_channels_last_is_torchs(
    sides: tuple[int, int], channels: int, modulated: bool, dtype: torch.dtype, near: float
) -> None:
    norm, theirs = GroupNorm(4, channels), nn.GroupNorm(4, channels).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    theirs.load_state_dict(norm.state_dict())
    picture = (3 * torch.randn(2, channels, *sides) + 10).to(dtype, memory_format=torch.channels_last)
    given = [picture, *(torch.randn(2, channels).to(dtype) for _ in range(2 * modulated))]
    toward = torch.randn(2, channels, *sides).to(dtype)
    ours = [x.clone().requires_grad_() for x in given]
    exact = [x.double().contiguous().requires_grad_() for x in given]
    made, wanted = norm(*ours), theirs(exact[0])
    if modulated:
        wanted = wanted * (1 + exact[1][..., None, None]) + exact[2][..., None, None]
    assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made.double(), wanted, rtol=near, atol=near)
    made.backward(toward)
    wanted.backward(toward.double())
    pairs = [*zip(ours, exact), *zip(norm.parameters(), theirs.parameters())]
    for a, b in pairs:
        assert a.grad is not None and b.grad is not None
        largest = float(b.grad.abs().max())
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=near, atol=near * largest)


def test_group_norm_in_another_layout_is_the_same() -> None:
    norm, x = GroupNorm(4, 8), torch.randn(2, 8, 3, 3)
    scale, shift = torch.randn(2, 2, 8)
    assert type(norm(x).grad_fn) is not type(norm(x.to(memory_format=torch.channels_last)).grad_fn)
    last = norm(x.to(memory_format=torch.channels_last), scale, shift)
    torch.testing.assert_close(norm(x, scale, shift), last, rtol=1e-5, atol=1e-5)


def test_brightness_is_hidden_by_groups_of_one_channel_only() -> None:
    x = torch.randn(1, 32, 4, 4)
    brighter = x + torch.linspace(0, 1, 32)[:, None, None]
    for groups, hidden in ((32, True), (8, False)):
        assert torch.allclose(GroupNorm(groups, 32)(x), GroupNorm(groups, 32)(brighter), atol=1e-4) == hidden
        config = UNetConfig(
            channels=32, multipliers=(1, 2), depth=1, middle_attention=True, norm_groups=groups
        )
        norms = [module for module in UNet(config, 1, 1).modules() if isinstance(module, GroupNorm)]
        assert {norm.num_groups for norm in norms} == {groups}
    with pytest.raises(ValidationError, match="norm_groups 5 does not divide the 32 channels"):
        UNetConfig(channels=32, multipliers=(1,), depth=1, norm_groups=5)


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (5, 7), (3, 3)]
)  # the last has fewer pixels than channels
@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)]
)
def test_a_convolution_of_an_enlarged_picture_repeats_no_pixel(
    height: int, width: int, dtype: torch.dtype, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = nn.Conv2d(32, 48, 3, padding=1).to(dtype)
    x = torch.randn(2, 32, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.conv2d(
        x.double().repeat_interleave(2, 2).repeat_interleave(2, 3),
        conv.weight.double(),
        conv.bias.double(),
        padding=1,
    )
    torch.testing.assert_close(
        upsample_conv(x, conv).double(), exact, rtol=0, atol=close
    )  # with gradients to come
    if height * width > 32:
        monkeypatch.setattr(conv, "forward", None)  # is not called
    with torch.no_grad():
        torch.testing.assert_close(upsample_conv(x, conv).double(), exact, rtol=0, atol=close)


def test_zeroed_module_gives_zero() -> None:
    assert zero_init(nn.Linear(3, 4))(torch.randn(2, 3)).abs().max() == 0


# --- the transformer ---


@pytest.mark.parametrize("causal", [True, False])
def test_causal_means_blind_to_what_follows(causal: bool) -> None:
    model = lively(Transformer(32, 2, 4, causal=causal))
    x = torch.randn(1, 6, 32)
    changed = x.clone()
    changed[:, 3] = torch.randn(32)
    moved = (model(x) - model(changed)).abs().amax(-1)[0] > 1e-5
    assert moved.tolist() == [not causal] * 3 + [True] * 3


@pytest.mark.parametrize("causal", [True, False])
def test_padding_is_seen_by_nobody(causal: bool) -> None:
    model = lively(Transformer(32, 2, 4, causal=causal))
    x = torch.randn(2, 6, 32)
    seen = torch.tensor([[True] * 4 + [False] * 2, [True, False, True, True, False, True]])
    other = torch.where(seen[..., None], x, torch.randn(2, 6, 32))
    a, b = model(x, seen), model(other, seen)
    torch.testing.assert_close(a[seen], b[seen])
    torch.testing.assert_close(a[0, :4], model(x[:1, :4])[0])


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_but_padding_is_still_finite(causal: bool) -> None:
    model = lively(Transformer(32, 2, 4, causal=causal))
    assert model(torch.randn(1, 4, 32), torch.tensor([[False, False, True, True]])).isfinite().all()
    assert model(torch.randn(1, 4, 32), torch.zeros(1, 4, dtype=torch.bool)).isfinite().all()


def test_text_encoder_ignores_padding_and_knows_positions() -> None:
    model = lively(TextEncoder(vocabulary=50, context=8, width=32, depth=2, heads=4))
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool)
    padded, padded_mask = torch.tensor([[5, 6, 7, 9, 9]]), torch.tensor([[True] * 3 + [False] * 2])
    torch.testing.assert_close(model(padded, padded_mask)[:, :3], model(ids, mask))
    assert not torch.allclose(model(ids.flip(1), mask).flip(1), model(ids, mask), atol=1e-3)


# --- the U-Net ---

SMALL = {"channels": 32, "multipliers": (1, 2), "depth": 1, "head_channels": 32}
ATTENTIVE = UNetConfig(**SMALL, attention=(1,), middle_attention=True)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("side", [(16, 16), (8, 24)])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_pictures_keep_their_size_whatever_the_patch(
    patch: int, side: tuple[int, int], scale_shift: bool
) -> None:
    model = lively(UNet(UNetConfig(**SMALL, patch=patch, scale_shift=scale_shift), 6, 3))
    out = model(torch.randn(2, 6, *side), torch.tensor([0, 999]))
    assert out.shape == (2, 3, *side)
    assert out.isfinite().all()
    assert out.std() > 0


def test_patches_make_the_network_cheaper_not_smaller() -> None:
    sizes = [count(UNet(UNetConfig(**SMALL, patch=patch), 3, 3)) for patch in (1, 4)]
    # Only the first and the last convolution grow.
    assert sizes[1] - sizes[0] == 2 * 9 * 32 * 3 * 15 + 3 * 15


def test_a_refined_network_starts_as_the_plain_one_and_looks_across_the_borders_of_patches() -> None:
    plain = lively(UNet(UNetConfig(**SMALL, patch=4), 6, 3))
    fresh = UNet(UNetConfig(**SMALL, patch=4, refine=16), 6, 3)
    fresh.load_state_dict({**fresh.state_dict(), **plain.state_dict()})
    x, t = torch.randn(1, 6, 16, 16), torch.tensor([5])
    torch.testing.assert_close(fresh(x, t), plain(x, t))
    refine = lively(fresh).refine
    assert refine is not None
    out, embed = torch.zeros(1, 3, 16, 16), torch.randn(1, fresh.embed_width)
    moved = x.clone()
    moved[..., 8, 8] += 1
    changed = (refine(out, moved, embed) != refine(out, x, embed)).any(dim=1)[0]
    assert changed[7, 7] and changed[6, 6] and not changed[5, 8]  # two convolutions reach two pixels


def test_deeper_networks_fit_together() -> None:
    config = UNetConfig(channels=32, multipliers=(1, 1, 2, 3), depth=2, attention=(0, 2, 3), head_channels=16)
    assert lively(UNet(config, 3, 6, context=8))(torch.randn(1, 3, 16, 16), torch.tensor([1])).shape == (
        1,
        6,
        16,
        16,
    )


def test_fresh_network_says_nothing() -> None:
    assert UNet(ATTENTIVE, 3, 3)(torch.randn(1, 3, 8, 8), torch.tensor([5])).abs().max() == 0


def test_every_input_matters_to_every_parameter() -> None:
    model = lively(UNet(ATTENTIVE, 3, 3, context=8))
    x, t, embed, context = (
        torch.randn(1, 3, 8, 8),
        torch.tensor([5]),
        torch.randn(1, 128),
        torch.randn(1, 4, 8),
    )
    base = model(x, t, embed, context)
    for other in (
        model(x + 0.1, t, embed, context),
        model(x, t + 100, embed, context),
        model(x, t, embed + 1, context),
        model(x, t, embed, context + 1),
    ):
        assert not torch.allclose(base, other, atol=1e-4)
    base.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_masked_context_is_ignored_and_neighbours_do_not_matter() -> None:
    model = lively(UNet(ATTENTIVE, 3, 3, context=8))
    x, t, context = torch.randn(2, 3, 8, 8), torch.tensor([5, 700]), torch.randn(2, 6, 8)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    together = model(x, t, context=context, mask=mask)
    alone = model(x[:1], t[:1], context=context[:1, :4], mask=mask[:1, :4])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    unmasked = model(x[:1], t[:1], context=context[:1, :4])
    torch.testing.assert_close(unmasked, alone, rtol=1e-4, atol=1e-5)


def test_without_attention_a_pixel_depends_on_its_surroundings_only() -> None:
    # What upsamplers trained on crops rest on. Group norms do see the whole picture: their effect is uniform.
    config = UNetConfig(channels=32, multipliers=(1,), depth=1)
    model = lively(UNet(config, 3, 3))
    x = torch.randn(1, 3, 32, 32)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    for norm in norms:
        norm.forward = lambda y, *modulation: y  # type: ignore[method-assign]
    changed = x.clone()
    changed[..., 0, 0] += 1
    moved = (model(x, torch.tensor([5])) - model(changed, torch.tensor([5]))).abs().amax((0, 1)) > 0
    assert moved[0, 0]
    assert not moved[16:].any()
    assert not moved[:, 16:].any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 16},
        {"channels": 48},
        {"depth": 0},
        {"deep": 2},
        {"patch": 0},
        {"multipliers": ()},
        {"multipliers": (1, 0)},
        {"attention": (2,)},
        {"head_channels": 24, "attention": (1,)},
        {"head_channels": 24, "middle_attention": True},
    ],
)
def test_impossible_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        UNetConfig(**{**SMALL, **wrong})


# --- the published sizes, counted without memory (facts/unclip.md, derived from the papers and from Karlo's
# files) ---

FOUR_LEVELS = {"multipliers": (1, 2, 3, 4), "depth": 3}
SIX_LEVELS = {"channels": 192, "multipliers": (1, 1, 2, 2, 4, 4), "depth": 2}
TEXTUAL = {**FOUR_LEVELS, "attention": (1, 2, 3), "middle_attention": True}


@pytest.mark.parametrize(
    ("config", "channels", "context", "expected"),
    [
        pytest.param(UNetConfig(channels=512, **TEXTUAL), (3, 6), 2048, 2_238_164_486, id="DALL-E 2 decoder"),
        pytest.param(UNetConfig(channels=320, **TEXTUAL), (3, 6), 1536, 885_439_686, id="Karlo decoder"),
        pytest.param(
            UNetConfig(channels=320, scale_shift=False, **FOUR_LEVELS),
            (6, 3),
            None,
            691_579_523,
            id="64 to 256, additive",
        ),
        pytest.param(
            UNetConfig(channels=320, **FOUR_LEVELS), (6, 3), None, 729_702_083, id="64 to 256, scale-shift"
        ),
        pytest.param(
            UNetConfig(scale_shift=False, **SIX_LEVELS), (6, 3), None, 267_146_691, id="256 to 1024, additive"
        ),
        pytest.param(UNetConfig(**SIX_LEVELS), (6, 3), None, 282_059_139, id="256 to 1024, scale-shift"),
    ],
)
def test_unet_has_the_published_size(
    config: UNetConfig, channels: tuple[int, int], context: int | None, expected: int
) -> None:
    with torch.device("meta"):
        assert count(UNet(config, *channels, context=context)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(
            {"depth": 24, "context": 256, "embed": 1024, "token_width": 1024}, 1_225_927_680, id="DALL-E 2"
        ),
        pytest.param(
            {"depth": 20, "context": 77, "embed": 768, "token_width": 768}, 1_022_030_080, id="Karlo"
        ),
    ],
)
def test_prior_has_the_published_size(config: dict[str, int], expected: int) -> None:
    with torch.device("meta"):
        prior = Prior(PriorConfig(width=2048, heads=32, **config))
    # The published numbers count the embeddings' mean and deviation among the parameters; ours are buffers.
    assert count(prior) + prior.mean.numel() + prior.std.numel() == expected


def test_a_network_on_the_meta_device_leaves_the_generator_alone() -> None:
    before: Tensor = torch.get_rng_state()
    with torch.device("meta"):
        UNet(ATTENTIVE, 3, 3)
    assert torch.equal(torch.get_rng_state(), before)
