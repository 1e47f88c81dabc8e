"""What an evaluation found, as a table for people, a dict for programs, and a contact sheet for the eye."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, Self

from PIL import Image, ImageDraw

from unclip.errors import DataError
from unclip.files import write_json
from unclip.images import grid, save_png

COMPOSITION = "subject + headwear"
ALL_NAMED = "all named at once"
_COLUMNS = ("attribute", "named", "right [95 %]", "ceiling [95 %]")
_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_SHEET = 64
_FRAME = 3  # pixels of 64


@dataclass(frozen=True)
class Score:
    """So many right of so many."""

    right: int
    of: int

    @property
    def rate(self) -> float | None:
        """The share that is right; None of nothing."""
        return self.right / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the true rate (Wilson 1927), which holds near 0 and 1 too."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.right / self.of, self.of
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"right": self.right, "of": self.of, "rate": self.rate, "interval": list(self.interval)}

    def __str__(self) -> str:
        if self.rate is None:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Example:
    """One caption and its picture's faults: attribute → (what was asked for, what the judge saw)."""

    caption: str
    seed: int
    wrong: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Truth to the caption of one model.

    Attributes:
        scores: of the model's pictures, per attribute and for several at once.
        ceiling: the judge's own, on renderings of the same scenes: what a perfect painter would get.
        examples: one per caption.
        pictures: the same, as painted; not part of the JSON.
    """

    model: str
    count: int
    seed: int
    scores: dict[str, Score]
    ceiling: dict[str, Score]
    examples: tuple[Example, ...] = ()
    pictures: tuple[Image.Image, ...] = field(default=(), compare=False, repr=False)

    def table(self) -> str:
        """For a terminal."""
        rows = [_COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(
            [f"{self.model or 'painter'}: {self.count} held-out captions, seed {self.seed}", *lines]
        )

    def markdown(self) -> str:
        """For a model card."""
        rows = [_COLUMNS, ("---", "---:", "---:", "---:"), *self._rows()]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (key, str(score.of), str(score), str(self.ceiling[key])) for key, score in self.scores.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "model": self.model,
            "count": self.count,
            "seed": self.seed,
            "scores": {key: score.to_dict() for key, score in self.scores.items()},
            "ceiling": {key: score.to_dict() for key, score in self.ceiling.items()},
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
        """The report that `to_dict` wrote, without its pictures."""
        try:
            return cls(
                model=tree["model"],
                count=tree["count"],
                seed=tree["seed"],
                scores={key: Score(s["right"], s["of"]) for key, s in tree["scores"].items()},
                ceiling={key: Score(s["right"], s["of"]) for key, s in tree["ceiling"].items()},
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
        """The first pictures; the wrong ones are framed in red."""
        shown = zip(self.examples[:count], self.pictures[:count], strict=True)
        return grid([_framed(picture) if example.wrong else picture for example, picture in shown])

    def save(self, folder: Path) -> None:
        """report.json, report.md and sheet.png."""
        save_report(folder, self.to_dict(), self.markdown(), self.sheet() if self.pictures else None)


def save_report(folder: Path, tree: dict[str, Any], markdown: str, sheet: Image.Image | None) -> None:
    """report.json for programs, report.md for documents, and sheet.png, if there is one, for the eye."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", tree)
    (folder / "report.md").write_text(markdown + "\n", encoding="utf-8")
    if sheet is not None:
        save_png(sheet, folder / "sheet.png")


def _framed(picture: Image.Image) -> Image.Image:
    framed = picture.convert("RGB")  # a copy
    width = max(1, round(_FRAME * picture.width / 64))
    ImageDraw.Draw(framed).rectangle(
        (0, 0, picture.width - 1, picture.height - 1), outline=(230, 0, 0), width=width
    )
    return framed
