"""Bits per dimension of images under a pixel model: variational bound and exact likelihood of the ODE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.data.sample import BadSample, label, picture, scaled
from unclip.diffusion.flow import Hutchinson, bits_per_dim, log_likelihood
from unclip.diffusion.likelihood import bound
from unclip.diffusion.noise import ExampleRng, SeededNoise
from unclip.diffusion.sde import VP
from unclip.errors import DataError, RequestError
from unclip.evaluate.metrics import mean_of
from unclip.evaluate.pictures import PictureFiles
from unclip.evaluate.quality import Quality, Settings
from unclip.images import centre_square, to_pil, to_tensor
from unclip.stages.batch import Batch
from unclip.stages.pixels import Pixels


@dataclass(frozen=True)
class NllSettings(Settings):
    """Settings of the likelihood.

    Attributes:
        count: number of images, spaced evenly over the set; None takes all.
        terms: number of random timesteps of the bound's sum; None sums all T − 1.
        ode: also compute the ODE's likelihood; a few hundred network evaluations with gradients.
    """

    count: int | None = None
    terms: int | None = None
    ode: bool = False


def nll(stage: Pixels, pictures: PictureFiles, settings: NllSettings) -> Quality:
    """Compute mean bits per dimension with intervals; class-conditional if the model has classes.

    The random draws of image i have the seed `settings.seed` + i.

    Raises:
        DataError: an image cannot be read or has no class.
        RequestError: the model has no ODE likelihood.
    """
    if settings.ode:
        stage.score(torch.zeros(1, dtype=torch.long))  # raises early if the model has no ODE
    images, labels = _read(pictures, stage, settings.count)
    parts: dict[str, list[Tensor]] = {}
    evaluations = 0
    for start in range(0, len(images), settings.batch):
        part = slice(start, start + settings.batch)
        batch = Batch(image=images[part].to(stage.device), label=None if labels is None else labels[part])
        numbers = torch.arange(len(images))[part] + settings.seed
        for name, values in _bound(stage, batch, numbers, settings.terms):
            parts.setdefault(name, []).append(values)
        if settings.ode:
            bits, calls = _ode(stage, batch, numbers)
            parts.setdefault("ODE", []).append(bits)
            evaluations = max(evaluations, calls)
    figures = {
        name: mean_of(torch.cat(values).double().cpu(), resamples=settings.resamples, seed=settings.seed)
        for name, values in parts.items()
    }
    config = stage.diffusion.config
    about = {
        "unit": "bits/dim",
        "pictures": pictures.name,
        "count": len(images),
        "size": stage.size,
        "levels": config.levels,
        "T": config.times,
        "terms": settings.terms or config.times - 1,
        "given the class": bool(stage.classes),
        "resamples": settings.resamples,
        "seed": settings.seed,
        **({"evaluations": evaluations} if settings.ode else {}),
    }
    return Quality(figures, about, pictures=tuple(to_pil(image) for image in images[:64]))


@torch.inference_mode()
def _bound(stage: Pixels, batch: Batch, seeds: Tensor, terms: int | None) -> Iterator[tuple[str, Tensor]]:
    x0 = stage.data(batch)
    found = bound(
        stage.diffusion,
        stage.network,
        x0,
        stage.condition(batch.label),
        ExampleRng(seeds, x0.device),
        terms=terms,
    )
    yield "bound", found.total
    yield "  L_T", found.prior
    yield "  sum of L_t", found.steps
    yield "  L_0", found.last


def _ode(stage: Pixels, batch: Batch, seeds: Tensor) -> tuple[Tensor, int]:
    x0 = stage.data(batch)
    noise = SeededNoise(seeds.tolist(), "likelihood")
    # Uniform dequantisation: gives a lower bound on the discrete log-likelihood (Theis et al. 2016).
    x = x0 + stage.spacing * (torch.special.ndtr(noise(x0)) - 0.5)
    log_p, evaluations = log_likelihood(VP(), stage.score(batch.label), x, Hutchinson(noise, x))
    return bits_per_dim(log_p, x[0].numel(), stage.spacing), evaluations


def _read(pictures: PictureFiles, stage: Pixels, count: int | None) -> tuple[Tensor, Tensor | None]:
    """Read images [N, 3, size, size] and classes [N] (None if the model has none), spaced evenly."""
    samples = [sample for unit in pictures.units for sample in unit.samples()]
    if count is not None:
        if count > len(samples):
            raise RequestError(
                f"{pictures.name}: {count} pictures are asked for, and there are {len(samples)}"
            )
        samples = [samples[i * len(samples) // count] for i in range(count)]
    try:
        images = torch.stack([to_tensor(centre_square(scaled(picture(one), stage.size))) for one in samples])
        numbers = [label(one) for one in samples] if stage.classes else []
    except BadSample as error:
        raise DataError(f"{pictures.name}: {error}") from None
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        raise DataError(
            f"{pictures.name}: {len(numbers) - len(known)} pictures have no label, and the model has classes"
        )
    return images, torch.tensor(known) if stage.classes else None
