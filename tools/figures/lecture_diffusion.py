"""Figures of the lecture on discrete time: Sohl-Dickstein et al. 2015 and Ho et al. 2020."""

from __future__ import annotations

import argparse
import math

import torch
from lecture_toys import BATCH, noise_bits, rolled, train
from matplotlib.figure import Figure
from torch import Tensor

from unclip.diffusion.chains import BinomialChain, GaussianChain
from unclip.diffusion.diffusion import Diffusion, DiffusionConfig
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import ddpm
from unclip.diffusion.schedule import CLEAN, Schedule
from unclip.nn.mlp import TimestepMlp
from unclip.pipeline.slerp import slerp

POINTS = 1500
BEAT = 5  # every fifth bit is 1


def swiss_roll(args: argparse.Namespace) -> Figure:
    """Figure 1 of the paper: forward process, reverse process and drift."""
    chain = GaussianChain(Schedule.named("cosine", 40))
    network = TimestepMlp(2, 4, times=40)
    reverse = chain.reverse(network)
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        x0 = rolled(BATCH, generator)
        t = torch.randint(40, (BATCH,), generator=generator)
        return chain.term(reverse, x0, t, torch.randn(x0.shape, generator=generator))

    train(network, loss, args.training)
    x0 = rolled(POINTS, generator)
    bits = chain.bound(reverse, x0, lambda like: torch.randn(like.shape, generator=generator))
    print(
        f"swiss roll: {bits.mean():.2f} ± {1.96 * bits.std() / POINTS**0.5:.2f} bits at most; noise alone "
        f"{noise_bits(x0):.2f}"
    )
    states = list(
        chain.walk(
            reverse,
            torch.randn(x0.shape, generator=generator),
            lambda like: torch.randn(like.shape, generator=generator),
        )
    )
    figure = Figure(figsize=(8, 8), layout="constrained")
    panels = figure.subplots(3, 3, sharex=True, sharey=True)
    for column, t in enumerate((0, 5, 39)):
        alpha, sigma = chain.schedule.at(t if t else CLEAN)
        forward = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
        for row, points in enumerate((forward, states[39 - t])):
            panels[row][column].scatter(
                *points.T.tolist(), s=2, alpha=0.5, color=("tab:blue", "tab:red")[row]
            )
        axis = torch.linspace(-2, 2, 17)
        field = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            drift = reverse(field, torch.full((len(field),), t)).mean - field
        panels[2][column].quiver(*field.T.tolist(), *drift.T.tolist(), angles="xy")
        panels[0][column].set_title(f"t = {t}" if t else "t = 0, data")
    for row, label in enumerate(("forward: q(x_t)", "reverse: p(x_t)", "drift: μ(x, t) − x")):
        panels[row][0].set_ylabel(label)
    panels[0][0].set_xlim(-2.2, 2.2)
    panels[0][0].set_ylim(-2.2, 2.2)
    return figure


def heartbeat(args: argparse.Namespace) -> Figure:
    """Binomial diffusion of bit strings whose every fifth bit is 1, in five phases."""
    chain = BinomialChain(200)
    network = TimestepMlp(20, 20, times=200)
    reverse = chain.reverse(lambda x, t: network(x, t).sigmoid())
    generator = torch.Generator().manual_seed(0)
    beats = (torch.arange(20)[None] % BEAT == torch.arange(BEAT)[:, None]).float()

    def loss() -> Tensor:
        x0 = beats[torch.randint(BEAT, (BATCH,), generator=generator)]
        t = torch.randint(200, (BATCH,), generator=generator)
        return chain.term(reverse, x0, t, torch.rand(x0.shape, generator=generator))

    train(network, loss, args.training // 4)
    bits = chain.bound(reverse, beats.repeat(100, 1), generator)
    drawn = list(chain.walk(reverse, torch.randint(2, (BATCH, 20), generator=generator).float(), generator))
    true = (drawn[-1][:, None] == beats).all(2).any(1).float().mean()
    print(
        f"heartbeat: {bits.mean():.3f} bits at most, of which log2 5 = {math.log2(5):.3f}; {100 * true:.1f} "
        "% are beats"
    )
    figure = Figure(figsize=(8, 3), layout="constrained")
    for panel, number in zip(figure.subplots(1, 4, sharey=True), (0, 100, 160, 199), strict=True):
        panel.imshow(drawn[number][:30].numpy(), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        panel.set_title(f"x_t at t = {199 - number}" if number < 199 else "x_0")
    return figure


def algorithms(args: argparse.Namespace) -> Figure:
    """DDPM's algorithms 1 and 2 on the Swiss roll: ε-prediction, T = 1000, fixed variance; and x̂_0."""
    diffusion = Diffusion(DiffusionConfig(schedule="linear", clamp=None))
    network = TimestepMlp(2, 2, times=1000)
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        t = torch.randint(1000, (BATCH,), generator=generator)
        x0 = rolled(BATCH, generator)
        return diffusion.loss(network, x0, {}, t, torch.randn(x0.shape, generator=generator))

    train(network, loss, args.training)
    x = torch.randn(POINTS, 2, generator=generator)
    with torch.inference_mode():
        denoise = diffusion.denoiser(network, {})
        steps = {
            step.t: step
            for step in ddpm(
                denoise,
                x,
                diffusion.schedule,
                diffusion.schedule.grid(1000),
                lambda like: torch.randn(like.shape, generator=generator),
            )
        }
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True)
    for column, t in enumerate((999, 500, 200, 50, 0)):
        panels[0][column].scatter(*steps[t].x.T.tolist(), s=2, alpha=0.5)
        panels[1][column].scatter(*steps[t].x0.T.tolist(), s=2, alpha=0.5, color="tab:green")
        panels[0][column].set_title(f"t = {t}")
    panels[0][0].set_ylabel("x_t")
    panels[1][0].set_ylabel("x̂_0: progressive")
    panels[0][0].set_xlim(-3, 3)
    panels[0][0].set_ylim(-3, 3)
    return figure


def mix(args: argparse.Namespace) -> Figure:
    """The norm of interpolated noise: linear interpolation, as on the slide, reduces it; slerp does not."""
    a, b = (SeededNoise([seed])(torch.empty(1, 3, 64, 64)) for seed in (1, 2))
    lambdas = [i / 20 for i in range(21)]
    length = math.sqrt(a.numel())
    straight = [(part * b + (1 - part) * a).norm().item() / length for part in lambdas]
    arc = [slerp(a, b, part).norm().item() / length for part in lambdas]
    print(f"mix: at λ = 1/2 the slide's formula keeps {straight[10]:.3f} of the norm, slerp {arc[10]:.3f}")
    figure = Figure(figsize=(5, 3), layout="constrained")
    panel = figure.subplots()
    panel.plot(lambdas, straight, label="λ x_r + (1 − λ) x_l")
    panel.plot(lambdas, arc, label="slerp(x_l, x_r, λ)")
    panel.set_xlabel("λ")
    panel.set_ylabel("norm / √dimensions")
    panel.legend()
    return figure
