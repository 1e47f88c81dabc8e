"""Samplers step by step against diffusers' schedulers, on the same tables, times, outputs and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.diffusion import Diffusion, DiffusionConfig
from unclip.diffusion.samplers import Step, find_sampler
from unclip.diffusion.schedule import BETAS

declare_missing_schemas()
schedulers = pytest.importorskip("diffusers.schedulers")

PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
EXACT: Any = {"rtol": 0, "atol": 1e-9}


def network(x: Tensor, t: Tensor, *, learned: bool = False) -> Tensor:
    """Arbitrary, smooth and not linear; reacts to the time."""
    time = t.to(x).view(-1, *[1] * (x.ndim - 1)) / 1000
    mean = torch.tanh(x.roll(1, -1) + 0.5 * x - time)
    return torch.cat([mean, torch.sin(3 * x + time)], dim=1) if learned else mean


def noise_source() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(3)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def start() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ours(name: str, config: DiffusionConfig, times: list[int], eta: float = 0.0) -> list[Step]:
    process = Diffusion(config)
    denoise = process.denoiser(lambda x, t: network(x, t, learned=process.learned), {})
    return list(find_sampler(name, eta)(denoise, start(), process.schedule, times, noise_source()))


def in_double(scheduler: Any, schedule: str) -> Any:
    """diffusers keeps its tables in float32; with ours, differences are those of the formulas alone."""
    scheduler.betas = BETAS[schedule](1000)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def output_at(x: Tensor, t: int, *, learned: bool = False) -> Tensor:
    return network(x, torch.full((len(x),), t), learned=learned)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_diffusers_has_our_betas(schedule: str) -> None:
    name = {"cosine": "squaredcos_cap_v2", "linear": "linear"}[schedule]
    theirs = schedulers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=name).betas
    torch.testing.assert_close(theirs.double(), BETAS[schedule](1000), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("steps", [2, 7, 25, 50, 1000])
def test_grid_is_unclips(steps: int) -> None:
    scheduler = schedulers.UnCLIPScheduler()
    scheduler.set_timesteps(steps)
    assert Diffusion(DiffusionConfig()).schedule.grid(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("clamp", [None, 1.0])
def test_ddim(predict: str, eta: float, schedule: str, clamp: float | None) -> None:
    steps = 20
    times = list(
        range(999, -1, -1000 // steps)
    )  # their "trailing" spacing: the previous time is one stride below
    scheduler = in_double(
        schedulers.DDIMScheduler(prediction_type=PREDICTION[predict], clip_sample=clamp is not None), schedule
    )
    scheduler.set_timesteps(steps)
    x, noise = start(), noise_source()
    for step in ours("ddim", DiffusionConfig(schedule=schedule, predict=predict, clamp=clamp), times, eta):
        fresh = noise(x) if eta and step.t != times[-1] else torch.zeros_like(x)
        theirs = scheduler.step(
            output_at(x, step.t),
            step.t,
            x,
            eta=eta,
            variance_noise=fresh,
            use_clipped_model_output=clamp is not None,
        )
        x = theirs.prev_sample
        torch.testing.assert_close(step.x0, theirs.pred_original_sample, **EXACT)
        torch.testing.assert_close(step.x, x, **EXACT)


@pytest.mark.parametrize(
    ("variance", "theirs"),
    [("fixed_small", "fixed_small"), ("fixed_large", "fixed_large"), ("learned", "learned_range")],
)
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("steps", [7, 50])
def test_ddpm(variance: str, theirs: str, predict: str, steps: int) -> None:
    config = DiffusionConfig(schedule="linear", predict=predict, variance=variance)
    times = Diffusion(config).schedule.grid(steps)
    scheduler = in_double(
        schedulers.DDPMScheduler(variance_type=theirs, prediction_type=PREDICTION[predict]), "linear"
    )
    scheduler.set_timesteps(timesteps=times)
    x, generator = start(), torch.Generator().manual_seed(3)
    for step in ours("ddpm", config, times):
        x = scheduler.step(
            output_at(x, step.t, learned=variance == "learned"), step.t, x, generator=generator
        ).prev_sample
        torch.testing.assert_close(step.x, x, **EXACT)


@pytest.mark.parametrize(
    ("variance", "theirs"), [("fixed_small", "fixed_small_log"), ("learned", "learned_range")]
)
@pytest.mark.parametrize("predict", ["eps", "x0"])
@pytest.mark.parametrize("steps", [7, 25, 50])
def test_karlos_sampler(variance: str, theirs: str, predict: str, steps: int) -> None:
    config = DiffusionConfig(predict=predict, variance=variance, clamp=5.0)
    times = Diffusion(config).schedule.grid(steps)
    scheduler = in_double(
        schedulers.UnCLIPScheduler(
            variance_type=theirs, prediction_type=PREDICTION[predict], clip_sample_range=5.0
        ),
        "cosine",
    )
    x, generator = start(), torch.Generator().manual_seed(3)
    for step, previous in zip(ours("ddpm", config, times), [*times[1:], None], strict=True):
        output = output_at(x, step.t, learned=variance == "learned")
        x = scheduler.step(output, step.t, x, prev_timestep=previous, generator=generator).prev_sample
        torch.testing.assert_close(step.x, x, **EXACT)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers' own, of numpy 2
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("steps", [5, 10, 25])
def test_dpm_solver(predict: str, steps: int) -> None:
    config = DiffusionConfig(schedule="linear", predict=predict, clamp=None)
    times = Diffusion(config).schedule.grid(steps)
    scheduler = schedulers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        prediction_type=PREDICTION[predict],
        trained_betas=BETAS["linear"](1000).numpy(),
    )
    scheduler.set_timesteps(timesteps=times)
    assert scheduler.timesteps.tolist() == times
    x = start()
    for step in ours("dpmpp_2m", config, times):
        x = scheduler.step(output_at(x, step.t), step.t, x).prev_sample
        torch.testing.assert_close(step.x, x, rtol=1e-5, atol=2e-4)  # theirs computes in float32


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 25])
def test_unipc(predict: str, steps: int) -> None:
    config = DiffusionConfig(schedule="linear", predict=predict, clamp=None)
    times = Diffusion(config).schedule.grid(steps)
    scheduler = schedulers.UniPCMultistepScheduler(
        solver_order=2, solver_type="bh2", prediction_type=PREDICTION[predict], final_sigmas_type="zero"
    )
    in_double(scheduler, "linear")
    scheduler.set_timesteps(steps)
    sigmas = [((1 - a) / a) ** 0.5 for a in scheduler.alphas_cumprod[times].tolist()]
    scheduler.timesteps, scheduler.sigmas = (
        torch.tensor(times),
        torch.tensor([*sigmas, 0.0], dtype=torch.float64),
    )
    x = start()
    for step in ours("unipc", config, times):
        x = scheduler.step(output_at(x, step.t), step.t, x).prev_sample
        torch.testing.assert_close(step.x, x, rtol=0, atol=1e-6)  # theirs keeps its weights in float32
