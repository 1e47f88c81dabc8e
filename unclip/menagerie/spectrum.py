"""What eyes see and features do not: blurred or striped areas, as the power spectrum over that of renderings.

Held-out captions are painted; the truth is renderings of the same scenes at the same size. Energy is summed
by octave of the radial spatial frequency, and looked for at the period of every stage's patches, where a
network that draws patch by patch leaves a grain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unclip.errors import RequestError
from unclip.images import to_tensor
from unclip.menagerie.compose import held_out_captions
from unclip.menagerie.drawing import draw

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline

OCTAVES = 5  # from the finest on
LUMA = (0.299, 0.587, 0.114)
NEAR, FAR = 3, 6  # bins around a peak that stand for the spectrum without it


@dataclass(frozen=True)
class Spectrum:
    """Of the pictures of one size.

    Attributes:
        size: side in pixels.
        octaves: energy over that of the renderings, from the finest octave (1/4 to 1/2 cycles per pixel) on.
        peaks: stage → (power at the frequency of its patches over that around it, the same of the
            renderings).
    """

    size: int
    octaves: tuple[float, ...]
    peaks: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "size": self.size,
            "octaves": list(self.octaves),
            "peaks": {k: list(v) for k, v in self.peaks.items()},
        }


def spectra(pipeline: Pipeline, *, count: int = 32, seed: int = 0, batch: int = 8) -> list[Spectrum]:
    """The spectrum at every size of the pipeline.

    Args:
        count: held-out captions, one picture each. seed: of captions and pictures.
        batch: pictures made together.
    """
    if count < 1 or batch < 1:
        raise RequestError(f"{count} captions in batches of {batch}: there must be at least 1")
    asked = held_out_captions(count, seed)
    sizes = pipeline.sizes
    sums = {size: (torch.zeros(size, size), torch.zeros(size, size)) for size in sizes}
    for start in range(0, count, batch):
        part = asked[start : start + batch]
        made = pipeline.generate(
            [one.text for one in part], seeds=[one.seed for one in part], keep_stages=True, watermark=False
        )
        for size in sizes:
            ours, theirs = sums[size]
            for one, image in zip(part, made.stages.get(size, made.images), strict=True):
                ours += power(to_tensor(image))
                theirs += power(to_tensor(draw(one.scene, size)))
    periods = patch_periods(pipeline)
    return [_compared(size, *sums[size], periods) for size in sizes]


def power(image: Tensor) -> Tensor:
    """The power spectrum [S, S] of a picture's luma [3, S, S] under a Hann window, zero frequency first."""
    luma = (image.float() * torch.tensor(LUMA)[:, None, None]).sum(0)
    window = torch.hann_window(len(luma))
    found: Tensor = torch.fft.fft2((luma - luma.mean()) * window[:, None] * window).abs().square()
    return found


def octave_energies(spectrum: Tensor) -> list[float]:
    """Energy of the finest octaves [S, S], the finest first; it ends at half a cycle per pixel."""
    frequency = torch.fft.fftfreq(len(spectrum)).abs()
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    found = []
    for octave in range(OCTAVES):
        high = 0.5 / 2**octave
        found.append(float(spectrum[(radius > high / 2) & (radius <= high)].sum()))
    return found


def grid_peak(spectrum: Tensor, period: int) -> float:
    """Power at the frequency of a grid with that period in pixels over the median around it, along both
    axes.
    """
    size = len(spectrum)
    at = size // period
    ratios = []
    for along in (spectrum, spectrum.T):
        line = torch.stack([along[(at + k) % size, 0] for k in range(-FAR, FAR + 1)])
        around = torch.cat([line[: FAR - NEAR + 1], line[FAR + NEAR :]])
        ratios.append(float(line[FAR] / around.median().clamp(min=1e-12)))
    return sum(ratios) / 2


def patch_periods(pipeline: Pipeline) -> dict[str, tuple[int, int]]:
    """Role → (side of its pictures, its patch in pixels of them), for stages that draw in patches."""
    configs = {role: stage.config.model_dump() for role, stage in pipeline.stages.items() if role != "prior"}
    found = {role: (int(tree["size"]), int(tree["unet"]["patch"])) for role, tree in configs.items()}
    return {role: (size, patch) for role, (size, patch) in found.items() if patch > 1}


def _compared(size: int, ours: Tensor, theirs: Tensor, patches: dict[str, tuple[int, int]]) -> Spectrum:
    pairs = zip(octave_energies(ours), octave_energies(theirs), strict=True)
    peaks = {
        role: (grid_peak(ours, period), grid_peak(theirs, period))
        for role, (side, patch) in patches.items()
        if side <= size and (period := patch * size // side)
    }
    return Spectrum(size, tuple(a / b for a, b in pairs), peaks)


def table(found: Sequence[Spectrum]) -> str:
    """For a terminal, or a model card."""
    names = ["1/4–1/2", "1/8–1/4", "1/16–1/8", "1/32–1/16", "1/64–1/32"]
    lines = [f"| px | {' | '.join(names)} | grain |", f"| --- |{' ---: |' * OCTAVES} --- |"]
    for one in found:
        grain = ", ".join(f"{role} {a:.1f} ({b:.1f})" for role, (a, b) in one.peaks.items())
        lines.append(f"| {one.size} | {' | '.join(f'{ratio:.2f}' for ratio in one.octaves)} | {grain} |")
    return "\n".join(lines)
