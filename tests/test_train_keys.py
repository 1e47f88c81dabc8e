"""Config keys for speed, memory and logging: each has its effect and no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import LoggerType
from click.testing import CliRunner
from tiny_runs import assert_same_bits, everything
from torch import Tensor

from unclip.cli import cli
from unclip.diffusion.diffusion import Diffusion, DiffusionConfig
from unclip.errors import ConfigError
from unclip.files import read_weights
from unclip.stages import load_stage
from unclip.train import loop
from unclip.train.checkpoint import read_progress, step_folders
from unclip.train.config import RunConfig
from unclip.train.loop import train


def lines(run: Path, name: str) -> list[Any]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in found if name in line]


def distance(a: Path, b: Path) -> float:
    ours, theirs = (read_weights(folder / "state/weights.safetensors") for folder in (a, b))
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


# --- what a block does ---


@pytest.mark.parametrize("kind", ["clip", "decoder", "prior", "upsampler"])
def test_recomputing_activations_changes_no_bit(kind: str, run_of: Any, tmp_path: Path) -> None:
    dropout = ["stage.unet.dropout=0.2"] if kind in ("decoder", "upsampler") else []
    plain = train(run_of(kind, "train.steps=2", *dropout), tmp_path / "plain", progress=False)
    again = train(
        run_of(kind, "train.steps=2", "train.recompute=true", *dropout), tmp_path / "again", progress=False
    )
    assert_same_bits(plain, again)


def test_adamw_in_one_kernel_takes_the_same_steps(run_of: Any, tmp_path: Path) -> None:
    fused = train(run_of("prior", "train.steps=2"), tmp_path / "fused", progress=False)
    single = train(run_of("prior", "train.steps=2", "optim.fused=false"), tmp_path / "single", progress=False)
    assert everything(fused).keys() == everything(single).keys()
    assert (
        distance(fused, single) <= 0.1 * 0.001
    )  # of a step's length, where rounding meets a gradient near nought


# --- precision ---


@pytest.mark.parametrize(
    ("kind", "bound"), [("clip", 0.05), ("prior", 0.05), ("decoder", 0.002), ("upsampler", 0.005)]
)
def test_bf16_stays_near_float32(kind: str, bound: float, run_of: Any, tmp_path: Path) -> None:
    saved = {}
    for precision in ("no", "bf16"):
        options = (
            "train.steps=8",
            "train.log_every=1",
            "train.save_every=1",
            "train.keep=8",
            f"train.precision={precision}",
        )
        train(run_of(kind, *options), tmp_path / precision, progress=False)
        folders = step_folders(tmp_path / precision)
        saved[precision] = [
            read_weights(folder / "state/weights.safetensors") for folder in (folders[0], folders[-1])
        ]
    whole, half = (lines(tmp_path / precision, "loss") for precision in ("no", "bf16"))
    assert whole != half
    assert half == pytest.approx(whole, rel=bound)

    def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return sum((a[name] - b[name]).square().sum().item() for name in a) ** 0.5

    (start, end), (_, other) = saved["no"], saved["bf16"]
    assert far(end, other) < 0.15 * far(start, end)


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets runs compute in fp16 on the CPU, where accelerate refuses it, with a loss scale that begins at a
    number.
    """
    make = loop._accelerator

    def scaled_by(scale: float) -> None:
        def half(config: RunConfig, run: Path) -> Any:
            accelerator = make(config, run)
            accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1)
            return accelerator

        monkeypatch.setattr(loop, "_accelerator", half)

    return scaled_by


def test_fp16_scales_the_loss_and_resumes_with_its_scale(run_of: Any, tmp_path: Path, fp16: Any) -> None:
    config = run_of("upsampler", "train.log_every=1")
    train(config, tmp_path / "float32", progress=False)
    fp16(256.0)
    whole = train(config, tmp_path / "whole", progress=False)
    ours, theirs = (lines(tmp_path / name, "loss") for name in ("whole", "float32"))
    assert ours != theirs and ours == pytest.approx(theirs, rel=1e-3)
    ours, theirs = (lines(tmp_path / name, "grad_norm") for name in ("whole", "float32"))
    assert ours == pytest.approx(theirs, rel=0.02)  # not 256 times as long
    train(run_of("upsampler", "train.steps=2"), tmp_path / "halves", progress=False)
    assert_same_bits(train(run_of("upsampler"), tmp_path / "halves", progress=False), whole)
    scaler = read_progress(whole).scaler
    assert scaler is not None and scaler["scale"] == 256 * 2**4  # it grew with every good step


def test_a_scale_that_is_too_large_skips_steps_and_falls(run_of: Any, tmp_path: Path, fp16: Any) -> None:
    fp16(2.0**120)  # two halvings are not enough
    last = train(run_of("upsampler", "train.steps=2", "optim.skip_limit=3"), tmp_path / "run", progress=False)
    done = read_progress(last)
    assert done.skipped == 2 and done.scaler is not None and done.scaler["scale"] == 2.0**118


def test_fp16_without_a_gpu_is_refused(run_of: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.precision=fp16 needs a GPU"):
        train(run_of("upsampler", "train.precision=fp16"), tmp_path, progress=False)


# --- averages ---


def test_several_averages_at_once_are_what_each_is_alone(run_of: Any, tmp_path: Path) -> None:
    both = train(run_of("upsampler", "train.ema=[0.9999,0.1]"), tmp_path / "both", progress=False)
    for decay, folder in (("0.9999", both), ("0.1", both / "ema-0.1")):
        alone = train(run_of("upsampler", f"train.ema={decay}"), tmp_path / decay, progress=False)
        ours, theirs = read_weights(folder / "model.safetensors"), read_weights(alone / "model.safetensors")
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        load_stage(folder)
    train(run_of("upsampler", "train.ema=[0.9999,0.1]", "train.steps=2"), tmp_path / "halves", progress=False)
    rest = train(run_of("upsampler", "train.ema=[0.9999,0.1]"), tmp_path / "halves", progress=False)
    assert_same_bits(rest, both)
    assert (rest / "ema-0.1/model.safetensors").read_bytes() == (
        both / "ema-0.1/model.safetensors"
    ).read_bytes()


# --- loss weights ---


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_loss_weights_follow_the_papers(predict: Any) -> None:
    plain = Diffusion(DiffusionConfig(predict=predict))
    snr = (plain.schedule.alpha / plain.schedule.sigma) ** 2
    t = torch.tensor([5, 300, 600, 900])
    x0, eps = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)

    def ratio(**config: Any) -> Tensor:
        weighted = Diffusion(DiffusionConfig(predict=predict, **config))
        network = lambda x, t: 0.5 * x  # noqa: E731
        return weighted.loss(network, x0, {}, t, eps) / plain.loss(network, x0, {}, t, eps)

    # What an error of one in x0 is worth, as an error of what the network predicts.
    of_output = {"eps": 1 / snr, "x0": torch.ones_like(snr), "v": 1 / (snr + 1)}[predict]
    for gamma in (5.0, 1.0):  # Hang et al. 2023, section 3.4: min(SNR, gamma) on the error of x0
        expected = snr.clamp(max=gamma) * of_output
        torch.testing.assert_close(ratio(weight="min_snr", gamma=gamma), expected[t].float())
    # Choi et al. 2022, equation 8 with k = 1: 1 / (1 + SNR)^gamma on the error of eps, which is SNR times
    # that of x0.
    torch.testing.assert_close(ratio(weight="p2", gamma=0.5), (snr / (1 + snr) ** 0.5 * of_output)[t].float())


# --- validation and watching ---


def test_validation_watches_and_does_not_touch(
    run_of: Any, tmp_path: Path, train_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("train.validate_every=1", "train.validation_images=8", f"data.validation={train_shards}")
    watched = train(run_of("prior", *options), tmp_path / "watched", progress=False)
    unwatched = train(run_of("prior"), tmp_path / "unwatched", progress=False)
    assert_same_bits(watched, unwatched)
    found = lines(tmp_path / "watched", "validation_loss")
    assert len(found) == 4 and len(set(found)) == 4
    for name in ("cosine_to_image", "cosine_to_text"):
        assert all(-1 <= value <= 1 for value in lines(tmp_path / "watched", name))
    # The same weights have the same loss, to the bit: times and noise are fixed.
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 0.0)
    train(run_of("upsampler", *options, "optim.weight_decay=0"), tmp_path / "still", progress=False)
    assert len(set(lines(tmp_path / "still", "validation_loss"))) == 1


@pytest.mark.parametrize("kind", ["prior_onepass", "prior_ar"])
def test_every_prior_is_watched_by_its_cosines(
    kind: str, run_of: Any, tmp_path: Path, train_shards: str
) -> None:
    options = ("train.validate_every=1", "train.validation_images=4", f"data.validation={train_shards}")
    train(run_of("prior", f"stage.kind={kind}", "train.steps=1", *options), tmp_path / "run", progress=False)
    for name in ("cosine_to_image", "cosine_to_text"):
        (value,) = lines(tmp_path / "run", name)
        assert -1 <= value <= 1


def test_utilisation_is_reported_where_the_peak_is_given(run_of: Any, tmp_path: Path) -> None:
    train(run_of("upsampler", "train.peak_tflops=0.001"), tmp_path / "run", progress=False)
    assert all(share > 0 for share in lines(tmp_path / "run", "mfu"))
    assert all(0 <= wait < 1 for wait in lines(tmp_path / "run", "data_wait"))


def test_a_tracker_that_is_not_installed_is_named(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb"):
        train(run_of("upsampler", "train.trackers=[wandb]"), tmp_path, progress=False)


def test_tensorboard_gets_the_numbers(run_of: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(run_of("upsampler", "train.trackers=[tensorboard]"), tmp_path / "run", progress=False)
    events = EventAccumulator(str(tmp_path / "run/upsampler"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [loss.step for loss in losses] == [1, 4]
    assert [loss.value for loss in losses] == pytest.approx(lines(tmp_path / "run", "loss"))
    assert read_progress(step_folders(tmp_path / "run")[-1]).images == 16


# What accelerate needs of wandb, which tells a file what it is told.
WANDB = """
import json, pathlib
def init(**options):
    tell(init=options)
    return Run()
def tell(**what):
    if "samples" in what.get("log", {}):
        what = {"sheet": {"step": what["log"]["step"], "shapes": [one.shape for one in what["log"]["samples"]]}}
    with (pathlib.Path(__file__).parent / "told.jsonl").open("a") as file:
        file.write(json.dumps(what) + "\\n")
class Run:
    def log(self, values, step):
        tell(log={"step": step, **values})
    def finish(self):
        pass
class Image:
    def __init__(self, pixels):
        self.shape = pixels.shape
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package that stands in for wandb."""
    package = tmp_path / "site/wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(
        "accelerate.tracking._available_trackers", [LoggerType.WANDB]
    )  # looked up when it was imported
    yield package
    sys.modules.pop("wandb", None)


def test_a_run_that_goes_on_is_one_run_at_wandb(wandb: Path, run_of: Any, tmp_path: Path) -> None:
    for steps in (2, 4):
        config = run_of("upsampler", "train.trackers=[wandb]", f"train.steps={steps}")
        train(config, tmp_path / "run", progress=False)
    told = [json.loads(line) for line in (wandb / "told.jsonl").read_text().splitlines()]
    first, second = (line["init"] for line in told if "init" in line)
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["project"] == "upsampler"
    assert Path(first["dir"]) == tmp_path / "run" and second["config"]["train"]["steps"] == 4
    assert [line["log"]["loss"] for line in told if "log" in line] == lines(tmp_path / "run", "loss")


def test_a_tracker_that_cannot_start_is_one_line(wandb: Path, run_of: Any, tmp_path: Path) -> None:
    (wandb / "__init__.py").write_text("def init(**options): raise RuntimeError('nobody is logged in')")
    with pytest.raises(ConfigError, match=r"upsampler: train.trackers: .*nobody is logged in"):
        train(run_of("upsampler", "train.trackers=[wandb]"), tmp_path / "run", progress=False)


def test_info_tells_how_far_a_run_is(run_of: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run_of("upsampler", "train.steps=2"), run, progress=False)

    def said() -> dict[str, Any]:
        done = CliRunner().invoke(cli, ["info", str(run), "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.output)
        return found

    finished = said()
    assert (finished["stage"], finished["step"], finished["state"]) == ("upsampler", "2 of 2", "finished")
    assert finished["loss"] > 0 and finished["images"] == 8 and finished["checkpoints"] == ["step-00000002"]
    # A run that goes on, and whose last line is only half written.
    (run / "run.yaml").write_text(
        (run / "run.yaml").read_text().replace("steps: 2\n  seed", "steps: 9\n  seed")
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    running = said()
    assert running["step"] == "2 of 9" and running["state"].startswith("reported ")
