"""Inversion, variations, interpolations, text diffs, edits and outpainting on the tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from unclip.diffusion.diffusion import Prediction
from unclip.diffusion.inpainting import Known, inpaint
from unclip.diffusion.inversion import invert
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import ddim, ddpm
from unclip.diffusion.schedule import Schedule
from unclip.errors import Cancelled, RequestError
from unclip.pipeline import Pipeline
from unclip.pipeline.masks import known_at, read_mask
from unclip.pipeline.outpaint import _windows
from unclip.pipeline.slerp import slerp, weighted_mean

FEW = {"decoder": {"steps": 3}}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


def picture(side: int = 64, seed: int = 0) -> Image.Image:
    """Smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def half_mask(side: int = 64) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rectangle((side // 2, 0, side, side), fill=255)
    return mask


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def psnr(a: Image.Image, b: Image.Image) -> float:
    return float(10 * np.log10(255**2 / max(((array(a) - array(b)) ** 2).mean(), 1e-9)))


# --- the maths ---


def curved(x: Tensor, t: int) -> Prediction:
    """A denoiser that is anything but linear."""
    alpha, sigma = Schedule.named("cosine").at(t)
    x0 = torch.tanh(1.5 * alpha * x + 0.3 * torch.sin(3 * x))
    return Prediction(x0, (x - alpha * x0) / sigma, 0.0)


def test_inversion_undoes_ddim_and_every_evaluation_makes_it_more_exact() -> None:
    schedule = Schedule.named("cosine")
    times = schedule.grid(40)
    start = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *_, made = ddim(curved, start, schedule, times, SeededNoise([0] * 64))
    errors = []
    for evaluations in (1, 2, 4, 30, 100):
        *_, back = invert(curved, made.x, schedule, times, evaluations=evaluations)
        *_, again = ddim(curved, back.x, schedule, times, SeededNoise([0] * 64))
        errors.append((again.x - made.x).abs().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-2] < errors[0] / 20 and errors[-1] < 1e-7


def test_inversion_of_a_gaussian_is_its_closed_form() -> None:
    # Data N(0, 0.5²): DDIM scales x by the ratio of the marginal deviations, in the limit of many steps.
    schedule, spread = Schedule.named("cosine"), 0.5

    def denoise(x: Tensor, t: int) -> Prediction:
        alpha, sigma = schedule.at(t)
        x0 = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * x
        return Prediction(x0, (x - alpha * x0) / sigma, 0.0)

    x = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    *_, back = invert(denoise, x, schedule, schedule.grid(500), evaluations=3)
    torch.testing.assert_close(back.x, x / spread, rtol=0.01, atol=0.01)


def test_inpainting_keeps_what_is_known_and_finds_what_goes_with_it() -> None:
    # Two equal numbers, N(0, 1): knowing the first, the second must follow.
    schedule = Schedule.named("cosine")

    def denoise(x: Tensor, t: int) -> Prediction:
        alpha, sigma = schedule.at(t)
        mean = alpha * x.sum(1, keepdim=True) / (2 * alpha**2 + sigma**2)
        x0 = mean.expand(-1, 2)
        return Prediction(x0, (x - alpha * x0) / sigma, 0.0)

    n = 200
    known = Known(torch.full((n, 2), 1.5), torch.tensor([True, False]))
    gaps = []
    for repeats in (1, 8):
        noise = SeededNoise(range(n))
        start = noise(torch.empty(n, 2))
        steps = list(
            inpaint(ddpm, denoise, start, schedule, schedule.grid(20), noise, known, repeats=repeats)
        )
        assert len(steps) == 20 * repeats
        assert (steps[-1].x[:, 0] == 1.5).all()
        gaps.append((steps[-1].x[:, 1] - 1.5).abs().mean().item())
    assert gaps[1] < 0.05 and gaps[1] < gaps[0] / 2


def test_slerp_has_its_ends_its_middle_and_blended_lengths() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor([[3.0, 3.0]]) / 2**0.5)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    near = a + torch.tensor([[0.0, 1e-7]])
    assert torch.isfinite(slerp(a, near, 0.5)).all()
    with pytest.raises(RequestError, match="opposite"):
        slerp(a, -a, 0.5)


def test_the_mean_of_two_is_slerp_and_their_order_says_nothing() -> None:
    rows = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for weight in (0.0, 0.3, 1.0):
        torch.testing.assert_close(
            weighted_mean(rows[:2], [1 - weight, weight]), slerp(rows[0], rows[1], weight)
        )
    mean = weighted_mean(rows, [0.5, 0.3, 0.2])
    torch.testing.assert_close(weighted_mean(rows[[2, 0, 1]], [0.2, 0.5, 0.3]), mean)
    # Corners of a cube around its diagonal: the middle of three axes, all of one length.
    corner = weighted_mean(2 * torch.eye(3, dtype=torch.float64)[:, None], [1 / 3] * 3)
    torch.testing.assert_close(corner, torch.full((1, 3), 2 / 3**0.5, dtype=torch.float64))
    # Nothing pulls away from it: the weighted arcs to all three cancel out.
    units = rows / rows.norm(dim=2, keepdim=True)
    here = mean / mean.norm(dim=1, keepdim=True)
    cosine = (units * here).sum(2, keepdim=True)
    arcs = torch.acos(cosine) * (units - cosine * here) / (1 - cosine**2).sqrt()
    pull = (torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:, None, None] * arcs).sum(0)
    assert pull.abs().max() < 1e-9


def test_a_straight_mean_is_the_sums_direction_in_a_latents_length() -> None:
    rows = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])
    mean = weighted_mean(rows, [0.5, 0.5], straight=True)
    torch.testing.assert_close(mean, 2 * torch.tensor([[3.0, 1.0]]) / 10**0.5)
    for straight in (False, True):
        with pytest.raises(RequestError, match="opposite"):
            weighted_mean(torch.stack([rows[0], -rows[0]]), [0.5, 0.5], straight=straight)


# --- inversion and variations ---


def test_a_picture_is_given_back_at_eta_zero_and_not_at_one(pipe: Pipeline) -> None:
    image = picture()
    options = {"decoder": {"steps": 10}}
    same = pipe.vary(image, eta=0.0, seed=1, size=64, options=options).images[0]
    assert psnr(same, image) > 30
    other = pipe.vary(image, eta=1.0, seed=1, size=64, options=options).images[0]
    assert psnr(other, image) < psnr(same, image)


def test_inversion_gives_both_halves(pipe: Pipeline) -> None:
    found = pipe.invert([picture(64), picture(100, 1)], options=FEW)
    assert found.image_embeds.shape == (2, 32) and found.noise.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("fresh_noise", [False, True])
def test_variations_depend_on_the_seed_alone(pipe: Pipeline, fresh_noise: bool) -> None:
    options = FEW if not fresh_noise else None
    made = pipe.vary(picture(), 2, seed=[4, 9], fresh_noise=fresh_noise, size=64, options=options)
    alone = pipe.vary(picture(), seed=9, fresh_noise=fresh_noise, size=64, options=options)
    assert made.seeds == [4, 9] and made.settings[1]["verb"] == "vary"
    assert np.abs(array(made.images[1]) - array(alone.images[0])).max() <= 1
    assert made.images[0].tobytes() != made.images[1].tobytes()


def test_variations_go_through_the_upsamplers(pipe: Pipeline) -> None:
    assert pipe.vary(picture(), seed=1, options=FEW).images[0].size == (1024, 1024)


def test_a_verb_can_be_stopped(pipe: Pipeline) -> None:
    def stop(role: str, number: int, steps: int, step: object) -> None:
        assert (role, number, steps) == ("inversion", 1, 3)
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pipe.vary(picture(), size=64, options=FEW, on_step=stop)


# --- interpolations and diffs ---


def test_an_interpolation_ends_in_both_pictures(pipe: Pipeline) -> None:
    a, b = picture(seed=1), picture(seed=2)
    made = pipe.interpolate([a, b], 3, seed=1, size=64, options={"decoder": {"steps": 10}})
    assert [s["theta"] for s in made.settings] == [0.0, 0.5, 1.0]
    assert psnr(made.images[0], a) > 30 and psnr(made.images[2], b) > 30


def test_three_keys_make_a_loop_and_prompts_stand_for_pictures(pipe: Pipeline) -> None:
    made = pipe.interpolate(["a cat", picture(), "a fox"], 2, seed=1, size=64, options=FEW)
    assert [(s["from"], s["to"], s["theta"]) for s in made.settings] == [
        ("a cat", "a picture", 0.0),
        ("a cat", "a picture", 0.5),
        ("a picture", "a fox", 0.0),
        ("a picture", "a fox", 0.5),
        ("a fox", "a cat", 0.0),
        ("a fox", "a cat", 0.5),
    ]
    assert len({image.tobytes() for image in made.images}) == 6


def test_the_same_picture_twice_stands_still(pipe: Pipeline) -> None:
    made = pipe.interpolate([picture(), picture()], 2, seed=1, size=64, options=FEW)
    assert np.abs(array(made.images[0]) - array(made.images[1])).max() <= 1


def test_with_fixed_noise_the_way_is_another(pipe: Pipeline) -> None:
    moved, fixed = (
        pipe.interpolate(["a cat", "a fox"], 2, fixed_noise=fixed, seed=1, size=64, options=FEW)
        for fixed in (0, 1)
    )
    assert torch.equal(moved.image_embeds, fixed.image_embeds)
    assert moved.images[1].tobytes() != fixed.images[1].tobytes()


def test_all_the_weight_on_one_prompt_is_that_prompt(pipe: Pipeline) -> None:
    alone = pipe("a fox", seeds=[4, 5], num_images=2, size=64)
    for by in ("slerp", "sum"):
        made = pipe.mix(["a cat", "a fox"], [0, 3], 2, by=by, seed=4, size=64)  # type: ignore[arg-type]
        torch.testing.assert_close(made.image_embeds, alone.image_embeds, rtol=1e-4, atol=1e-5)
    assert made.settings[1] == made.images[1].info["unclip"]
    assert (made.settings[1]["weights"], made.settings[1]["seed"]) == ([0.0, 1.0], 5)


def test_a_mix_lies_between_and_nearer_to_what_weighs_more(pipe: Pipeline) -> None:
    cat, fox = (pipe(prompt, seed=4, size=64).image_embeds for prompt in ("a cat", "a fox in space"))
    half = pipe.mix(["a cat", "a fox in space"], seed=4, size=64)
    torch.testing.assert_close(half.image_embeds, slerp(cat, fox, 0.5), rtol=1e-4, atol=1e-5)
    mostly_cat = pipe.mix(["a cat", "a fox in space"], [3, 1], by="sum", seed=4, size=64).image_embeds
    assert torch.cosine_similarity(mostly_cat, cat) > torch.cosine_similarity(mostly_cat, fox)


def test_pictures_mix_with_prompts(pipe: Pipeline) -> None:
    made = pipe.mix([picture(), "a fox"], [1, 0], seed=4, size=64)
    torch.testing.assert_close(made.image_embeds, pipe.invert(picture(), options=FEW).image_embeds)
    assert made.settings[0]["keys"] == ["a picture", "a fox"]


@pytest.mark.parametrize("before", ["a cat", "a photo", ""])
def test_a_diff_begins_with_the_picture_and_turns_by_theta(pipe: Pipeline, before: str) -> None:
    image = picture()
    made = pipe.diff(
        image, before, "a fox in space", (0, 0.25, 0.5), seed=1, size=64, options={"decoder": {"steps": 10}}
    )
    assert psnr(made.images[0], image) > 30
    cosines = torch.cosine_similarity(made.image_embeds[:1], made.image_embeds)
    assert cosines[0] > cosines[1] > cosines[2]
    torch.testing.assert_close(made.image_embeds.norm(dim=1), made.image_embeds[0].norm().expand(3))


# --- edits ---


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_every_kept_pixel_of_an_edit_is_the_same(pipe: Pipeline, size: int) -> None:
    image, mask = picture(size), half_mask(size)
    made = pipe.edit(image, "a fox", mask, 2, seed=3, repeats=2, size=size)
    kept = np.asarray(mask) == 0
    for edited in made.images:
        assert edited.size == (size, size)
        assert np.array_equal(np.asarray(edited)[kept], np.asarray(image)[kept])
        assert not np.array_equal(np.asarray(edited)[~kept], np.asarray(image)[~kept])
    assert made.images[0].tobytes() != made.images[1].tobytes()


def test_transparency_white_and_transparent_masks_say_the_same(pipe: Pipeline) -> None:
    image, white = picture(), half_mask()
    opaque = Image.eval(white, lambda value: 255 - value)
    with_alpha = image.copy()
    with_alpha.putalpha(opaque)
    transparent = Image.new("RGBA", image.size, "black")
    transparent.putalpha(opaque)
    by_white, by_alpha, by_mask = (
        pipe.edit(shown, "a fox", mask, seed=3, repeats=1).images[0].tobytes()
        for shown, mask in ((image, white), (with_alpha, None), (image, transparent))
    )
    assert by_white == by_alpha == by_mask


def test_what_lies_below_the_mask_is_not_seen(pipe: Pipeline) -> None:
    image, mask = picture(256), half_mask(256)
    blackened = image.copy()
    blackened.paste((0, 0, 0), mask=mask)
    a, b = (pipe.edit(one, "a fox", mask, seed=3, repeats=1).images[0] for one in (image, blackened))
    assert a.tobytes() == b.tobytes()


def test_a_smaller_strength_stays_nearer_to_the_picture(pipe: Pipeline) -> None:
    image = picture()
    near, far = (
        pipe.edit(
            image, "a fox", strength=strength, seed=3, repeats=1, options={"decoder": {"steps": 10}}
        ).images[0]
        for strength in (0.1, 0.9)
    )
    assert psnr(near, image) > psnr(far, image)


def test_the_size_is_the_smallest_that_holds_the_picture(pipe: Pipeline) -> None:
    assert pipe.edit(picture(100), "a fox", half_mask(100), seed=1, repeats=1).images[0].size == (256, 256)
    assert pipe.edit(picture(100), "a fox", half_mask(100), seed=1, repeats=1, size=64).images[0].size == (
        64,
        64,
    )


def test_known_cells_are_means_of_kept_pixels_only() -> None:
    image = torch.zeros(1, 3, 4, 4)
    image[..., :2], image[..., 3] = 0.5, -1.0
    paint = torch.zeros(4, 4, dtype=torch.bool)
    paint[:, 3] = True
    known = known_at(2, image, paint)
    assert known.keep.tolist() == [[True, False], [True, False]]
    assert known.x0[0, 0].tolist() == [[0.5, 0.0], [0.5, 0.0]]


@pytest.mark.parametrize("to", [(96, 64), (64, 150), (128, 128), (640, 300)])
def test_outpainting_fills_the_canvas_and_keeps_the_picture(pipe: Pipeline, to: tuple[int, int]) -> None:
    image = picture()
    made = pipe.outpaint(image, "a fox", to, seed=1, repeats=1).images[0]
    left, top = (to[0] - 64) // 2, (to[1] - 64) // 2
    assert made.size == to
    assert np.array_equal(np.asarray(made)[top : top + 64, left : left + 64], np.asarray(image))
    assert (array(made)[:, :4].std(axis=(0, 1)) > 0).all()


def test_windows_cover_the_canvas_and_overlap() -> None:
    places = _windows(1536, 1100, 1024)
    seen = np.zeros((1100, 1536), dtype=int)
    for number, (left, top) in enumerate(places):
        part = seen[top : top + 1024, left : left + 1024]
        assert part.shape == (1024, 1024)
        assert number == 0 or (part > 0).mean() >= 0.5
        part += 1
    assert (seen > 0).all()


# --- bad input ---


def test_pictures_of_any_shape_and_mode_can_be_varied(pipe: Pipeline) -> None:
    image = picture()
    deep = Image.fromarray((array(image)[..., 0] * 257).astype(np.uint16))
    shapes = [image.resize((40, 90)), image.convert("CMYK"), image.convert("P"), deep]
    for one in shapes:
        assert pipe.vary(one, seed=1, size=64, options=FEW).images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("vary", {"eta": 1.5}, "eta"),
        ("vary", {"num_images": 0}, "at least 1"),
        ("vary", {"size": 65}, "size 65"),
        ("vary", {"options": {"decoder": {"sampler": "dpmpp_2m", "eta": 0}}, "eta": 0}, "only ddim"),
        ("vary", {"seed": [1, 2]}, "2 seeds for 1"),
        ("invert", {"evaluations": 0}, "evaluations"),
        ("diff", {"before": "a cat", "after": "a fox", "theta": 1.5}, "theta 1.5"),
        ("diff", {"before": "a cat", "after": "a fox", "theta": -0.1}, "theta -0.1"),
        ("diff", {"before": "a cat", "after": "a fox", "theta": float("nan")}, "theta nan"),
        ("diff", {"before": "a cat", "after": "a fox", "theta": []}, "no theta"),
        ("diff", {"before": "a cat", "after": "a cat"}, "the same"),
        ("diff", {"before": "", "after": " "}, "empty"),
        ("edit", {"prompt": "a fox"}, "nothing says what to paint"),
        ("edit", {"prompt": "a fox", "strength": 0}, "strength 0"),
        ("edit", {"prompt": "a fox", "strength": 0.5, "repeats": 0}, "repeats"),
        ("edit", {"prompt": "", "strength": 0.5}, "empty"),
        ("edit", {"prompt": "a fox", "mask": Image.new("L", (32, 64), 255)}, "32 × 64"),
        ("edit", {"prompt": "a fox", "mask": Image.new("L", (64, 64), 0)}, "keeps everything"),
        ("outpaint", {"prompt": "a fox", "to": (64, 64)}, "the picture itself"),
        ("outpaint", {"prompt": "a fox", "to": (32, 64)}, "smaller"),
        ("outpaint", {"prompt": "a fox", "to": (10**5, 10**5)}, "megapixels"),
    ],
)
def test_what_cannot_be_is_refused(
    pipe: Pipeline, verb: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        getattr(pipe, verb)(picture(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": ["a fox"]}, "at least two"),
        ({"keys": ["a fox", " "]}, "empty"),
        ({"keys": ["a fox", "a cat"], "weights": [1]}, "1 weights for 2"),
        ({"keys": ["a fox", "a cat"], "weights": [1, -1]}, "weight -1"),
        ({"keys": ["a fox", "a cat"], "weights": [1, float("nan")]}, "weight nan"),
        ({"keys": ["a fox", "a cat"], "weights": [0, 0]}, "all weights are 0"),
        ({"keys": ["a fox", "a cat"], "by": "product"}, "slerp"),
    ],
)
def test_what_cannot_be_mixed_is_refused(pipe: Pipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pipe.mix(**arguments)  # type: ignore[arg-type]


def test_an_edit_wants_a_possible_shape_and_an_interpolation_two_keys(pipe: Pipeline) -> None:
    with pytest.raises(
        RequestError, match="64 × 9 pixels, a shape that tiny does not make: crop it to .*outpaint"
    ):
        pipe.edit(picture().resize((64, 9)), "a fox", strength=0.5)
    with pytest.raises(RequestError, match="two"):
        pipe.interpolate([picture()])
    with pytest.raises(RequestError, match="frames"):
        pipe.interpolate([picture(), picture()], 1)


def test_a_mask_that_covers_all_paints_all(pipe: Pipeline) -> None:
    mask = Image.new("L", (64, 64), 255)
    assert read_mask(picture(), mask).all()  # type: ignore[union-attr]
    assert psnr(pipe.edit(picture(), "a fox", mask, seed=1, repeats=1).images[0], picture()) < 30


def test_a_clip_that_sees_nothing_still_edits(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(images: Tensor) -> Tensor:
        raise RequestError("tiny: has no image encoder")

    monkeypatch.setattr(pipe.clip, "encode_image", blind)
    pipe.edit(picture(), "a fox", half_mask(), seed=1, repeats=1)
    pipe.interpolate(["a cat", "a fox"], 2, seed=1, size=64, options=FEW)
    for call in (
        lambda: pipe.vary(picture()),
        lambda: pipe.diff(picture(), "", "a fox"),
        lambda: pipe.invert(picture()),
    ):
        with pytest.raises(RequestError, match="no image encoder"):
            call()
