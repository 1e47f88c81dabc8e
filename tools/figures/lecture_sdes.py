"""Figures of the lecture on continuous time (Song et al. 2021)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from lecture_toys import BATCH, mode_terms, modes, rolled, train
from matplotlib.figure import Figure
from torch import Tensor, nn

from unclip.diffusion.flow import exact_divergence, flow, log_likelihood
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.sde import SDES, VP, Score, Sde, at, guided, sample, score_matching, score_of
from unclip.nn.mlp import TimestepMlp


def sdes(args: argparse.Namespace) -> Figure:
    """Trajectories to two modes by the reverse SDE and the probability flow, for three SDEs."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for panel, (name, process) in zip(figure.subplots(1, 3), SDES.items(), strict=True):
        sde = process()
        score = modes(sde)
        x = sde.prior_std * torch.linspace(-1.8, 1.8, 9, dtype=torch.float64)[:, None]
        walk = [
            (1.0, x),
            *((step.t, step.x) for step in sample(sde, score, x, SeededNoise(range(9)), steps=300)),
        ]
        panel.plot(
            [t for t, _ in walk], [x[:, 0].tolist() for _, x in walk], color="tab:red", lw=0.5, alpha=0.7
        )
        times = torch.linspace(1, sde.end, 60).tolist()
        line = [x]
        for start, stop in pairwise(times):
            line.append(flow(sde, score, line[-1], start=start, stop=stop)[0])
        panel.plot(times, [x[:, 0].tolist() for x in line], color="black", lw=1)
        panel.set_title(name)
        panel.set_yscale("symlog" if sde.prior_std > 1 else "linear")
        panel.set_xlabel("t")
        panel.invert_xaxis()
        data = torch.tensor([[-1.0], [1.2], [0.1]], dtype=torch.float64)
        found, _ = log_likelihood(sde, score, data, exact_divergence)
        true = mode_terms(sde, data, at(0.0, data)).logsumexp(1)
        print(f"{name}: log p(x) off by {(found - true).abs().max() / math.log(2):.4f} bits at most")
    return figure


def control(args: argparse.Namespace) -> Figure:
    """A score learned from the Swiss roll, used for inpainting and for classifier guidance."""
    sde = VP()
    network = TimestepMlp(2, 2)
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        x0 = rolled(BATCH, generator)
        t = sde.end + (1 - sde.end) * torch.rand(BATCH, generator=generator)
        return score_matching(sde, network, x0, {}, t, torch.randn(x0.shape, generator=generator))

    train(network, loss, args.training)
    classifier = TimestepMlp(2, 1)

    def judged() -> Tensor:
        x0 = rolled(BATCH, generator)
        t = torch.rand(BATCH, generator=generator)
        logits = classifier(sde.perturb(x0, t, torch.randn(x0.shape, generator=generator)), t)[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(
            logits, (x0.norm(dim=1) < 1).float(), reduction="none"
        )

    train(classifier, judged, args.training // 4)
    score = score_of(sde, network)
    inner = guided(score, lambda x, t: nn.functional.logsigmoid(classifier(x, t)[:, 0]))
    known = Known(torch.tensor([[0.5, 0.0]]), torch.tensor([True, False]))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "predictor only": lambda x: last(sde, score, x, steps=150),
        "predictor–corrector": lambda x: last(sde, score, x, steps=150, corrections=1),
        "probability flow": lambda x: flow(sde, score, x, start=1.0, stop=sde.end)[0],
        "x = ½ known": lambda x: last(sde, score, x, steps=150, corrections=1, known=known),
        "class: inner half": lambda x: last(sde, inner, x, steps=150),
    }
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for panel, (name, way) in zip(figure.subplots(1, 5, sharex=True, sharey=True), ways.items(), strict=True):
        x = torch.randn(800, 2, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            panel.scatter(*way(x).T.tolist(), s=2, alpha=0.5)
        panel.set_title(name, fontsize=9)
        panel.set_xlim(-2.2, 2.2)
        panel.set_ylim(-2.2, 2.2)
    return figure


def last(sde: Sde, score: Score, x: Tensor, **options: object) -> Tensor:
    generator = torch.Generator().manual_seed(4)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    *_, end = sample(sde, score, x, noise, **options)  # type: ignore[arg-type]
    return end.x
