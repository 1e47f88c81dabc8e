"""What a CLIP recognises: by names alone, and with a linear layer on its features (Radford et al. 2021, §3.1,
§3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.clip import Clip
from unclip.errors import RequestError
from unclip.evaluate.report import Score, save_report
from unclip.images import grid

# Our own few ways to say it; an ensemble of several is worth some points over one (§3.1.4).
TEMPLATES = (
    "a {}",
    "a picture of a {}",
    "a photo of a {}",
    "an image of the {}",
    "a drawing of a {}",
    "the {}",
)
PENALTIES = tuple(10.0**power for power in range(-6, 3))  # of the probe, from which the held-out part chooses
HELD_OUT = 5  # every fifth training picture chooses the penalty


@dataclass(frozen=True)
class Recognised:
    """How many pictures were called by their own class.

    Attributes:
        top: k → how many had theirs among the k first.
        classes: per class, called first.
        settings: how it was measured.
        pictures: the first of them, for the contact sheet.
    """

    top: dict[int, Score]
    classes: dict[str, Score]
    settings: dict[str, Any]
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def table(self) -> str:
        """For a terminal."""
        width = max(len(name) for name, _ in self._rows())
        return "\n".join(f"{name.ljust(width)}  {shown}" for name, shown in self._rows())

    def markdown(self) -> str:
        """For a document: shares, then how they were measured."""
        rows = [("class", "right [95 %]"), ("---", "---:"), *self._rows()]
        said = ", ".join(f"{name}: {value}" for name, value in self.settings.items())
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{said}"

    def _rows(self) -> list[tuple[str, str]]:
        shares = {**{f"top {k}": score for k, score in self.top.items()}, **self.classes}
        return [(name, str(score)) for name, score in shares.items()]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "top": {str(k): score.to_dict() for k, score in self.top.items()},
            "classes": {name: score.to_dict() for name, score in self.classes.items()},
            "settings": self.settings,
        }

    def save(self, folder: Path) -> None:
        """report.json, report.md and sheet.png."""
        save_report(folder, self.to_dict(), self.markdown(), grid(self.pictures) if self.pictures else None)


@torch.inference_mode()
def name_embeddings(clip: Clip, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
    """A unit embedding of each class [K, D]: the mean of its captions' unit embeddings, as CLIP ensembles
    prompts.

    Raises:
        RequestError: a template without its {}.
    """
    wrong = [one for one in templates if "{}" not in one]
    if wrong:
        raise RequestError(f"template {wrong[0]!r}: has no {{}} where the class goes")
    embeds = [
        F.normalize(
            clip.encode_text([one.format(name) for one in templates]).embed.float().cpu(), dim=1
        ).mean(dim=0)
        for name in names
    ]
    return F.normalize(torch.stack(embeds), dim=1)


def zeroshot(
    features: Tensor, labels: Sequence[str], clip: Clip, templates: Sequence[str] = TEMPLATES
) -> Recognised:
    """Each picture is called by the class whose name lies nearest to it.

    Args:
        features: z_i [N, D] of that CLIP. labels: the truth, N of them; their set is the choice.
    """
    names = _classes(features, labels)
    logits = F.normalize(features.float(), dim=1) @ name_embeddings(clip, names, templates).T
    return _recognised(logits, labels, names, {"templates": list(templates)})


def probe(train: Tensor, train_labels: Sequence[str], test: Tensor, test_labels: Sequence[str]) -> Recognised:
    """Multinomial logistic regression on frozen features, by L-BFGS; a held-out fifth chooses the L2 penalty.

    Args:
        train, test: features [N, D], [M, D]. train_labels, test_labels: their classes.

    Raises:
        RequestError: a class is tested that was not trained.
    """
    names = _classes(train, train_labels)
    _classes(test, test_labels)
    unknown = sorted(set(test_labels) - set(names))
    if unknown:
        raise RequestError(f"probe: {unknown[0]!r} is among the test classes but not among the trained ones")
    mean, std = train.double().mean(dim=0), train.double().std(dim=0).clamp(min=1e-8)
    x, x_test = (train.double() - mean) / std, (test.double() - mean) / std
    y = torch.tensor([names.index(label) for label in train_labels])
    chooses = torch.arange(len(x)) % HELD_OUT == 0
    errors = []
    for penalty in PENALTIES:
        weights = _logistic(x[~chooses], y[~chooses], len(names), penalty)
        errors.append(float(F.cross_entropy(_affine(x[chooses], weights), y[chooses])))
    penalty = PENALTIES[errors.index(min(errors))]
    weights = _logistic(x, y, len(names), penalty)
    return _recognised(
        _affine(x_test, weights), test_labels, names, {"trained on": len(x), "penalty": penalty}
    )


def _classes(features: Tensor, labels: Sequence[str]) -> list[str]:
    if len(features) != len(labels):
        raise RequestError(f"{len(features)} pictures and {len(labels)} labels; each picture needs its own")
    names = sorted(set(labels))
    if len(names) < 2:
        raise RequestError(
            f"the pictures are all of one class ({', '.join(names)}); there is nothing to tell apart"
        )
    return names


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[:-1] + weights[-1]


def _logistic(x: Tensor, y: Tensor, classes: int, penalty: float) -> Tensor:
    """Weights and, last, offsets [D + 1, K] that minimise the mean cross-entropy + penalty / 2 · ‖weights‖²;
    convex.
    """
    weights = torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(_affine(x, weights), y) + penalty / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def _recognised(
    logits: Tensor, labels: Sequence[str], names: list[str], settings: dict[str, Any]
) -> Recognised:
    truth = torch.tensor([names.index(label) for label in labels])
    ranked = logits.argsort(dim=1, descending=True)
    right = ranked == truth[:, None]
    top = {k: Score(int(right[:, :k].sum()), len(truth)) for k in (1, 5) if k < len(names)}
    classes = {
        name: Score(int(right[truth == i, 0].sum()), int((truth == i).sum()))
        for i, name in enumerate(names)
        if (truth == i).any()
    }
    return Recognised(top, classes, {"pictures": len(truth), "classes": len(names), **settings})
