"""What a linear layer on a CLIP's frozen features reads of the menagerie, attribute by attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unclip.errors import DataError
from unclip.evaluate.pictures import PictureFiles
from unclip.evaluate.recognition import class_names, fit_probe
from unclip.evaluate.report import Score, save_report
from unclip.images import grid
from unclip.menagerie.scene import HELD_OUT, VALUES


@dataclass(frozen=True)
class ProbedScenes:
    """What linear probes read of scenes of the menagerie, attribute by attribute.

    Attributes:
        scores: attribute → set of scenes → how many were read right. Absence is a value of its own.
        settings: how it was measured, and the share by chance of each attribute.
        pictures: the first ones, for the contact sheet.
    """

    scores: dict[str, dict[str, Score]]
    settings: dict[str, Any]
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def table(self) -> str:
        """For a terminal."""
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def markdown(self) -> str:
        """For a document: shares, then how they were measured."""
        head, *rows = self._rows()
        said = ", ".join(f"{name}: {value}" for name, value in self.settings.items())
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines) + f"\n\n{said}"

    def _rows(self) -> list[list[str]]:
        sets = list(next(iter(self.scores.values())))
        return [
            ["attribute", *sets, "chance"],
            *(
                [key, *map(str, found.values()), f"{100 * self.settings['chance'][key]:.1f} %"]
                for key, found in self.scores.items()
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        scores = {key: {name: s.to_dict() for name, s in found.items()} for key, found in self.scores.items()}
        return {"attributes": scores, "settings": self.settings}

    def save(self, folder: Path) -> None:
        """report.json, report.md and sheet.png."""
        save_report(folder, self.to_dict(), self.markdown(), grid(self.pictures) if self.pictures else None)


def read_scenes(pictures: PictureFiles) -> list[dict[str, str | None]]:
    """The attributes of each picture of the menagerie.

    Raises:
        DataError: a picture has none.
    """
    found = pictures.fields("scene")
    if any(not isinstance(scene, dict) or not scene.keys() >= VALUES.keys() for scene in found):
        raise DataError(
            f"{pictures.name}: its scenes are not the menagerie's; `unclip data menagerie` makes such pictures"
        )
    return found


def probe_scenes(
    train: Tensor,
    train_scenes: Sequence[Mapping[str, str | None]],
    test: Tensor,
    test_scenes: Sequence[Mapping[str, str | None]],
) -> ProbedScenes:
    """A probe for each attribute of the menagerie, scored on training pairs and on held-out pairs apart.

    Args:
        train, test: features [N, D], [M, D]. train_scenes, test_scenes: attribute → value, or None where it
            is absent.
    """
    apart = torch.tensor([(scene["subject"], scene["headwear"]) in HELD_OUT for scene in test_scenes])
    scores, penalties, chance = {}, {}, {}
    for key in VALUES:
        labels, truth = ([str(scene[key]) for scene in scenes] for scenes in (train_scenes, test_scenes))
        names = class_names(train, labels)
        logits, settings = fit_probe(train, labels, test, names)
        called = [names[i] for i in logits.argmax(dim=1).tolist()]
        right = torch.tensor([one == other for one, other in zip(called, truth, strict=True)])
        scores[key] = {
            "training pairs": Score(int(right[~apart].sum()), int((~apart).sum())),
            "held-out pairs": Score(int(right[apart].sum()), int(apart.sum())),
        }
        penalties[key], chance[key] = settings["penalty"], 1 / len(names)
    about = {"trained on": len(train), "pictures": len(test), "penalties": penalties, "chance": chance}
    return ProbedScenes(scores, about)
