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
ENOUGH = 20  # pictures of a class
HELD_OUT_SHARE = 5  # every fifth training picture chooses the penalty


@dataclass(frozen=True)
class Recognised:
    """How many pictures were called by their own class.

    Attributes:
        top: k → how many had theirs among the k first.
        classes: per class, called first.
        settings: how it was measured.
        warnings: what makes the shares unreliable.
        pictures: the first of them, for the contact sheet.
    """

    top: dict[int, Score]
    classes: dict[str, Score]
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
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
        chance = {k: f" (chance {100 * share:.3g} %)" for k, share in self.chance.items()}
        top = [(f"top {k}", f"{score}{chance[k]}") for k, score in self.top.items()]
        return [*top, *((name, str(score)) for name, score in self.classes.items())]

    @property
    def chance(self) -> dict[int, float]:
        """The share of random guesses among the k first, for each k of `top`."""
        return {k: k / self.settings["classes"] for k in self.top}

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "top": {str(k): {**s.to_dict(), "chance": self.chance[k]} for k, s in self.top.items()},
            "classes": {name: score.to_dict() for name, score in self.classes.items()},
            "settings": self.settings,
            "warnings": list(self.warnings),
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
    names = class_names(features, labels)
    logits = F.normalize(features.float(), dim=1) @ name_embeddings(clip, names, templates).T
    return _recognised(logits, labels, names, {"templates": list(templates)})


def probe(train: Tensor, train_labels: Sequence[str], test: Tensor, test_labels: Sequence[str]) -> Recognised:
    """Multinomial logistic regression on frozen features, by L-BFGS; a held-out fifth chooses the L2 penalty.

    Args:
        train, test: features [N, D], [M, D]. train_labels, test_labels: their classes.

    Raises:
        RequestError: a class is tested that was not trained.
    """
    names = class_names(train, train_labels)
    class_names(test, test_labels)
    unknown = sorted(set(test_labels) - set(names))
    if unknown:
        raise RequestError(f"probe: {unknown[0]!r} is among the test classes but not among the trained ones")
    logits, settings = fit_probe(train, train_labels, test, names)
    return _recognised(logits, test_labels, names, settings)


def fit_probe(
    train: Tensor, labels: Sequence[str], test: Tensor, names: list[str]
) -> tuple[Tensor, dict[str, Any]]:
    """The test features' logits [M, classes] by the regression with the best penalty, and how it was
    found.
    """
    mean, std = train.double().mean(dim=0), train.double().std(dim=0).clamp(min=1e-8)
    x, x_test = (train.double() - mean) / std, (test.double() - mean) / std
    y = torch.tensor([names.index(label) for label in labels])
    chooses = torch.arange(len(x)) % HELD_OUT_SHARE == 0
    weights = torch.zeros(x.shape[1] + 1, len(names), dtype=x.dtype)
    found = []
    for penalty in reversed(PENALTIES):  # from the strongest: each is a good start for the next
        weights = _logistic(x[~chooses], y[~chooses], weights, penalty)
        found.append((float(F.cross_entropy(_affine(x[chooses], weights), y[chooses])), penalty, weights))
    _, penalty, weights = min(found, key=lambda one: one[:2])
    weights = _logistic(x, y, weights, penalty)
    return _affine(x_test, weights), {"trained on": len(x), "penalty": penalty}


def class_names(features: Tensor, labels: Sequence[str]) -> list[str]:
    """The sorted classes of labels, one label for each row of the features.

    Raises:
        RequestError: another number of labels than of rows, or a single class.
    """
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


def _logistic(x: Tensor, y: Tensor, start: Tensor, penalty: float) -> Tensor:
    """Weights and, last, offsets [D + 1, K] that minimise the mean cross-entropy + penalty / 2 · ‖weights‖²;
    convex.
    """
    weights = start.clone().requires_grad_()
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
    least = min(score.of for score in classes.values())
    warnings = (
        (f"{least} pictures of a class; below {ENOUGH} its interval is wide",) if least < ENOUGH else ()
    )
    return Recognised(top, classes, {"pictures": len(truth), "classes": len(names), **settings}, warnings)
