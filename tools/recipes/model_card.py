"""Write the bundle's model card from its configs, training logs and measured figures.

python tools/recipes/model_card.py --work runs/mini --bundle unclip/bundled/mini
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unclip.evaluate import metrics
from unclip.evaluate.features import clip_extractor, encode_texts, features_of
from unclip.files import read_json, read_weights, write_json
from unclip.menagerie.compose import evaluate_compose, held_out_captions
from unclip.menagerie.drawing import draw
from unclip.pipeline import Pipeline

# The runs of each stage, in the order of training.
STAGES = {name: (name,) for name in ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024")}
STAGES["decoder"] = ("decoder", "inpaint")
BATCH = 32
RESAMPLES = 200  # of the bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder of the runs, compose/, sharpness.json and optionally seen.json",
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--measure", type=int, metavar="COUNT", help="first generate and measure COUNT held-out captions"
    )
    args = parser.parse_args()
    if args.measure:
        measure(args.bundle, args.work, args.measure)
    card = [HEAD, "| stage | parameters | images seen | last loss |\n| --- | --- | --- | --- |"]
    seen = read_json(args.work / "seen.json") if (args.work / "seen.json").is_file() else {}
    card += [
        stage_row([args.work / run for run in runs], args.bundle / stage, seen.get(stage, 0))
        for stage, runs in STAGES.items()
    ]
    card.append(truth(args.work / "compose"))
    card += [truth(args.work / name) for name in TITLES if (args.work / name).is_dir()]
    if (args.work / "spectrum.md").is_file():
        card.append(SPECTRUM + (args.work / "spectrum.md").read_text(encoding="utf-8").strip())
    if (args.work / "quality.json").is_file():
        card.append(quality(read_json(args.work / "quality.json")))
    card.append(sharpness(read_json(args.work / "sharpness.json")))
    card.append(TAIL)
    (args.bundle / "README.md").write_text("\n".join(card) + "\n", encoding="utf-8")


def measure(bundle: Path, work: Path, count: int) -> None:
    """Write quality.json: the model's images and renderings, measured in the features of its CLIP.

    Also writes compose/, unless a report of more captions is there. Renderings of other held-out scenes are
    the reference: what a perfect model would get with as many images.
    """
    pipeline = Pipeline.from_pretrained(str(bundle))
    report = evaluate_compose(pipeline, count=count, batch=BATCH)
    before = work / "compose/report.json"
    if not before.is_file() or read_json(before)["count"] <= count:
        report.save(work / "compose")
    extractor, size = clip_extractor(pipeline.clip), pipeline.sizes[0]
    asked, others = held_out_captions(count, report.seed), held_out_captions(count, report.seed + 1)
    true, other = (
        features_of([draw(one.scene, size) for one in some], extractor, BATCH) for some in (asked, others)
    )
    sets = {"painted": (features_of(report.pictures, extractor, BATCH), asked), "rendered": (other, others)}
    figures = {}
    for name, (features, captions) in sets.items():
        texts = encode_texts(pipeline.clip, [one.text for one in captions], BATCH)
        found = {
            "CMMD": metrics.cmmd(features, true, resamples=RESAMPLES),
            "KID": metrics.kid(features, true, resamples=RESAMPLES),
            **metrics.precision_recall(features, true, resamples=RESAMPLES)._asdict(),
            "CLIP score": metrics.clip_score(features, texts, resamples=RESAMPLES),
        }
        if count > features.shape[1]:
            found["FID"] = metrics.fid(features, true, resamples=RESAMPLES)
        figures[name] = {key: str(figure) for key, figure in found.items()}
    write_json(
        work / "quality.json", {"count": count, "size": size, "features": extractor.identity, **figures}
    )


def quality(found: dict[str, Any]) -> str:
    """Format the table of `measure`."""
    rows = [f"| {key} | {found['painted'][key]} | {found['rendered'][key]} |" for key in found["painted"]]
    about = (
        f"`python tools/recipes/model_card.py --measure {found['count']} …`: the same pictures at "
        f"{found['size']} px against renderings "
        f"of the same scenes, in the features of {found['features']}; beside them renderings of other "
        "held-out scenes, "
        "which is what a perfect painter gets of so many. Intervals of 95 %."
    )
    return "\n".join(
        ["\n## Quality\n", about, "\n| measure | mini | renderings |\n| --- | ---: | ---: |", *rows]
    )


def stage_row(runs: list[Path], folder: Path, seen: int) -> str:
    """Format a row of the table of stages. `seen` is the number of images before these runs."""
    count = sum(t.numel() for t in read_weights(folder / "model.safetensors").values())
    last = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        for run in runs
        if (run / "metrics.jsonl").is_file()
    ]
    loss = f"{last[-1]['loss']:.4f}" if last else ""
    return f"| {folder.name} | {count:,} | {seen + sum(line['images'] for line in last):,} | {loss} |"


def truth(folder: Path) -> str:
    """Format the table of `unclip evaluate compose`."""
    report = read_json(folder / "report.json")
    alone = f" --condition {folder.name}" if folder.name in TITLES else ""
    command = f"`unclip evaluate compose --count {report['count']} --seed {report['seed']}{alone}`"
    table = (folder / "report.md").read_text(encoding="utf-8").strip()
    about = f"{command}: held-out compositions, one picture each, read by the judge."
    return f"\n## {TITLES.get(folder.name, 'Truth to the caption')}\n\n{about}\n\n{table}"


def sharpness(figures: dict[str, Any]) -> str:
    """Format the table of tools/benchmarks/sharpness.py."""
    rows = [
        f"| {name} | {f['psnr']:.2f} dB | {f['psnr_bicubic']:.2f} dB | {f['edges']:.2f} | "
        f"{f['edges_bicubic']:.2f} |"
        for name, f in figures.items()
    ]
    command = "`python tools/benchmarks/sharpness.py`"
    about = f"{command}: held-out renderings; edges are the share of the rendering's gradient energy."
    title = f"\n## Sharpness\n\n{about}\n"
    return "\n".join(
        [title, "| | PSNR | bicubic | edges | bicubic |\n| --- | --- | --- | --- | --- |", *rows]
    )


TITLES = {"caption": "Truth by the caption alone", "embedding": "Truth by the prior's embedding alone"}
SPECTRUM = """
## Spectrum

`unclip evaluate spectrum`: energy by octave, in cycles per pixel, over that of renderings of the same scenes;
then the power at the frequency of each stage's patches over the power around it, and of the renderings.

"""
HEAD = """# mini

The model that unclip carries: DALL·E 2's design, small enough for a CPU. Trained by
`tools/recipes/make_mini.py` on nothing but the menagerie, the world that the package draws itself; it knows
that world only. Licence: Apache-2.0.
"""
TAIL = """
## Limits

It knows 18 subjects, 10 kinds of headwear, 5 garments, 8 activities, 10 colours, 10 settings and 5 styles,
and the words that `unclip info mini` lists. Of other words it makes something of its own world.
"""

if __name__ == "__main__":
    main()
