"""Writes the bundle's model card from its configs, its training logs and its measured figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unclip.files import read_json, read_weights

STAGES = ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of the runs, with compose/ and sharpness.json, and seen.json where runs started from trained stages",
    )
    parser.add_argument("--bundle", type=Path, required=True)
    args = parser.parse_args()
    card = [HEAD, "| stage | parameters | images seen | last loss |\n| --- | --- | --- | --- |"]
    seen = read_json(args.work / "seen.json") if (args.work / "seen.json").is_file() else {}
    card += [stage_row(args.work / stage, args.bundle / stage, seen.get(stage, 0)) for stage in STAGES]
    card.append(truth(args.work / "compose"))
    card.append(sharpness(read_json(args.work / "sharpness.json")))
    card.append(TAIL)
    (args.bundle / "README.md").write_text("\n".join(card) + "\n", encoding="utf-8")


def stage_row(run: Path, folder: Path, seen: int) -> str:
    """A line of the table of stages; `seen` counts the images before this run."""
    count = sum(t.numel() for t in read_weights(folder / "model.safetensors").values())
    if not (run / "metrics.jsonl").is_file():
        return f"| {run.name} | {count:,} | {seen:,} | |"
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return f"| {run.name} | {count:,} | {seen + log[-1]['images']:,} | {log[-1]['loss']:.4f} |"


def truth(folder: Path) -> str:
    """The table of `unclip evaluate compose`."""
    report = read_json(folder / "report.json")
    command = f"`unclip evaluate compose --count {report['count']} --seed {report['seed']}`"
    table = (folder / "report.md").read_text(encoding="utf-8").strip()
    return f"\n## Truth to the caption\n\n{command}: held-out compositions, one picture each, read by the judge.\n\n{table}"


def sharpness(figures: dict[str, Any]) -> str:
    """The table of tools/sharpness.py."""
    rows = [
        f"| {name} | {f['psnr']:.2f} dB | {f['psnr_bicubic']:.2f} dB | {f['edges']:.2f} | {f['edges_bicubic']:.2f} |"
        for name, f in figures.items()
    ]
    title = "\n## Sharpness\n\n`python tools/sharpness.py`: held-out renderings; edges are the share of the rendering's gradient energy.\n"
    return "\n".join([title, "| | PSNR | bicubic | edges | bicubic |\n| --- | --- | --- | --- | --- |", *rows])


HEAD = """# mini

The model that unclip carries: DALL·E 2's design, small enough for a CPU. Trained by `tools/make_mini.py` on nothing but
the menagerie, the world that the package draws itself; it knows that world only. Licence: Apache-2.0.
"""
TAIL = """
## Limits

It knows 18 subjects, 10 kinds of headwear, 5 garments, 8 activities, 10 colours, 10 settings and 5 styles, and the words
that `unclip info mini` lists. Of other words it makes something of its own world.
"""

if __name__ == "__main__":
    main()
