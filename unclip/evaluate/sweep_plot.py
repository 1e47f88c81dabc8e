"""The plot of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unclip.errors import RequestError
from unclip.evaluate.sweep import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTTED = {  # the rows of the plot
    "cmmd": "CMMD (0 is best)",
    "clip": "CLIP score",
    "named": "named attributes, %",
    "seconds": "s per picture",
}


def plot(points: Sequence[Point], path: Path) -> None:
    """Plot a row per measure and a column for each of guidance and steps that varies.

    Each line is one combination of the other values.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise RequestError("the plot needs matplotlib: pip install 'unclip[lecture]'") from None
    axes = [
        axis for axis in ("guidance", "steps") if len({getattr(point, axis) for point in points}) > 1
    ] or ["steps"]
    measured = [name for name in PLOTTED if name in points[0].values()]
    figure = Figure(figsize=(1 + 4 * len(axes), 2 * len(measured)), layout="constrained")
    panels = figure.subplots(len(measured), len(axes), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        for row, measure in enumerate(measured):
            _panel(panels[row][column], points, axis, measure)
        panels[-1][column].set_xlabel(axis)
        panels[0][column].legend(fontsize=7)
    for row, measure in enumerate(measured):
        panels[row][0].set_ylabel(PLOTTED[measure])
    figure.savefig(path, dpi=90)


def _panel(panel: Axes, points: Sequence[Point], axis: str, measure: str) -> None:
    others = [other for other in ("sampler", "guidance", "steps") if other != axis]
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(", ".join(_said(other, getattr(point, other)) for other in others), []).append(point)
    for label, line in lines.items():
        ordered = sorted(line, key=lambda point: float(getattr(point, axis)))
        values = torch.tensor([point.values()[measure] for point in ordered])
        errors = (values - values[:, :1]).abs().T[1:]
        x = [getattr(point, axis) for point in ordered]
        panel.errorbar(
            x, values[:, 0].tolist(), yerr=errors.tolist(), label=label, marker="o", markersize=3, capsize=2
        )
    panel.grid(alpha=0.3)


def _said(name: str, value: Any) -> str:
    return str(value) if name == "sampler" else f"{name} {value:g}"
