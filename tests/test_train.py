"""The training loop: its files, bit-exact resumption and refused configs."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import STAGES, assert_same_bits, everything
from torch import Tensor

from unclip.data.tar import find_shards, read_samples, write_shard
from unclip.errors import CheckpointError, ConfigError, DataError
from unclip.files import read_weights
from unclip.stages import load_stage, stage_class
from unclip.train.checkpoint import step_folders
from unclip.train.config import OptimConfig, read_run
from unclip.train.ema import Ema
from unclip.train.loop import learning_rate, train

# --- resuming ---


@pytest.mark.parametrize("kind", sorted(STAGES))
def test_two_steps_and_two_more_are_four_bit_for_bit(kind: str, run_of: Any, tmp_path: Path) -> None:
    whole = train(run_of(kind), tmp_path / "whole", progress=False)
    half = train(run_of(kind, "train.steps=2"), tmp_path / "halves", progress=False)
    assert half.name == "step-00000002"
    torch.manual_seed(12345)  # a new process starts with other generators
    rest = train(run_of(kind), tmp_path / "halves", progress=False)
    assert rest.name == whole.name == "step-00000004"
    assert_same_bits(rest, whole)
    # ... and the two last steps did something.
    assert any(not torch.equal(v, everything(half)[k]) for k, v in everything(rest).items() if "weights" in k)


def test_resuming_between_two_regular_checkpoints_is_exact_too(run_of: Any, tmp_path: Path) -> None:
    whole = train(run_of("upsampler", "train.save_every=1000"), tmp_path / "whole", progress=False)
    train(run_of("upsampler", "train.save_every=1000", "train.steps=3"), tmp_path / "halves", progress=False)
    rest = train(run_of("upsampler", "train.save_every=1000"), tmp_path / "halves", progress=False)
    assert_same_bits(rest, whole)


def test_resuming_is_exact_in_bf16_with_accumulation(run_of: Any, tmp_path: Path) -> None:
    options = ("train.precision=bf16", "train.accumulate=2")
    whole = train(run_of("upsampler", *options), tmp_path / "whole", progress=False)
    train(run_of("upsampler", *options, "train.steps=3"), tmp_path / "halves", progress=False)
    assert_same_bits(train(run_of("upsampler", *options), tmp_path / "halves", progress=False), whole)


def test_other_seeds_train_other_weights(run_of: Any, tmp_path: Path) -> None:
    a = train(run_of("upsampler", "train.steps=1"), tmp_path / "a", progress=False)
    b = train(run_of("upsampler", "train.steps=1", "train.seed=1"), tmp_path / "b", progress=False)
    c = train(run_of("upsampler", "train.steps=1"), tmp_path / "c", progress=False)
    assert_same_bits(a, c)
    with pytest.raises(AssertionError):
        assert_same_bits(a, b)


def test_a_finished_run_is_left_as_it_is(run_of: Any, tmp_path: Path) -> None:
    last = train(run_of("upsampler", "train.steps=2"), tmp_path / "run", progress=False)
    written = (last / "model.safetensors").stat().st_mtime_ns
    assert train(run_of("upsampler", "train.steps=2"), tmp_path / "run", progress=False) == last
    assert (last / "model.safetensors").stat().st_mtime_ns == written


def test_sigterm_leaves_a_checkpoint_that_goes_on_exactly(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(run_of("upsampler"), tmp_path / "whole", progress=False)
    update = Ema.update

    def terminated(self: Ema, stage: Any, step: int) -> None:
        update(self, stage, step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Ema, "update", terminated)
        stopped = train(run_of("upsampler", "train.sample_every=1"), tmp_path / "stopped", progress=False)
    assert stopped.name == "step-00000003"
    drawn = sorted(path.name for path in (tmp_path / "stopped/samples").iterdir())
    assert drawn == ["step-00000001.png", "step-00000002.png"]  # somebody waits: no more than a checkpoint
    assert signal.getsignal(signal.SIGTERM) == before
    assert_same_bits(train(run_of("upsampler"), tmp_path / "stopped", progress=False), whole)


def test_a_checkpoint_that_was_not_finished_is_not_resumed(run_of: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run_of("upsampler", "train.steps=2"), run, progress=False)
    (run / ".step-00000004.tmp").mkdir()
    (run / "step-00000004").mkdir()
    assert [p.name for p in step_folders(run)] == ["step-00000002"]
    whole = train(run_of("upsampler"), tmp_path / "whole", progress=False)
    assert_same_bits(train(run_of("upsampler"), run, progress=False), whole)


@pytest.mark.parametrize(
    ("kind", "override", "says"),
    [
        ("upsampler", "stage.unet.channels=64", "stage.unet.channels was 32, is 64"),
        ("prior", "stage.text_drop=0.5", "stage.text_drop was 0.1, is 0.5"),
        ("prior", "train.ema=[0.9999,0.9]", "train.ema has 0.9, which the checkpoint has no average for"),
    ],
)
def test_another_config_does_not_resume_and_the_keys_are_named(
    kind: str, override: str, says: str, run_of: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    last = train(run_of(kind, "train.steps=1"), run, progress=False)
    before, settings = everything(last), (run / "run.yaml").read_text()
    with pytest.raises(ConfigError, match=re.escape(says)):
        train(run_of(kind, override), run, progress=False)
    assert everything(last).keys() == before.keys()
    assert (run / "run.yaml").read_text() == settings


def test_another_clip_or_stage_does_not_resume(run_of: Any, tmp_path: Path) -> None:
    train(run_of("prior", "train.steps=1"), tmp_path / "run", progress=False)
    other = train(
        run_of("clip", "train.steps=1", "stage.architecture.text_width=64"), tmp_path / "clip", progress=False
    )
    with pytest.raises(ConfigError, match=r"clip was tiny-clip@\w+, is test@\w+"):
        train(run_of("prior", f"clip={other}"), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="is a prior, not a upsampler"):
        train(run_of("upsampler"), tmp_path / "run", progress=False)


def test_how_it_is_sampled_may_change(run_of: Any, tmp_path: Path) -> None:
    train(run_of("upsampler", "train.steps=1"), tmp_path / "run", progress=False)
    last = train(
        run_of("upsampler", "train.steps=2", "stage.sampling.steps=9"), tmp_path / "run", progress=False
    )
    assert load_stage(last).config.sampling.steps == 9


# --- what a run writes ---


def test_a_run_folder_holds_its_config_metrics_samples_and_stages(run_of: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = run_of("decoder", "train.sample_every=2", "train.keep=1", "train.save_every=1")
    last = train(config, run, progress=False)
    assert read_run(run / "run.yaml") == config
    assert "torch" in json.loads((run / "environment.json").read_text())
    assert [p.name for p in step_folders(run)] == ["step-00000004"] == [p.name for p in run.glob("*step-*")]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step-00000002.png", "step-00000004.png"]
    with Image.open(run / "samples/step-00000002.png") as sheet:
        assert sheet.size == (4 * 36 - 4, 2 * 36 - 4)  # four pictures of 32 px above their originals
        assert len(set(sheet.tobytes())) > 10
    _, line = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] == 4 and line["images"] == 16 and line["images_per_second"] > 0
    assert math.isfinite(line["loss"]) and line["lr"] == pytest.approx(learning_rate(3, config.optim, 4))
    stage = load_stage(last)
    assert stage.config.clip and stage.config.clip.startswith("tiny-clip@")


@pytest.mark.parametrize(
    ("keep", "every", "kept"),
    [(1, 0, [4]), (2, 0, [3, 4]), (9, 0, [1, 2, 3, 4]), (1, 2, [2, 4]), (1, 3, [3, 4])],
)
def test_the_newest_checkpoints_and_every_nth_are_kept(
    keep: int, every: int, kept: list[int], run_of: Any, tmp_path: Path
) -> None:
    options = ("train.save_every=1", f"train.keep={keep}", f"train.keep_every={every}")
    train(run_of("upsampler", *options), tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").glob(".*"))
    assert [p.name for p in step_folders(tmp_path / "run")] == [f"step-{n:08d}" for n in kept]


def test_bad_samples_are_reported_with_the_loss_and_resumed_exactly(
    run_of: Any, train_shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = list(islice(read_samples(find_shards(train_shards)), 12))
    bad = tmp_path / "bad.tar"
    write_shard(bad, [*good, {**good[0], "__key__": "bad", "png": b"broken"}])
    whole = train(run_of("upsampler", f"data.shards={bad}"), tmp_path / "whole", progress=False)
    metrics = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    skipped = [n for text in metrics if (n := json.loads(text)["skipped_samples"])]
    assert skipped and all(f"{bad}: {n} unreadable picture" in caplog.text for n in skipped)
    train(run_of("upsampler", f"data.shards={bad}", "train.steps=3"), tmp_path / "halves", progress=False)
    assert_same_bits(
        train(run_of("upsampler", f"data.shards={bad}"), tmp_path / "halves", progress=False), whole
    )


def test_metrics_go_on_in_the_same_file(run_of: Any, tmp_path: Path) -> None:
    train(run_of("upsampler", "train.log_every=1", "train.steps=2"), tmp_path / "run", progress=False)
    train(run_of("upsampler", "train.log_every=1"), tmp_path / "run", progress=False)
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["images"] for line in lines] == [4, 8, 12, 16]


def test_upsampler_samples_show_input_result_and_truth(run_of: Any, tmp_path: Path) -> None:
    train(run_of("upsampler", "train.steps=1", "train.sample_every=1"), tmp_path / "run", progress=False)
    with Image.open(tmp_path / "run/samples/step-00000001.png") as sheet:
        assert sheet.size == (4 * 36 - 4, 3 * 36 - 4)


def test_the_prior_measures_its_embeddings_before_it_trains(run_of: Any, tmp_path: Path) -> None:
    last = train(run_of("prior", "train.steps=1"), tmp_path / "run", progress=False)
    weights = read_weights(last / "model.safetensors")
    assert weights["mean"].abs().sum() > 0
    assert not torch.allclose(weights["std"], torch.full_like(weights["std"], 1 / 17.2))
    live = read_weights(last / "state/weights.safetensors")
    assert torch.equal(weights["mean"], live["mean"]) and torch.equal(weights["std"], live["std"])


def test_training_learns(run_of: Any, tmp_path: Path) -> None:
    options = (
        "train.steps=60",
        "train.log_every=10",
        "train.save_every=1000",
        "optim.lr=0.003",
        "stage.degradation=none",
    )
    train(run_of("upsampler", *options), tmp_path / "run", progress=False)
    losses = [json.loads(text)["loss"] for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0], losses


# --- arithmetic ---


def test_the_average_follows_its_closed_form(run_of: Any) -> None:
    config = run_of("upsampler")
    stage = stage_class(config.stage.kind)(config.stage)
    name, parameter = next(iter(stage.named_parameters()))
    ema = Ema(stage, decay=0.3)
    assert not any(p.requires_grad for p in ema.stage(stage).parameters())
    expected = parameter.detach().clone()
    for step, decay in (
        (1, 2 / 11),
        (2, 3 / 12),
        (3, 0.3),
        (4, 0.3),
    ):  # warmed up as (1 + step) / (10 + step)
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
        ema.update(stage, step)
        expected = decay * expected + (1 - decay) * parameter.detach()
        torch.testing.assert_close(ema.tensors[name], expected)


def test_the_first_steps_average_is_what_the_run_saves(run_of: Any, tmp_path: Path) -> None:
    last = train(run_of("upsampler", "train.steps=1", "train.ema=0.999"), tmp_path / "run", progress=False)
    averaged = read_weights(last / "model.safetensors")
    live = read_weights(last / "state/weights.safetensors")
    moments = read_weights(last / "state/optimizer.safetensors")
    assert sum(name.endswith(".exp_avg") for name in moments) == len(live)
    # AdamW's first step moves every weight by the rate (warm-up: half of it), the average by 9/11 of that.
    name = "network.unet.conv_out.weight"  # at first the only layer with a gradient: it starts at zero
    moved = (live[name] - averaged[name]) * 11 / 2
    assert moved.abs().median().item() == pytest.approx(0.0005, rel=0.05)


def test_learning_rate_closed_form() -> None:
    flat = OptimConfig(lr=2.0, warmup=4)
    assert [learning_rate(s, flat, 10) for s in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert learning_rate(0, OptimConfig(lr=2.0, warmup=0), 10) == 2.0
    cosine = OptimConfig(lr=1.0, warmup=0, decay="cosine")
    assert learning_rate(0, cosine, 100) == 1.0
    assert learning_rate(50, cosine, 100) == pytest.approx(0.525)
    assert learning_rate(100, cosine, 100) == pytest.approx(0.05)
    rates = [learning_rate(s, cosine, 100) for s in range(101)]
    assert rates == sorted(rates, reverse=True)
    warm = OptimConfig(lr=1.0, warmup=10, decay="cosine")
    assert learning_rate(4, warm, 100) == pytest.approx(0.5 * rates[4])


@pytest.mark.parametrize("kind", ["decoder", "prior", "upsampler"])
def test_accumulating_two_batches_of_four_is_one_of_eight(kind: str, run_of: Any, tmp_path: Path) -> None:
    def gradient(*options: str) -> Tensor:
        run = tmp_path / "-".join(options)
        last = train(run_of(kind, "train.steps=1", *options), run, progress=False)
        moments = read_weights(last / "state/optimizer.safetensors")
        return torch.cat([moments[name].flatten() for name in sorted(moments) if name.endswith(".exp_avg")])

    whole = gradient("data.batch=8")
    parts = gradient("data.batch=4", "train.accumulate=2")
    half = gradient("data.batch=4")
    assert whole.norm() > 0
    assert (whole - parts).norm() < 1e-4 * whole.norm()
    assert (whole - half).norm() > 1e-2 * whole.norm()


def test_gradients_are_clipped(run_of: Any, tmp_path: Path) -> None:
    last = train(
        run_of("upsampler", "train.steps=1", "optim.clip_norm=1.0e-3"), tmp_path / "run", progress=False
    )
    moments = read_weights(last / "state/optimizer.safetensors")
    norm = torch.cat([moments[n].flatten() for n in moments if n.endswith(".exp_avg")]).norm() / (1 - 0.9)
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


# --- configs ---


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001"])
def test_a_rate_may_be_written_as_people_write_it(written: str, run_of: Any) -> None:
    assert run_of("prior", f"optim.lr={written}").optim.lr == 1e-4


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.learning_rate=1", "optim.learning_rate: no such key"),
        ("stage.widht=5", "stage.widht: no such key"),
        ("stage.unet.chanels=5", "stage.unet.chanels: no such key"),
        (
            "stage.kind=piror",
            "no stage 'piror'; there are clip, decoder, decoder_kandinsky, decoder_stable, pixels, prior, prior_ar, prior_onepass, prior_vectors, "
            "upsampler",
        ),
        ("stage.kind=..", "no stage"),
        ("stage.kind=null", "no stage"),
        ("stage=5", "stage"),
        ("optim.lr=fast", "optim.lr"),
        ("optim.lr=-1", "optim.lr"),
        ("optim.lr=0", "optim.lr"),
        ("train.steps=0", "train.steps"),
        ("train.ema=1", "train.ema"),
        ("train.ema=[0.9,0.9]", "names a decay twice"),
        ("train.precision=fp8", "train.precision"),
        ("data.batch=0", "data.batch"),
        ("name=../evil", "name"),
        ("name=", "name"),
        ("stage.diffusion.schedule=cosin", "no noise schedule 'cosin'"),
        ("noequals", "key.sub=value"),
        ("=5", "key.sub=value"),
        ("name.sub=5", "name is a value"),
        ("train.steps=[1", "not a YAML value"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_key(override: str, says: str, run_of: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of("decoder", override)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert override.startswith(("noequals", "=", "name.sub", "train.steps=[")) or "decoder.yaml" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"a: [1\nb: 2", "not YAML"),
        (b"- 1\n- 2\n", "expected a mapping"),
        (b"\xff\xfe\x00", "cannot be read|not YAML"),
        (b"", "expected a mapping"),
        (b"name: x\n", "stage: Field required"),
    ],
)
def test_a_wrong_file_is_named(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_run(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_needs_data_and_a_clip_that_fits(run_of: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match="no such folder, table or tar"):
        train(run_of("upsampler", "data.shards=/nowhere/*.tar"), run, progress=False)
    with pytest.raises(ConfigError, match="a prior needs `clip`"):
        train(run_of("prior", "clip=null"), run, progress=False)
    with pytest.raises(CheckpointError, match="nowhere/clip: no such model"):
        train(run_of("prior", "clip=/nowhere/clip"), run, progress=False)
    with pytest.raises(ConfigError, match=r"stage\.embed is 64, but tiny-clip@\w+ has 32"):
        train(run_of("prior", "stage.embed=64"), run, progress=False)
    assert not step_folders(run)


def test_a_run_can_start_from_a_saved_stage(tmp_path: Path) -> None:
    from unclip.stages.clip import ClipConfig, ClipStage
    from unclip.stages.upsampler import Upsampler, UpsamplerConfig
    from unclip.train.start import start_from

    def stage(channels: int) -> Upsampler:
        return Upsampler(
            UpsamplerConfig(size=64, unet={"channels": channels, "multipliers": [1], "depth": 1})
        )

    saved = tmp_path / "saved"
    saved.mkdir()
    first = stage(32)
    first.save(saved)
    fresh = stage(32)
    start_from(fresh, saved)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), fresh.parameters(), strict=True))
    with pytest.raises(ConfigError, match="another shape"):
        start_from(stage(64), saved)
    clip = ClipStage(
        ClipConfig(
            architecture={
                "embed": 32,
                "vision_width": 32,
                "vision_depth": 1,
                "text_width": 32,
                "text_depth": 1,
                "head": 16,
                "merges": 10,
            }
        )
    )
    with pytest.raises(ConfigError, match="not a clip"):
        start_from(clip, saved)


def test_a_stage_goes_on_with_another_clip_and_measures_that_ones_embeddings(
    run_of: Any, tiny_clip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = load_stage(tiny_clip_folder)
    (tmp_path / "other").mkdir()
    type(tiny)(tiny.config.model_copy(update={"clip": None})).save(
        tmp_path / "other"
    )  # as wide, of other weights
    other, steps = f"clip={tmp_path / 'other'}", "train.steps=1"
    first = train(run_of("prior", steps), tmp_path / "first", progress=False)
    fresh = train(run_of("prior", steps, other), tmp_path / "fresh", progress=False)
    caplog.clear()
    moved = train(
        run_of("prior", steps, other, f"init={first}", "optim.lr=1e-30"), tmp_path / "moved", progress=False
    )
    old, new, begun = (load_stage(folder).state_dict() for folder in (first, fresh, moved))
    assert "training goes on with" in caplog.text
    assert load_stage(moved).config.clip == load_stage(fresh).config.clip != load_stage(first).config.clip
    for name in begun:
        measured = name in ("mean", "std")
        assert torch.equal(begun[name], (new if measured else old)[name]), name
        assert not measured or not torch.equal(begun[name], old[name])
