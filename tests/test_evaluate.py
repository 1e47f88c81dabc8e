"""Caption fidelity: the judge, the confidence interval, and painters with a known score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from unclip.errors import CheckpointError, DataError, RequestError
from unclip.evaluate.report import ALL_NAMED, COMPOSITION, Example, Report, Score
from unclip.files import BUNDLED, read_json, write_json
from unclip.menagerie.compose import (
    ALWAYS_NAMED,
    Condition,
    Paint,
    compose,
    evaluate_compose,
    held_out_captions,
    pipeline_painter,
)
from unclip.menagerie.drawing import draw
from unclip.menagerie.judge.model import CLASSES, SIZE, Judge, JudgeConfig, labels, load_judge
from unclip.menagerie.judge.train import disturb, train_judge
from unclip.menagerie.scene import HEADWEAR, VALUES, Scene, is_held_out, sample
from unclip.menagerie.spectrum import grid_peak, octave_energies, power

COUNT = 96


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def painter(change: dict[str, str] | None = None, size: int = SIZE) -> Paint:
    """Draws the scene that the caption was made of, with some headwear in place of other."""
    scenes = {(one.text, one.seed): one.scene for one in held_out_captions(COUNT, 0)}

    def drawn(scene: Scene) -> Image.Image:
        assert scene.headwear
        return draw(replace(scene, headwear=(change or {}).get(scene.headwear, scene.headwear)), size)

    return lambda captions, seeds: [drawn(scenes[key]) for key in zip(captions, seeds, strict=True)]


def report() -> Report:
    score = Score(3, 4)
    return Report(
        model="mini",
        count=2,
        seed=5,
        scores={"subject": score, ALL_NAMED: Score(0, 0)},
        ceiling={"subject": Score(4, 4), ALL_NAMED: Score(0, 0)},
        pairs={"fox + crown": Score(1, 2)},
        examples=(Example("a cat", 1, {}), Example("a fox in a crown", 2, {"headwear": ("crown", "none")})),
        pictures=(Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64))),
    )


# --- the judge ---


def test_the_judge_has_a_head_per_attribute_and_fits_the_package(judge: Judge) -> None:
    logits = judge(torch.zeros(2, 3, SIZE, SIZE))
    assert {key: tuple(x.shape) for key, x in logits.items()} == {
        key: (2, len(CLASSES[key])) for key in VALUES
    }
    assert {key for key, values in CLASSES.items() if None not in values} == {"subject", "setting", "style"}
    assert sum(p.numel() for p in judge.parameters()) < 1_000_000
    assert (BUNDLED / "judge" / "model.safetensors").stat().st_size < 2 * 2**20


def test_labels_are_the_classes_of_the_scene() -> None:
    scene = sample(0, 0)
    read = {key: values[label] for (key, values), label in zip(CLASSES.items(), labels(scene), strict=True)}
    assert read == scene.attributes() and labels(scene.attributes()) == labels(scene)


def test_the_judge_reads_scenes_that_training_never_showed(judge: Judge) -> None:
    scenes = [sample(7, i, held_out=True) for i in range(COUNT)]
    readings = judge.read([draw(scene, SIZE) for scene in scenes])
    for key in ("subject", "headwear", "headwear_colour", "setting"):
        assert (
            sum(r[key] == s.attributes()[key] for r, s in zip(readings, scenes, strict=True)) >= 0.96 * COUNT
        ), key


def test_the_judge_reads_flawed_and_larger_pictures(judge: Judge) -> None:
    scenes = [sample(8, i, held_out=True) for i in range(32)]
    truth = [(scene.subject, scene.headwear) for scene in scenes]
    larger = judge.read([draw(scene, 2 * SIZE) for scene in scenes])
    assert sum((r["subject"], r["headwear"]) == t for r, t in zip(larger, truth, strict=True)) >= 30
    torch.manual_seed(0)
    pixels = torch.stack([torch.tensor(list(draw(s, SIZE).tobytes()), dtype=torch.uint8) for s in scenes])
    logits = judge(disturb(pixels.reshape(-1, SIZE, SIZE, 3).permute(0, 3, 1, 2)))
    seen = [CLASSES["subject"][i] for i in logits["subject"].argmax(dim=1).tolist()]
    assert sum(a == s.subject for a, s in zip(seen, scenes, strict=True)) >= 29


@pytest.mark.parametrize("size", [(63, 63), (64, 128)])
def test_the_judge_refuses_what_it_cannot_read(judge: Judge, size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="squares of 64"):
        judge.read([Image.new("RGB", size)])


def test_disturbing_keeps_range_and_named_colours() -> None:
    torch.manual_seed(0)
    pixels = torch.full((64, 3, SIZE, SIZE), 200, dtype=torch.uint8)
    x = disturb(pixels)
    assert x.shape == pixels.shape and x.abs().max() <= 1
    assert (x.mean(dim=(2, 3)) - (200 / 127.5 - 1)).abs().max() < 0.2
    assert (pixels == 200).all()


def test_training_writes_a_judge_that_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = train_judge(tmp_path / "judge", images=4, steps=2, seed=3)
    again = load_judge(tmp_path / "judge")
    x = torch.zeros(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert torch.allclose(trained(x)["subject"], again(x)["subject"], atol=0.05)


def test_training_reads_shards(tmp_path: Path) -> None:
    from unclip.menagerie.shards import write_shards

    list(write_shards(tmp_path / "shards", count=4, size=SIZE))
    train_judge(tmp_path / "judge", shards=str(tmp_path / "shards" / "*.tar"), steps=1)
    assert load_judge(tmp_path / "judge").config == JudgeConfig()
    list(write_shards(tmp_path / "large", count=1, size=2 * SIZE))
    with pytest.raises(DataError, match="64 px"):
        train_judge(tmp_path / "none", shards=str(tmp_path / "large" / "*.tar"), steps=1)
    assert not (tmp_path / "none").exists()


def test_a_judge_of_another_menagerie_is_refused(judge: Judge, tmp_path: Path) -> None:
    judge.save(tmp_path / "judge")
    config = read_json(tmp_path / "judge" / "config.json")
    config["classes"]["subject"][0] = "unicorn"
    write_json(tmp_path / "judge" / "config.json", config)
    with pytest.raises(CheckpointError, match="another menagerie"):
        load_judge(tmp_path / "judge")


# --- the evaluation ---


def test_captions_are_held_out_and_name_what_is_scored() -> None:
    asked = held_out_captions(200, 3)
    assert asked[:50] == held_out_captions(50, 3) and asked[0] != held_out_captions(1, 4)[0]
    for one in asked:
        assert is_held_out(one.scene)
        assert one.named >= ALWAYS_NAMED - {"setting_colour"}
        assert ("setting_colour" in one.named) == (one.scene.setting == "plain")
    assert len({one.seed for one in asked}) == 200


def test_a_perfect_painter_reaches_the_ceiling(judge: Judge) -> None:
    found = compose(painter(), judge, count=COUNT, seed=0)
    assert found.scores == found.ceiling
    assert found.scores[COMPOSITION].of == found.scores["headwear"].of == COUNT
    assert 0 < found.scores["setting_colour"].of < COUNT
    assert (found.scores[COMPOSITION].rate or 0) > 0.95 and (found.scores[ALL_NAMED].rate or 0) > 0.8
    assert sum(not e.wrong for e in found.examples) == found.scores[ALL_NAMED].right


def test_chance_is_what_shuffled_pictures_would_get(judge: Judge) -> None:
    """A painter of one picture for every caption does no better than chance."""
    only = held_out_captions(COUNT, 0)[3].scene
    found = compose(lambda captions, _: [draw(only, SIZE)] * len(captions), judge, count=COUNT, seed=0)
    for name, score in found.scores.items():
        assert found.chance[name] == pytest.approx(score.rate), name
    assert found.chance[COMPOSITION] < 0.2 and f"{100 * found.chance['subject']:.1f} %" in found.table()
    perfect = compose(painter(), judge, count=COUNT, seed=0)
    assert all(perfect.chance[name] < (score.rate or 0) for name, score in perfect.scores.items())


def test_a_painter_that_swaps_hats_scores_nothing_on_hats_alone(judge: Judge) -> None:
    swap = dict(zip(HEADWEAR, HEADWEAR[1:] + HEADWEAR[:1], strict=True))
    found = compose(painter(swap), judge, count=COUNT, seed=0)
    assert (
        found.scores["headwear"].right
        == found.scores[COMPOSITION].right
        == found.scores[ALL_NAMED].right
        == 0
    )
    assert (found.scores["subject"].rate or 0) > 0.9 and found.ceiling["headwear"].right > 0.95 * COUNT
    assert all(e.wrong["headwear"][0] != e.wrong["headwear"][1] for e in found.examples)


def test_the_batch_does_not_change_the_report(judge: Judge) -> None:
    paint = painter(size=2 * SIZE)
    assert compose(paint, judge, count=7, seed=0, batch=3) == compose(paint, judge, count=7, seed=0)


@pytest.mark.parametrize(("count", "batch"), [(0, 1), (1, 0)])
def test_nothing_to_do_is_refused(judge: Judge, count: int, batch: int) -> None:
    with pytest.raises(RequestError, match="at least one"):
        compose(painter(), judge, count=count, seed=0, batch=batch)


def test_a_painter_that_paints_too_few_is_refused(judge: Judge) -> None:
    with pytest.raises(RequestError, match="0 pictures of 2"):
        compose(lambda captions, seeds: [], judge, count=2, seed=0)


def test_a_pipeline_paints_at_its_smallest_size() -> None:
    sizes = []

    def generate(prompt: list[str], *, seeds: list[int], size: int, watermark: bool) -> Any:
        assert not watermark  # the model is judged, not the mark
        sizes.append(size)
        return SimpleNamespace(images=painter(size=size)(prompt, seeds))

    pipeline: Any = SimpleNamespace(name="stand-in", sizes=(64, 256), generate=generate)
    found = evaluate_compose(pipeline, count=5, seed=0, batch=2)
    assert sizes == [64, 64, 64] and found.model == "stand-in" and found.scores == found.ceiling


@pytest.mark.parametrize("condition", ["caption", "embedding"])
def test_a_pipeline_paints_by_the_caption_or_by_the_embedding_alone(condition: Condition) -> None:
    null, asked = torch.full((4,), 7.0), []

    def sample_prior(captions: list[str], *, seed: list[int]) -> torch.Tensor:
        return torch.tensor([[float(s)] * 4 for s in seed])

    def decode(z_i: torch.Tensor, prompt: Any = "", *, seed: list[int], size: int, watermark: bool) -> Any:
        asked.append((z_i[:, 0].tolist(), prompt, seed))
        return SimpleNamespace(images=[Image.new("RGB", (size, size)) for _ in seed])

    pipeline: Any = SimpleNamespace(
        sizes=(64,), sample_prior=sample_prior, decode=decode, decoder=SimpleNamespace(null_embed=null)
    )
    pipeline_painter(pipeline, condition)(["a cat", "a fox"], [1, 2])
    assert asked == [
        ([7.0, 7.0], ["a cat", "a fox"], [1, 2]) if condition == "caption" else ([1.0, 2.0], "", [1, 2])
    ]


def test_held_out_pairs_are_scored_apart_and_the_worst_comes_first(judge: Judge) -> None:
    found = compose(painter({"beret": "crown"}), judge, count=COUNT, seed=0)
    names = list(found.pairs)
    assert set(names[:2]) == {"shiba inu + beret", "rabbit + beret"}
    assert sum(score.of for score in found.pairs.values()) == COUNT
    assert sum(score.right for score in found.pairs.values()) == found.scores[COMPOSITION].right
    assert not found.pairs[names[0]].right and "rabbit + beret  0 of" in found.table()


# --- the spectrum ---


def test_octaves_hold_the_energy_of_their_frequencies() -> None:
    x = torch.arange(64) / 64
    for octave, cycles in enumerate((24, 12, 6)):
        wave = torch.sin(2 * torch.pi * cycles * x).expand(3, 64, 64)
        energies = octave_energies(power(wave))
        assert energies[octave] > 0.9 * sum(energies)


def test_a_grain_is_a_peak_at_its_period_alone() -> None:
    torch.manual_seed(0)
    noise = torch.stack([power(torch.randn(3, 64, 64)) for _ in range(8)]).mean(0)
    grain = torch.zeros(3, 64, 64)
    grain[:, ::4, ::4] = 1
    grainy = torch.stack([power(torch.randn(3, 64, 64) + grain) for _ in range(8)]).mean(0)
    assert grid_peak(grainy, 4) > 5 * grid_peak(noise, 4)
    assert grid_peak(noise, 4) < 2 and grid_peak(grainy, 8) < 2


# --- the report ---


def test_the_interval_is_wilsons() -> None:
    # Known values: Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for right, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert Score(right, of).interval == pytest.approx((low, high), abs=5e-5)
        mirrored = Score(of - right, of).interval
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)
    assert Score(0, 0).interval == (0, 1) and Score(0, 0).rate is None


def test_a_report_survives_json() -> None:
    tree = json.loads(json.dumps(report().to_dict()))
    assert Report.from_dict(tree) == report()
    before = {key: value for key, value in tree.items() if key != "pairs"}  # as reports were saved before
    assert Report.from_dict(before) == replace(report(), pairs={})
    assert tree["scores"]["subject"]["rate"] == 0.75 and tree["scores"][ALL_NAMED]["rate"] is None
    with pytest.raises(DataError, match="not a report"):
        Report.from_dict({"model": "mini"})


def test_tables_say_rates_and_intervals() -> None:
    lines = report().table().splitlines()
    assert lines[0] == "mini: 2 held-out captions, seed 5"
    assert "75.0 % [30.1, 95.4]" in lines[2] and "100.0 %" in lines[2] and lines[3].count("–") == 2
    assert report().markdown().splitlines()[2].startswith("| subject | 4 | 75.0 % [30.1, 95.4] |")


def test_the_sheet_frames_wrong_pictures_in_red(tmp_path: Path) -> None:
    shown = report()
    sheet = shown.sheet()
    assert sheet.getpixel((0, 0)) == (0, 0, 0) and (230, 0, 0) in {
        color for _, color in sheet.getcolors() or []
    }
    assert shown.pictures[1].getpixel((0, 0)) == (0, 0, 0)  # the picture itself stays clean
    shown.save(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "report.md", "sheet.png"]
    assert Report.from_dict(read_json(tmp_path / "out" / "report.json")) == shown
