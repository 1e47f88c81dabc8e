"""Images that are not square: which sizes a model makes, every verb at such a size, and latent decoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.clip import Text
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.diffusion.trajectory import FROM_NOISE, Trajectory
from unclip.errors import RequestError
from unclip.images import centre_crop
from unclip.nn.config import UNetConfig
from unclip.pipeline import Generation, Pipeline
from unclip.pipeline.model import size_grid
from unclip.pipeline.sizes import Size, SizeGrid, parse_size
from unclip.stages.config import SamplingConfig
from unclip.stages.decoder import Decoder
from unclip.stages.upsampler import Upsampler, UpsamplerConfig

MINI = SizeGrid("mini", {64: 8, 256: 8, 1024: 32}, (64, 256, 1024))
WIDE = Image.radial_gradient("L").resize((96, 64)).convert("RGB")


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


class LatentDecoder(Decoder):
    """The tiny decoder over latents of half the side: means of 2 × 2 pixels."""

    flexible = True

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return 3, size[1] // 2, size[0] // 2

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 2)

    def render(self, x0: Tensor) -> Tensor:
        return F.interpolate(x0, scale_factor=2, mode="nearest")

    def encode_known(self, known: Known) -> Known:
        keep = F.avg_pool2d(known.keep.float().expand(1, 1, *known.x0.shape[2:]), 2) == 1
        return Known(self.encode(known.x0), keep)

    def sample(
        self,
        image_embed: Tensor,
        text: Text,
        null: Text,
        options: SamplingConfig,
        noise: SeededNoise,
        trajectory: Trajectory = FROM_NOISE,
        *,
        size: tuple[int, int] | None = None,
        null_embed: Tensor | None = None,
    ) -> Iterator[Step]:
        width, height = size or (self.size, self.size)
        small = (width // 2, height // 2)
        shape = (len(image_embed), 3, small[1], small[0])
        cond, null_cond = self.conditions(image_embed, text, null, trajectory.known, shape)
        return self.walk(shape, cond, null_cond, options, noise, trajectory)


@pytest.fixture(scope="module")
def latent(tiny_model: Path) -> Pipeline:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    pipe.upsamplers = ()
    decoder = LatentDecoder(pipe.decoder.config)
    decoder.load_state_dict(pipe.decoder.state_dict())
    decoder.size, decoder.unit = 128, 8
    pipe.decoder = decoder.eval()
    return pipe


@pytest.mark.parametrize(
    ("given", "size"),
    [(64, (64, 64)), ("64", (64, 64)), ("96x64", (96, 64)), ("96×64", (96, 64)), ((96, 64), (96, 64))],
)
def test_sizes_are_read_in_one_way(given: int | str | tuple[int, int], size: tuple[int, int]) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize("given", ["", "x", "64x", "-64", "6.4", "1x2x3", "wide", (64,), (64.0, 64), None])
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(RequestError, match="write WIDTHxHEIGHT"):
        parse_size(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "side", "at_64"),
    [
        ((1024, 768), 1024, (64, 48)),
        ((1792, 1024), 1024, (112, 64)),
        ((1024, 1792), 1024, (64, 112)),
        ((384, 256), 256, (96, 64)),
        ((96, 64), 64, (96, 64)),
    ],
)
def test_a_size_belongs_to_the_stage_with_the_nearest_square(
    size: tuple[int, int], side: int, at_64: tuple[int, int]
) -> None:
    assert MINI.side(Size(*size)) == side
    assert MINI.at(Size(*size), 64) == at_64


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1000, 768), "1024x768"),
        ((1000, 1000), "1024"),
        ((3000, 2000), "1536x1024"),
        ((640, 480), "1024x768"),
        ((9000, 100), "384x96"),
    ],
)
def test_the_nearest_size_has_the_shape_that_was_wished(size: tuple[int, int], nearest: str) -> None:
    assert MINI.side(Size(*size)) is None
    found = MINI.nearest(size)
    assert MINI.side(found) is not None
    assert str(found) == nearest


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((64, 64), (64, 64)),
        ((100, 100), (256, 256)),
        ((5000, 5000), (1024, 1024)),
        ((640, 480), (1024, 768)),
        ((1920, 1080), (1792, 1024)),  # 1.6 % narrower
        ((640, 50), None),
    ],
)
def test_an_edit_has_the_smallest_size_that_holds_the_picture(
    picture: tuple[int, int], size: tuple[int, int] | None
) -> None:
    assert MINI.holding(picture) == size


def test_a_flexible_decoder_makes_every_multiple_of_its_unit() -> None:
    grid = SizeGrid("wide", {512: 64}, (512,), flexible=True)
    for size in ((512, 512), (640, 640), (768, 576), (1024, 1024), (1024, 256)):
        assert grid.side(Size(*size)) == 512
    for size in ((500, 500), (1280, 1024), (1024, 192), (0, 64)):
        assert grid.side(Size(*size)) is None
    assert grid.holding((100, 100)) == (384, 384)  # not 128 × 128, far below its training
    with pytest.raises(RequestError, match="size 500: wide .* in steps of 64 pixels.* is 512"):
        grid.check(Size(500, 500))


def test_impossible_sizes_name_the_nearest(pipe: Pipeline) -> None:
    for size in ("1000x768", (1000, 768)):
        with pytest.raises(RequestError, match="size 1000x768: tiny makes squares of .* is 1088x832"):
            pipe("a cat", size=size)
    with pytest.raises(RequestError, match="size 100: tiny makes pictures of 64, 256, 1024 pixels"):
        pipe("a cat", size="100")


@pytest.mark.parametrize("wide", [True, False])
def test_every_stage_has_the_shape(pipe: Pipeline, wide: bool) -> None:
    turned = (lambda size: size) if wide else (lambda size: size[::-1])
    made = pipe(["a cat", "a dog"], seed=1, size=turned((384, 256)), keep_stages=True)
    assert [one.size for one in (made.images[1], made.stages[64][1])] == [
        turned((384, 256)),
        turned((96, 64)),
    ]
    assert made.settings[0]["size"] == ("384x256" if wide else "256x384")
    (alone,) = pipe("a dog", seed=1, size=turned((384, 256))).images
    assert np.abs(np.int16(alone) - np.int16(made.images[1])).max() <= 1


def test_squares_are_as_before_in_all_spellings(pipe: Pipeline) -> None:
    made = [pipe("a cat", seed=3, size=size) for size in (64, "64", "64x64", (64, 64))]
    assert len({one.images[0].tobytes() for one in made}) == 1
    assert all(one.settings[0]["size"] == 64 for one in made)


FEW = {"decoder": {"steps": 2}}


def inverted(p: Pipeline, size: tuple[int, int]) -> Generation:
    return p.vary(p.invert(WIDE, size=size, options=FEW), eta=0.0, seed=1, size=size, options=FEW)


VERBS: dict[str, Callable[[Pipeline, tuple[int, int]], Generation]] = {
    "generate": lambda p, size: p("a cat", seed=1, size=size),
    "decode": lambda p, size: p.decode(p.sample_prior("a cat", seed=1), seed=1, size=size),
    "vary": lambda p, size: p.vary(WIDE, seed=1, size=size, options=FEW),
    "vary fresh": lambda p, size: p.vary(WIDE, fresh_noise=True, seed=1, size=size),
    "vary inverted": inverted,
    "interpolate": lambda p, size: p.interpolate([WIDE, "a cat"], 2, seed=1, size=size, options=FEW),
    "mix": lambda p, size: p.mix([WIDE, "a cat"], seed=1, size=size),
    "diff": lambda p, size: p.diff(WIDE, "a cat", "a dog", 0.5, seed=1, size=size, options=FEW),
    "edit": lambda p, size: p.edit(WIDE.resize(size), "a fox", half(size), seed=1, repeats=1),
}


def half(size: tuple[int, int]) -> Image.Image:
    """A mask of the right half of a picture."""
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("size", [(96, 64), (64, 96)])
def test_every_verb_makes_the_shape(pipe: Pipeline, verb: str, size: tuple[int, int]) -> None:
    made = VERBS[verb](pipe, size)
    assert {one.size for one in made.images} == {size}
    assert made.settings[0]["size"] == f"{size[0]}x{size[1]}"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("size", [(192, 96), (128, 128)])
def test_every_verb_works_over_latents(latent: Pipeline, verb: str, size: tuple[int, int]) -> None:
    made = VERBS[verb](latent, size)
    assert {one.size for one in made.images} == {size}


def test_an_edit_keeps_the_pixels_of_a_wide_picture(pipe: Pipeline) -> None:
    picture = WIDE.resize((384, 256))
    made = pipe.edit(picture, "a fox", half(picture.size), seed=1, repeats=1, keep_stages=True)
    assert np.array_equal(np.asarray(made.images[0])[:, :192], np.asarray(picture)[:, :192])
    assert not np.array_equal(np.asarray(made.images[0])[:, 192:], np.asarray(picture)[:, 192:])
    assert made.stages[64][0].size == (96, 64)
    assert made.painted is not None and made.painted.shape == (256, 384)


def test_an_edit_over_latents_keeps_pixels_too(latent: Pipeline) -> None:
    picture = WIDE.resize((192, 128))
    made = latent.edit(picture, "a fox", half(picture.size), seed=1, repeats=1)
    assert np.array_equal(np.asarray(made.images[0])[:, :96], np.asarray(picture)[:, :96])


def test_latents_are_inverted_and_decoded_again(latent: Pipeline) -> None:
    found = latent.invert(WIDE, size=(192, 128), options=FEW)
    assert found.noise.shape == (1, 3, 64, 96)
    assert latent.vary(found, eta=0.0, size=(192, 128), options=FEW).images[0].size == (192, 128)
    with pytest.raises(RequestError, match="invert at the same size"):
        latent.vary(found, eta=0.0, size=(128, 128), options=FEW)


def test_an_edit_of_another_shape_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="96 × 64 pixels, another shape than the result: crop it"):
        pipe.edit(WIDE, "a fox", strength=0.5, size=64)


def test_upsampling_takes_the_middle_of_the_shape(pipe: Pipeline) -> None:
    made = pipe.upsample(WIDE.resize((200, 100)), seed=1, size="384x256")
    again = pipe.upsample(centre_crop(WIDE.resize((200, 100)), (3, 2)), seed=1, size="384x256")
    assert made.images[0].size == (384, 256)
    assert made.images[0].tobytes() == again.images[0].tobytes()
    assert pipe.upsample(WIDE.resize((200, 100)), seed=1, size=256).images[0].size == (256, 256)


def test_a_model_that_ends_at_256_resamples_rectangles(tiny_model: Path) -> None:
    medium = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    medium.upsamplers = medium.upsamplers[:1]
    made = medium("a cat", seed=1, size="1024x768", keep_stages=True)
    assert made.images[0].size == (1024, 768) and made.stages[256][0].size == (256, 192)
    assert made.settings[0]["lanczos_from"] == 256


def test_outpainting_works_over_latents(latent: Pipeline) -> None:
    made = latent.outpaint(WIDE, "a fox", (160, 128), seed=1, repeats=1)
    assert made.images[0].size == (160, 128)


def test_the_grid_of_a_model_reads_its_networks(pipe: Pipeline, latent: Pipeline) -> None:
    assert [size_grid(pipe).step(side) for side in pipe.sizes] == [4, 16, 64]
    assert size_grid(latent).step(128) == 8 and size_grid(latent).flexible


def test_karlos_upsampler_makes_rectangles() -> None:
    unet = UNetConfig(channels=32, multipliers=(1, 1), depth=1)
    upsampler = Upsampler(UpsamplerConfig(size=32, unet=unet, catmull_rom=True, expert=True)).eval()
    low, options = torch.zeros(2, 3, 8, 12), SamplingConfig(steps=2)
    with torch.inference_mode():
        *_, last = upsampler.sample(low, options, SeededNoise([1, 2]), size=(48, 32))
    assert last.x.shape == (2, 3, 32, 48)
