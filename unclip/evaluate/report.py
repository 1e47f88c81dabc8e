"""Evaluation reports: tables, JSON and contact sheets."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, Self

from PIL import Image, ImageDraw

from unclip.errors import DataError
from unclip.files import write_json
from unclip.images import grid, save_png
from unclip.text import legible

COMPOSITION = "subject + headwear"
ALL_NAMED = "all named at once"
_COLUMNS = ("attribute", "named", "right [95 %]", "ceiling [95 %]", "chance")
_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_SHEET = 64  # images of a contact sheet
_FRAME = 3  # width of the frame in pixels, for images of 64 pixels


@dataclass(frozen=True)
class Score:
    """Number of correct predictions out of a total."""

    right: int
    of: int

    @property
    def rate(self) -> float | None:
        """Share of correct predictions; None if the total is 0."""
        return self.right / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % score interval of the rate (Wilson 1927), which is valid near 0 and 1."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.right / self.of, self.of
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"right": self.right, "of": self.of, "rate": self.rate, "interval": list(self.interval)}

    def __str__(self) -> str:
        if self.rate is None:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Example:
    """One caption and the errors in its image: attribute → (requested, recognised by the judge)."""

    caption: str
    seed: int
    wrong: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Caption accuracy of one model.

    Attributes:
        scores: scores of the model's images, per attribute and for several attributes at once.
        ceiling: scores of true renderings of the same scenes: the judge's accuracy.
        chance: expected shares if the images were assigned to the captions at random; empty in old reports.
        pairs: scores of subject and headwear together, by held-out pair, the worst first.
        examples: one per caption.
        pictures: the generated images, one per example; not part of the JSON.
    """

    model: str
    count: int
    seed: int
    scores: dict[str, Score]
    ceiling: dict[str, Score]
    chance: dict[str, float] = field(default_factory=dict)
    pairs: dict[str, Score] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def table(self) -> str:
        """Format the scores for a terminal."""
        rows: list[tuple[str, ...]] = [_COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines += (
            ["", *(f"{name}  {score.right} of {score.of}" for name, score in self.pairs.items())]
            if self.pairs
            else []
        )
        return "\n".join(
            [f"{self.model or 'painter'}: {self.count} held-out captions, seed {self.seed}", *lines]
        )

    def markdown(self) -> str:
        """Format the scores as a Markdown table."""
        rows: list[tuple[str, ...]] = [_COLUMNS, ("---", "---:", "---:", "---:", "---:"), *self._rows()]
        if self.pairs:
            rows += [("",) * 5, *((name, str(s.of), str(s), "", "") for name, s in self.pairs.items())]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _rows(self) -> list[tuple[str, ...]]:
        chance = {key: f"{100 * share:.1f} %" for key, share in self.chance.items()}
        return [
            (key, str(score.of), str(score), str(self.ceiling[key]), chance.get(key, ""))
            for key, score in self.scores.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "model": self.model,
            "count": self.count,
            "seed": self.seed,
            "scores": {key: score.to_dict() for key, score in self.scores.items()},
            "ceiling": {key: score.to_dict() for key, score in self.ceiling.items()},
            "chance": self.chance,
            "pairs": {name: score.to_dict() for name, score in self.pairs.items()},
            "examples": [
                {
                    "caption": e.caption,
                    "seed": e.seed,
                    "wrong": {key: list(pair) for key, pair in e.wrong.items()},
                }
                for e in self.examples
            ],
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Self:
        """Parse the result of `to_dict`; `pictures` is empty.

        Raises:
            DataError: the tree is not such a report.
        """
        try:
            return cls(
                model=tree["model"],
                count=tree["count"],
                seed=tree["seed"],
                scores={key: Score(s["right"], s["of"]) for key, s in tree["scores"].items()},
                ceiling={key: Score(s["right"], s["of"]) for key, s in tree["ceiling"].items()},
                chance=tree.get("chance", {}),
                pairs={name: Score(s["right"], s["of"]) for name, s in tree.get("pairs", {}).items()},
                examples=tuple(
                    Example(
                        e["caption"],
                        e["seed"],
                        {key: (asked, saw) for key, (asked, saw) in e["wrong"].items()},
                    )
                    for e in tree["examples"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a report of this evaluation ({type(error).__name__}: {error})") from None

    def sheet(self, count: int = _SHEET) -> Image.Image:
        """Arrange the first images; those with errors have a red frame."""
        shown = zip(self.examples[:count], self.pictures[:count], strict=True)
        return grid([_framed(picture) if example.wrong else picture for example, picture in shown])

    def save(self, folder: Path) -> None:
        """Write report.json, report.md and sheet.png."""
        save_report(folder, self.to_dict(), self.markdown(), self.sheet() if self.pictures else None)


def save_report(folder: Path, tree: dict[str, Any], markdown: str, sheet: Image.Image | None) -> None:
    """Write report.json, report.md and, if there is a sheet, sheet.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", tree)
    (folder / "report.md").write_text(legible(markdown) + "\n", encoding="utf-8")
    if sheet is not None:
        save_png(sheet, folder / "sheet.png")


def _framed(picture: Image.Image) -> Image.Image:
    framed = picture.convert("RGB")  # a copy
    width = max(1, round(_FRAME * picture.width / 64))
    ImageDraw.Draw(framed).rectangle(
        (0, 0, picture.width - 1, picture.height - 1), outline=(230, 0, 0), width=width
    )
    return framed
