"""Makes every figure of docs/explanation/lecture.md.

python tools/figures/lecture.py
python tools/figures/lecture.py --only swiss-roll
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from unclip.clip import encode_pictures
from unclip.diffusion.chains import BinomialChain, GaussianChain
from unclip.diffusion.diffusion import Diffusion, DiffusionConfig
from unclip.diffusion.flow import exact_divergence, flow, log_likelihood
from unclip.diffusion.inpainting import Known
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import ddpm
from unclip.diffusion.schedule import CLEAN, Schedule
from unclip.diffusion.sde import SDES, VP, Score, Sde, at, guided, sample, score_matching, score_of
from unclip.evaluate.recognition import name_embeddings
from unclip.images import grid
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import Scene
from unclip.nn.mlp import TimestepMlp
from unclip.pipeline import Pipeline
from unclip.pipeline.slerp import slerp

BATCH = 512
POINTS = 1500
BEAT = 5  # every fifth bit is 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(FIGURES), help="one figure instead of all")
    parser.add_argument("--out", type=Path, default=Path("docs/images/lecture"))
    parser.add_argument("--model", default="mini", help="that paints the last ones")
    parser.add_argument(
        "--training",
        type=int,
        default=4000,
        help="steps of the swiss roll's networks; the others learn sooner",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, make in FIGURES.items():
        if args.only in (None, name):
            start = time.process_time()
            made = make(args)
            path = args.out / f"{name}.webp"
            if isinstance(made, Figure):
                made.savefig(path, dpi=80, pil_kwargs={"quality": 85})
            else:
                made.save(path, quality=85)
            print(f"{path}: {time.process_time() - start:.0f} s of CPU", flush=True)


# --- 2015 ---


def swiss_roll(args: argparse.Namespace) -> Figure:
    """The paper's Figure 1: forward, reverse, and how far each step's mean moves a point."""
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
    """Bits of which every fifth is 1, in five phases: the way back from fair coins."""
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


# --- 2020 ---


def algorithms(args: argparse.Namespace) -> Figure:
    """DDPM's algorithms 1 and 2 on the swiss roll: ε-prediction, T = 1000, fixed variance; and x̂_0 on the
    way.
    """
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
    """The norm of mixed noise: the slide's λ-formula loses it, slerp does not."""
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


# --- 2021 ---


def sdes(args: argparse.Namespace) -> Figure:
    """Paths from the prior to two modes, by the reverse SDE and by the flow, under the three processes."""
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
    """A score learned from the swiss roll, then one coordinate known, then a class asked for: the roll's
    inner half.
    """
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
    *_, end = sample(sde, score, x, lambda like: torch.randn(like.shape, generator=generator), **options)  # type: ignore[arg-type]
    return end.x


# --- CLIP and DALL·E 2 ---


def clip(args: argparse.Namespace) -> Figure:
    """The slide's matrix: cosines of pictures and captions, whose largest entry names each picture."""
    encoder = Pipeline.from_pretrained(args.model).clip
    names = ["astronaut", "teddy bear", "panda", "shiba inu", "cat", "koala"]
    pictures = [portrait(name) for name in names]
    with torch.inference_mode():
        z_i = nn.functional.normalize(encode_pictures(encoder, pictures).float(), dim=1)
    cosines = z_i @ name_embeddings(encoder, names).T
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    panel = figure.subplots()
    panel.imshow(cosines.numpy())
    panel.set_xticks(range(6), [f"a {name}" for name in names], rotation=30, ha="right")
    panel.set_yticks(range(6), [f"picture: {name}" for name in names])
    for row, values in enumerate(cosines.tolist()):
        for column, value in enumerate(values):
            panel.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="white" if value < 0.4 else "black",
            )
    print(f"clip: {(cosines.argmax(1) == torch.arange(6)).sum()} of 6 called by their name")
    return figure


def prompts(args: argparse.Namespace) -> Image.Image:
    """The slide's grid: a subject in each row, an activity in each column, three styles from left to
    right.
    """
    styles = ["pop art of", "a pencil drawing of", "a watercolour of"]
    captions = [
        f"{style} {subject} {activity} in space"
        for subject in ("an astronaut", "a teddy bear", "a panda")
        for style in styles
        for activity in ("riding a skateboard", "playing a guitar", "reading a book")
    ]
    made = Pipeline.from_pretrained(args.model).generate(
        captions, seeds=list(range(len(captions))), size=64, watermark=False
    )
    return grid([image.resize((96, 96), Image.Resampling.LANCZOS) for image in made.images], columns=9)


def between(args: argparse.Namespace) -> Image.Image:
    """The slide's interpolation: the decoder on slerps of two image embeddings."""
    pipe = Pipeline.from_pretrained(args.model)
    rows = []
    for left, right in (("astronaut", "teddy bear"), ("panda", "shiba inu")):
        ends = [portrait(name) for name in (left, right)]
        made = pipe.interpolate(ends, frames=7, seed=1, size=64, options={"decoder": {"steps": 10}})
        rows += [image.resize((96, 96), Image.Resampling.LANCZOS) for image in made.images]
    return grid(rows, columns=7)


# --- what they share ---


def portrait(subject: str) -> Image.Image:
    """A rendering of a subject with nothing about it."""
    nothing: dict[str, None] = dict.fromkeys(
        ("headwear", "headwear_colour", "garment", "garment_colour", "activity", "setting_colour")
    )
    return draw(Scene(subject=subject, setting="meadow", style="flat illustration", pose=1, **nothing), 64)


def rolled(count: int, generator: torch.Generator) -> Tensor:
    """Points of a swiss roll about as wide as the noise, [count, 2]."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
    roll = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) / 8
    return roll + 0.03 * torch.randn(count, 2, generator=generator)


def noise_bits(x0: Tensor) -> float:
    """−log2 of the points' density under N(0, 1): a model that has learned nothing."""
    return ((x0.square() / 2).sum(1) + math.log(2 * math.pi)).mean().item() / math.log(2)


def mode_terms(sde: Sde, x: Tensor, t: Tensor) -> Tensor:
    """log of weight × density of two modes on a line, each [B]."""
    alpha, sigma = (value[:, None] for value in sde.marginal(t))
    means, weights = torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5])
    variance = alpha**2 * 0.2**2 + sigma**2
    return weights.log() - (x - alpha * means) ** 2 / (2 * variance) - (2 * math.pi * variance).log() / 2


def modes(sde: Sde) -> Score:
    """Their score, in closed form."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (value[:, None] for value in sde.marginal(t))
        share = mode_terms(sde, x, t).softmax(1)
        mean = share @ torch.tensor([[-1.0], [1.0]], dtype=share.dtype)
        return (alpha * mean - x) / (alpha**2 * 0.2**2 + sigma**2)

    return score


def train(network: nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    """Adam, with a learning rate that falls to nothing."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()
        falling.step()


FIGURES: dict[str, Callable[[argparse.Namespace], Figure | Image.Image]] = {
    "swiss-roll": swiss_roll,
    "heartbeat": heartbeat,
    "algorithms": algorithms,
    "mix": mix,
    "sdes": sdes,
    "control": control,
    "clip": clip,
    "prompts": prompts,
    "between": between,
}

if __name__ == "__main__":
    main()
