"""All methods run stages the same way: offloaded or not, in each precision, from any stored precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unclip.diffusion.diffusion import Prediction
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import ddim
from unclip.diffusion.schedule import Schedule
from unclip.diffusion.trajectory import Trajectory
from unclip.files import read_weights
from unclip.pipeline import Generation, Pipeline, SamplingOptions
from unclip.stages import load_stage
from unclip.stages.prior_onepass import OnePassConfig, OnePassPrior

FEW = SamplingOptions(seed=3, size=64, stages={"decoder": {"steps": 2}})
SMALL = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
PICTURE = Image.fromarray(SMALL).resize((64, 64), Image.Resampling.BICUBIC)
MASK = Image.new("L", (64, 64))
MASK.paste(255, (32, 0, 64, 64))
Z_I = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

VERBS: dict[str, Callable[[Pipeline], Any]] = {
    "generate": lambda p: p("a cat", options=FEW),
    "sample_prior": lambda p: p.sample_prior("a cat", options=FEW),
    "decode": lambda p: p.decode(Z_I, options=FEW),
    "upsample": lambda p: p.upsample(PICTURE, seed=3, size=256),
    "vary": lambda p: p.vary(PICTURE, options=FEW),
    "vary from noise": lambda p: p.vary(PICTURE, fresh_noise=True, options=FEW),
    "interpolate": lambda p: p.interpolate([PICTURE, "a cat"], 2, options=FEW),
    "diff": lambda p: p.diff(PICTURE, "a cat", "a fox", 0.3, options=FEW),
    "mix": lambda p: p.mix(["a cat", PICTURE], options=FEW),
    "edit": lambda p: p.edit(PICTURE, "a fox", MASK, repeats=1, options=FEW),
    "edit at 256": lambda p: p.edit(PICTURE, "a fox", MASK, repeats=1, options=FEW, size=256),
    "outpaint": lambda p: p.outpaint(PICTURE, "a fox", (80, 64), repeats=1, options=FEW),
    "invert": lambda p: p.invert(PICTURE, options=FEW),
}


@pytest.fixture(scope="module")
def load(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    """Loads the tiny model, from files of a precision; each kind once."""
    half = tmp_path_factory.mktemp("half") / "tiny"
    shutil.copytree(tiny_model, half)
    for stage in ("prior", "decoder", "upsampler-256", "upsampler-1024"):
        load_stage(half / stage).save(half / stage, torch.float16)
        assert torch.float16 in {
            tensor.dtype for tensor in read_weights(half / stage / "model.safetensors").values()
        }
    folders = {torch.float32: tiny_model, torch.float16: half}

    @cache
    def loaded(stored: torch.dtype, dtype: torch.dtype | None, offload: bool) -> Pipeline:
        return Pipeline.from_pretrained(str(folders[stored]), device="cpu", dtype=dtype, offload=offload)

    return loaded


def numbers(made: Any) -> list[Tensor]:
    """All that a verb returns, as tensors."""
    if isinstance(made, Tensor):
        return [made]
    if isinstance(made, Generation):
        return [*(torch.from_numpy(np.array(image)) for image in made.images), made.image_embeds]
    return [made.image_embeds, made.noise]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16], ids=["of float32", "of float16"])
@pytest.mark.parametrize("verb", VERBS)
def test_offloading_changes_no_bit(
    load: Callable[..., Pipeline], verb: str, stored: torch.dtype, dtype: torch.dtype | None
) -> None:
    whole, offloaded = (numbers(VERBS[verb](load(stored, dtype, offload))) for offload in (False, True))
    for a, b in zip(whole, offloaded, strict=True):
        if stored == (dtype or torch.float32) and not torch.equal(a, b):
            # Weights that are used as they are stored stay memory-mapped, at addresses of any alignment,
            # where sums are rounded in another order.
            torch.testing.assert_close(
                a.float(), b.float(), rtol=1e-3, atol=1 if a.dtype == torch.uint8 else 1e-3
            )
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("verb", ["edit", "vary", "invert"])
def test_each_precision_is_seen_in_the_result(load: Callable[..., Pipeline], verb: str) -> None:
    """So that the test above can fail: float16, bfloat16 and float32 give different bits."""
    made = {
        dtype: numbers(VERBS[verb](load(torch.float16, dtype, False)))
        for dtype in (None, torch.bfloat16, torch.float16)
    }
    for a, b in ((None, torch.bfloat16), (None, torch.float16), (torch.bfloat16, torch.float16)):
        assert any(not torch.equal(x, y) for x, y in zip(made[a], made[b], strict=True))


def test_an_offloaded_prior_that_is_never_put_away_runs_as_asked(tiny_model: Path, tmp_path: Path) -> None:
    """Only diffusion stages are offloaded; the others must not stay in their file's precision."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    like = load_stage(model / "prior").config.model_dump()
    names = ("clip", "embed", "token_width", "context", "width", "depth", "heads")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        prior = OnePassPrior(OnePassConfig(**{name: like[name] for name in names}))
        for parameter in prior.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # the last layer starts at zero
    prior.save(model / "prior", torch.float16)
    whole, offloaded = (
        Pipeline.from_pretrained(str(model), device="cpu", offload=offload).sample_prior("a cat", seed=1)
        for offload in (False, True)
    )
    assert torch.equal(whole, offloaded)


def test_a_stage_is_in_place_for_every_step_of_every_verb(load: Callable[..., Pipeline]) -> None:
    pipe = load(torch.float16, None, True)
    seen: set[tuple[str, torch.dtype]] = set()

    def look(role: str, number: int, total: int, step: object) -> None:
        stage = pipe.stages["decoder" if role == "inversion" else role]
        seen.add((role, next(stage.network.parameters()).dtype))

    for call in (
        lambda: pipe.vary(PICTURE, options=FEW, on_step=look, size=256),
        lambda: pipe.edit(PICTURE, "a fox", MASK, options=FEW, on_step=look),
    ):
        call()
    assert seen == {(role, torch.float32) for role in ("inversion", "decoder", "upsampler-256", "prior")}


# --- trajectories ---


def denoise(x: Tensor, t: int) -> Prediction:
    alpha, sigma = Schedule.named("cosine").at(t)
    x0 = torch.tanh(x)
    return Prediction(x0, (x - alpha * x0) / sigma, 0.0)


def walk(trajectory: Trajectory, steps: int = 10) -> list[Any]:
    schedule = Schedule.named("cosine")
    return list(trajectory.walk(ddim, denoise, schedule, steps, SeededNoise([1, 2]), torch.empty(2, 3)))


@pytest.mark.parametrize(
    "trajectory",
    [
        Trajectory(),
        Trajectory(start=torch.ones(2, 3)),
        Trajectory(start=torch.ones(2, 3), evaluations=2),
        Trajectory(known=Known(torch.ones(1, 3), torch.tensor([True, False, True])), repeats=3),
        Trajectory(known=Known(torch.ones(1, 3), torch.tensor([True, False, True])), strength=0.4, repeats=2),
    ],
)
def test_a_trajectory_knows_its_length(trajectory: Trajectory) -> None:
    assert len(walk(trajectory)) == trajectory.length(Schedule.named("cosine"), 10)


def test_without_a_start_the_walk_begins_at_its_noise() -> None:
    start = SeededNoise([1, 2])(torch.empty(2, 3))
    assert torch.equal(walk(Trajectory())[-1].x, walk(Trajectory(start=start))[-1].x)


def test_the_way_back_and_forth_ends_where_it_began() -> None:
    data = torch.tensor([[0.5, -0.3, 0.1], [0.2, 0.7, -0.6]])
    noise = walk(Trajectory(start=data, evaluations=20), 50)[-1].x
    torch.testing.assert_close(walk(Trajectory(start=noise), 50)[-1].x, data, atol=1e-3, rtol=1e-3)


def test_a_smaller_strength_begins_nearer_to_the_data() -> None:
    known = Known(torch.full((2, 3), 0.9), torch.zeros(3, dtype=torch.bool))
    ends = [walk(Trajectory(known=known, strength=s))[0].t for s in (1.0, 0.5, 0.01)]
    assert ends == [999, 500, 10]
    *_, last = walk(Trajectory(known=Known(known.x0, torch.tensor([True, True, False])), strength=0.5))
    assert (last.x[:, :2] == 0.9).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 25, 999, 1000])
@pytest.mark.parametrize("strength", [0.001, 0.01, 0.5, 0.9, 0.99, 0.9999])
def test_even_few_steps_begin_where_the_strength_says(steps: int, strength: float) -> None:
    known = Known(torch.full((2, 3), 0.9), torch.zeros(3, dtype=torch.bool))
    times = [step.t for step in walk(Trajectory(known=known, strength=strength), steps)]
    assert times[0] == round(999 * strength) and times == sorted(set(times), reverse=True)
    assert times[-1] == 0 or len(times) == 1
    assert abs(len(times) - strength * steps) <= 1


def test_the_decoders_steps_are_counted_as_they_are_taken(load: Callable[..., Pipeline]) -> None:
    counted: list[tuple[int, int]] = []

    def count(role: str, number: int, total: int, step: object) -> None:
        if role == "decoder":
            counted.append((number, total))

    pipe, few = load(torch.float32, None, False), {"decoder": {"steps": 10}}
    pipe.edit(PICTURE, "a fox", strength=0.5, repeats=2, seed=1, options=few, on_step=count)
    assert counted == [(i, 10) for i in range(1, 11)]  # half of the steps, each twice
