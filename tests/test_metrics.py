"""Metrics of images: closed forms, intervals, and the path from files to a report."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from unclip.cli import cli
from unclip.errors import DataError, RequestError
from unclip.evaluate import features, metrics
from unclip.evaluate.features import Extractor, encode, stacked
from unclip.evaluate.pictures import GeneratedPictures, PictureFiles, read_prompts
from unclip.evaluate.quality import Settings, against_reference, inception_score
from unclip.images import to_tensor
from unclip.menagerie.judge.features import judge_extractor


def cloud(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- closed forms ---


def test_fid_of_a_shift_is_its_square_and_of_a_scale_that_of_the_roots() -> None:
    x = cloud(200, 5)
    shift = torch.tensor([1.0, 0, -2, 0, 0.5], dtype=torch.float64)
    assert metrics.fid(x + shift, x).value == pytest.approx(float(shift.square().sum()), abs=1e-9)
    # tr(Σ + s²Σ − 2sΣ) = (s − 1)² tr Σ, and the means are s − 1 times as far apart.
    expected = 4 * float(torch.cov(x.T).trace() + x.mean(0).square().sum())
    assert metrics.fid(3 * x, x).value == pytest.approx(expected, rel=1e-9)


def test_kid_of_one_distribution_is_nought_on_average_and_may_be_negative() -> None:
    found = [metrics.kid(cloud(60, 4, seed), cloud(60, 4, seed + 100)).value for seed in range(40)]
    assert min(found) < 0 < max(found)
    assert abs(sum(found) / len(found)) < 0.05 < metrics.kid(cloud(60, 4) + 1, cloud(60, 4, 1)).value


def test_cmmd_is_that_of_two_points() -> None:
    a, b = torch.tensor([[1.0, 0]]).repeat(2, 1), torch.tensor([[0.0, 5]]).repeat(3, 1)
    assert metrics.cmmd(a, b).value == pytest.approx(1000 * (2 - 2 * math.exp(-1 / 100)), rel=1e-9)
    assert metrics.cmmd(a, 7 * a).value == pytest.approx(0, abs=1e-9)  # length does not count


def test_inception_score_goes_from_one_to_the_number_of_classes() -> None:
    clear = 100 * torch.eye(8).repeat(10, 1)
    assert metrics.inception_score(clear, splits=1).value == pytest.approx(8, rel=1e-6)
    assert metrics.inception_score(torch.zeros(80, 8), splits=10).value == pytest.approx(1)


def test_clip_score_counts_what_points_away_as_nothing() -> None:
    x = torch.tensor([[1.0, 0], [1, 0], [1, 1]])
    y = torch.tensor([[2.0, 0], [-1, 0], [1, 0]])
    assert metrics.clip_score(x, y).value == pytest.approx(100 * (1 + 0 + 0.5**0.5) / 3)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(50, 6), cloud(40, 6, 1)
    whole = [metrics.kid(x, y, resamples=3), metrics.precision_recall(x, y)]
    monkeypatch.setattr(metrics, "CHUNK", 7)
    again = [metrics.kid(x, y, resamples=3), metrics.precision_recall(x, y)]
    torch.testing.assert_close(torch.tensor(whole[0]), torch.tensor(again[0]), rtol=1e-12, atol=0)
    assert whole[1] == again[1]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of the CLIP score, whose truth is known: about 95 of 100 intervals."""
    truth = 100 * 0.5
    held = 0
    for seed in range(100):
        cosines = 0.2 + 0.6 * torch.rand(80, generator=torch.Generator().manual_seed(seed))
        x = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
        found = metrics.clip_score(x, torch.tensor([[1.0, 0]]).expand(80, 2), resamples=200, seed=seed)
        assert found.low is not None and found.high is not None and found.low < found.value < found.high
        held += found.low <= truth <= found.high
    assert 88 <= held <= 100


def test_an_interval_holds_only_values_that_the_measure_can_have() -> None:
    for seed in range(20):
        x, y = cloud(12, 3, seed), cloud(12, 3, seed + 100)
        shares = metrics.precision_recall(x, y + 0.5, resamples=20, seed=seed)
        ranges = [(share, 0.0, 1.0) for share in shares]
        ranges += [(metrics.cmmd(x, x, resamples=20, seed=seed), 0.0, 4000.0)]
        ranges += [(metrics.fid(x, x, resamples=20, seed=seed), 0.0, math.inf)]
        ranges += [(metrics.clip_score(x, x + 0.1 * y, resamples=20, seed=seed), 0.0, 100.0)]
        ranges += [(metrics.inception_score(9 * x, resamples=20, seed=seed), 1.0, 3.0)]
        for found, least, most in ranges:
            assert found.low is not None and found.high is not None
            assert least - 1e-9 <= found.low <= found.value <= found.high <= most + 1e-9


def test_all_captions_of_a_picture_are_averaged() -> None:
    x, texts = torch.eye(2), torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    assert metrics.clip_score(x, texts, torch.tensor([0, 0, 1])).value == pytest.approx(75)
    with pytest.raises(RequestError, match="each picture needs its own"):
        metrics.clip_score(x, texts, torch.tensor([0, 0, 0]))


def test_a_resample_of_weights_is_the_resampled_set() -> None:
    x, y = cloud(30, 3), cloud(40, 3, 1)
    (weights,) = metrics._resamples(30, 1, seed=5)
    drawn = x.repeat_interleave(weights.long(), dim=0)
    spread = metrics.fid(x, y, resamples=1, seed=5)
    assert spread.low == spread.high == spread.value  # one resample has no spread
    moments = metrics._moments(x, weights)
    torch.testing.assert_close(moments[1], torch.cov(drawn.T))
    torch.testing.assert_close(moments[0], drawn.mean(0))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: metrics.fid(cloud(9, 9), cloud(20, 9)),
            "fid: 9 pictures for 9 features; it needs more pictures",
        ),
        (
            lambda: metrics.kid(cloud(9, 3), cloud(9, 4)),
            "features of 3 and of 4 dimensions are not from the same extractor",
        ),
        (lambda: metrics.cmmd(cloud(9, 3).log(), cloud(9, 3)), "of 9 pictures are not finite numbers"),
        (lambda: metrics.cmmd(cloud(1, 3), cloud(9, 3)), "1 pictures are too few"),
        (lambda: metrics.precision_recall(cloud(3, 3), cloud(9, 3)), "needs more than 3"),
        (lambda: metrics.inception_score(cloud(9, 3)), "9 pictures for 10 splits"),
        (lambda: metrics.clip_score(cloud(9, 3), cloud(8, 3)), "9 pictures and 8 captions"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(call: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- from pictures to figures ---


def colours(folder: Path, count: int, size: int = 16, seed: int = 0) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        colour = tuple(torch.randint(256, (3,), generator=generator).tolist())
        Image.new("RGB", (size, size), colour).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"colour {i}")
    return folder


MEAN = Extractor("mean colour", lambda pictures: stacked(pictures).mean(dim=(2, 3)))


def test_features_are_kept_by_content_and_not_by_name(tmp_path: Path) -> None:
    calls = []

    def counted(pictures: Sequence[Image.Image]) -> Tensor:
        calls.append(len(pictures))
        return stacked(pictures).mean(dim=(2, 3))

    first, cache = colours(tmp_path / "a", 5), tmp_path / "cache"
    found = encode(PictureFiles.at(str(first)), Extractor("mean", counted), size=None, batch=3, cache=cache)
    assert calls == [3, 2] and len(found.pictures) == 5
    expected = [to_tensor(Image.open(path)).mean(dim=(1, 2)) for path in sorted(first.glob("*.png"))]
    torch.testing.assert_close(found.features, torch.stack(expected))
    first.rename(tmp_path / "b")
    again = encode(
        PictureFiles.at(str(tmp_path / "b")), Extractor("mean", counted), size=None, batch=3, cache=cache
    )
    assert calls == [3, 2] and torch.equal(again.features, found.features)
    assert [one.tobytes() for one in again.pictures] == [one.tobytes() for one in found.pictures]
    # Another extractor, another size, another picture: each is measured anew.
    encode(PictureFiles.at(str(tmp_path / "b")), Extractor("other", counted), size=None, batch=9, cache=cache)
    encode(PictureFiles.at(str(tmp_path / "b")), Extractor("mean", counted), size=8, batch=9, cache=cache)
    Image.new("RGB", (16, 16)).save(tmp_path / "b/000.png")
    encode(PictureFiles.at(str(tmp_path / "b")), Extractor("mean", counted), size=None, batch=9, cache=cache)
    assert calls == [3, 2, 5, 5, 5]


def test_damaged_kept_features_are_named(tmp_path: Path) -> None:
    pictures, cache = PictureFiles.at(str(colours(tmp_path / "a", 3))), tmp_path / "cache"
    encode(pictures, MEAN, size=None, batch=3, cache=cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"safetensors: damaged cache of features .*delete the file"):
        encode(pictures, MEAN, size=None, batch=3, cache=cache)


def test_pictures_of_several_sizes_need_one(tmp_path: Path) -> None:
    folder = colours(tmp_path / "a", 3)
    Image.new("RGB", (40, 20)).save(folder / "wide.png")
    with pytest.raises(DataError, match=r"several sizes \(16 × 16, 40 × 20\); --size N"):
        encode(PictureFiles.at(str(folder)), MEAN, size=None, batch=2, cache=None)
    assert encode(PictureFiles.at(str(folder)), MEAN, size=10, batch=2, cache=None).pictures[3].size == (
        10,
        10,
    )


def test_an_unreadable_picture_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    folder = colours(tmp_path / "a", 3)
    (folder / "001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"001\.png: unreadable picture"):
        encode(PictureFiles.at(str(folder)), MEAN, size=None, batch=2, cache=None)
    (folder / "002.txt").unlink()
    with pytest.raises(DataError, match="no caption"):
        PictureFiles.at(str(folder)).captions()


def test_a_report_says_how_it_was_measured(tmp_path: Path) -> None:
    shown, true = (PictureFiles.at(str(colours(tmp_path / name, 30, seed=i))) for i, name in enumerate("ab"))
    found = against_reference("fid", shown, true, MEAN, Settings(resamples=20))
    found.save(tmp_path / "out")
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert told["settings"]["features"] == "mean colour" and told["settings"]["reference pictures"] == 30
    value = told["figures"]["fid"]
    assert value["low"] < value["value"] < value["high"]
    assert Image.open(tmp_path / "out/sheet.png").size == (5 * 20 - 4, 6 * 20 - 4)
    assert f"| fid | {value['value']:.4g} [" in (tmp_path / "out/report.md").read_text()
    assert told["warnings"] == [
        "fid: 30 pictures; below 10,000 its value is too large by an amount that depends on their number"
    ]
    assert told["warnings"][0] in (tmp_path / "out/report.md").read_text()
    with pytest.raises(RequestError, match="is: mean colour is not a classifier"):
        inception_score(shown, MEAN, Settings())


def test_a_model_paints_the_same_pictures_in_any_share(tiny_model: Path, tmp_path: Path) -> None:
    from unclip.pipeline import Pipeline

    (tmp_path / "prompts.txt").write_text("a cat\n\na fox in a hat\nan owl\n")
    prompts = read_prompts(str(tmp_path / "prompts.txt"))
    assert prompts == ["a cat", "a fox in a hat", "an owl"]
    painted = GeneratedPictures(
        Pipeline.from_pretrained(str(tiny_model), device="cpu"), prompts, 64, seed=3, batch=2
    )
    whole = list(painted.read(0, 1))
    shares = [list(painted.read(i, 2)) for i in range(2)]
    for one, other in zip(whole, [shares[0][0], shares[1][0], shares[0][1]], strict=True):
        assert (to_tensor(one) - to_tensor(other)).abs().max() <= 1.01 / 127.5


def test_the_judge_finds_the_menagerie_varied(train_shards: str) -> None:
    found = inception_score(PictureFiles.at(train_shards), judge_extractor(), Settings(resamples=0))
    assert 2 < found.figures["is"].value < 5  # four pictures in each of ten splits


# --- the commands ---


def test_commands_measure_folders_and_models(train_shards: str, tiny_model: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        kept = ["--cache", str(tmp_path / "cache"), "--json", "--resamples", "5", "--device", "cpu"]
        done = CliRunner().invoke(cli, ["evaluate", *arguments, *kept], catch_exceptions=False)
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    assert abs(run("cmmd", train_shards, train_shards)["figures"]["cmmd"]["value"]) < 1e-6
    assert run("precision-recall", train_shards, train_shards)["figures"]["recall"]["value"] == 1
    assert 20 < run("clip", train_shards)["figures"]["clip"]["value"] <= 100
    for old, new in (("--clip", "--features"), ("--features", "--clip")):  # one name, and the old one
        found = [run("clip", train_shards, name, str(tiny_model)) for name in (old, new)]
        assert found[0] == found[1]
        assert (
            run("cmmd", train_shards, train_shards, old, str(tiny_model))["figures"]["cmmd"]["value"] < 1e-6
        )
        helped = CliRunner().invoke(cli, ["evaluate", "retrieval", "--help"]).output
        assert "--features" in helped and "--clip" not in helped
    colours(tmp_path / "bare", 4)
    for path in (tmp_path / "bare").glob("*.txt"):
        path.unlink()
    (tmp_path / "few.txt").write_text("a cat\na fox\nan owl\na bear\n")
    told = run("retrieval", str(tmp_path / "bare"), "--prompts", str(tmp_path / "few.txt"))
    assert told["settings"]["captions"] == 4
    told = run(
        "kid", f"model:{tiny_model}", train_shards, "--prompts", str(tmp_path / "few.txt"), "--size", "64"
    )
    assert told["figures"]["kid"]["value"] > 0 and told["settings"]["count"] == 4


def test_two_processes_measure_what_one_does(train_shards: str, tmp_path: Path) -> None:
    command = ["-m", "unclip", "evaluate", "is", train_shards, "--features", "judge", "--no-cache", "--json"]
    config = Path(__file__).parent.parent / "configs/accelerate/cpu-gloo.yaml"
    program = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--main_process_port",
        "0",
        *command,
    ]
    two = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr
    (line,) = (
        two.stdout.splitlines()
    )  # the first process's: each would print one if they did not know each other
    told = json.loads(line)
    one = inception_score(PictureFiles.at(train_shards), judge_extractor(), Settings())
    assert told["figures"]["is"]["value"] == pytest.approx(one.figures["is"].value, abs=1e-6)
    assert told["settings"]["count"] == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fid", "{empty}", "{empty}"], "neither pictures"),
        (["zeroshot", "{empty}"], "neither pictures"),
        (["probe", "{few}", "{empty}"], "neither pictures"),
        (["retrieval", "{empty}"], "neither pictures"),
        (["fid", "nowhere", "nowhere"], "nowhere"),
        (["is", "model:mini"], "needs --prompts"),
        (["clip", "{few}", "--prompts", "{few}/000.txt"], "3 pictures and 1 captions"),
        (["kid", "{few}", "{few}", "--batch", "0"], "--batch must be at least 1"),
        (["is", "{few}", "--features", "inception:{few}/000.png"], "its weights cannot be read"),
        (["fid", "{few}", "{few}", "--no-cache"], "3 pictures for 256 features"),
    ],
)
def test_bad_requests_end_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    if any("inception" in one for one in arguments):
        pytest.importorskip("torch_fidelity")
    (tmp_path / "empty").mkdir()
    colours(tmp_path / "few", 3)
    places = {"empty": str(tmp_path / "empty"), "few": str(tmp_path / "few")}
    done = CliRunner().invoke(cli, ["evaluate", *(one.format(**places) for one in arguments)])
    assert done.exit_code != 0 and said in str(done.exception) and "\n" not in str(done.exception)
    assert features.default_cache().name == "features"


def test_weights_with_a_program_in_them_run_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RequestError, match="its weights cannot be read"):
        features.inception_extractor(tmp_path / "evil.pth", logits=False)
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "evil.pth").read_bytes())
    assert (tmp_path / "ran").exists()  # it would have
