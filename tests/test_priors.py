"""The autoregressive and the one-pass prior, alone and in a pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from unclip.cli import cli
from unclip.clip import Text
from unclip.diffusion.noise import SeededNoise
from unclip.errors import RequestError
from unclip.models.assemble import assemble
from unclip.pipeline import Pipeline
from unclip.stages import load_stage
from unclip.stages.batch import Batch
from unclip.stages.prior_ar import AutoregressiveConfig, AutoregressivePrior
from unclip.stages.prior_base import BasePrior
from unclip.stages.prior_onepass import OnePassConfig, OnePassPrior

D, W, L = 8, 12, 10
SHAPE: dict[str, Any] = {"embed": D, "token_width": W, "context": L, "width": 32, "depth": 1, "heads": 2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def ar(**config: Any) -> AutoregressivePrior:
    return AutoregressivePrior(AutoregressiveConfig(**{**SHAPE, "buckets": 16, "dots": 8, **config}))


def onepass(**config: Any) -> OnePassPrior:
    return OnePassPrior(OnePassConfig(**{**SHAPE, **config}))


def text(which: Tensor) -> Text:
    """One of four captions for each number; -1 is the empty one."""
    table = torch.randn(5, 3, W, generator=torch.Generator().manual_seed(1))
    embed = torch.cat([points(), torch.zeros(1, D)])
    mask = torch.ones(len(which), 3, dtype=torch.bool)
    return Text([str(int(i)) for i in which], mask.long(), mask, embed[which], table[which])


def batch(n: int = 64) -> Batch:
    """z_i is one of four points, said by the caption, in three of the eight dimensions, and a little
    noise.
    """
    which = torch.randint(4, (n,))
    return Batch(("",) * n, None, points()[which] + 0.02 * low_rank(n), text(which), text(torch.tensor([-1])))


def points() -> Tensor:
    return torch.tensor([[2.0, 1, 0], [-2, 1, 0], [0, -2, 1], [0.5, 0, -2]]) @ mixing()


def low_rank(n: int) -> Tensor:
    return torch.randn(n, 3) @ mixing()


def mixing() -> Tensor:
    return torch.linalg.qr(torch.randn(D, 3, generator=torch.Generator().manual_seed(3)))[0].T


def trained(stage: Any, steps: int) -> Any:
    stage.calibrate(batch() for _ in range(8))
    optimizer = torch.optim.AdamW(stage.parameters(), 3e-3)
    for _ in range(steps):
        loss = stage(batch())
        assert loss.shape == (64,)
        optimizer.zero_grad()
        loss.mean().backward()
        assert all(p.grad is not None for p in stage.parameters())
        optimizer.step()
    return stage.eval()


def last(steps: Iterator[Any]) -> Tensor:
    *_, step = steps
    return step.x


@torch.inference_mode()
def drawn(stage: BasePrior, which: Tensor, seeds: list[int], **changes: Any) -> Tensor:
    null = text(torch.full_like(which, -1))
    return last(
        stage.sample(text(which), null, stage.config.sampling.updated(changes), SeededNoise(seeds, "prior"))
    )


@pytest.mark.parametrize("make", [ar, partial(onepass, contrast=0.01)])
def test_it_learns_which_z_i_a_caption_means(make: Any) -> None:
    stage = trained(make(), 250)
    which = torch.arange(4).repeat(8)
    made = drawn(stage, which, list(range(32)))
    found = torch.cdist(made, points()).argmin(1)
    assert (found == which).float().mean() > 0.9
    assert (made - points()[which]).norm(dim=1).median() < 0.5


@pytest.mark.parametrize("make", [ar, onepass])
def test_a_seed_draws_the_same_alone_and_in_a_batch_and_another_another(make: Any) -> None:
    stage = trained(make(), 5)
    together = drawn(stage, torch.tensor([0, 0, 1]), [5, 6, 7])
    torch.testing.assert_close(drawn(stage, torch.tensor([1]), [7]), together[2:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])
    guided = drawn(stage, torch.tensor([0, 0, 1]), [5, 6, 7], guidance=8.0)
    assert not torch.allclose(guided, together)


@pytest.mark.parametrize("make", [ar, onepass])
def test_it_saves_and_loads_with_the_same_bits(make: Any, tmp_path: Path) -> None:
    stage = trained(make(), 2)
    stage.save(tmp_path)
    again = load_stage(tmp_path)
    assert type(again) is type(stage)
    which = torch.arange(3)
    assert torch.equal(drawn(stage, which, [1, 2, 3]), drawn(again, which, [1, 2, 3]))  # type: ignore[arg-type]


def test_only_the_components_that_explain_the_variance_are_kept() -> None:
    stage = ar(buckets=1024)
    stage.calibrate(batch() for _ in range(8))
    assert stage.length(stage.config.sampling) == 3
    assert (stage.spread[:2] >= stage.spread[1:3]).all()
    z_i = batch().image_embed
    assert z_i is not None
    codes = stage.quantise(z_i)
    assert codes.shape == (64, 3) and codes.min() >= 0 and codes.max() < 1024
    # At most half a bucket is lost of each component.
    error = ((stage.restore(codes) - z_i) @ stage.basis[:3].T).abs()
    assert (error <= 4 * stage.spread[:3] / 1024 * 1.01).all()
    assert torch.equal(stage.quantise(stage.restore(codes)), codes)


def test_what_is_out_of_reach_gets_the_outermost_bucket() -> None:
    stage = ar()
    assert stage.quantise(torch.full((1, D), 1e6)).tolist() == [[15] * D]
    assert stage.quantise(torch.full((1, D), -1e6)).tolist() == [[0] * D]


def test_no_code_sees_a_later_one() -> None:
    stage = ar().eval()
    codes = torch.randint(16, (1, 5))
    changed = codes.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 16
    dot, caption = torch.tensor([2]), text(torch.tensor([1]))
    hints = stage._hints(caption)
    a, b = (stage._logits(each, dot, hints, caption) for each in (codes, changed))
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.allclose(a[:, 4:], b[:, 4:])


def test_the_dot_product_is_drawn_from_the_top_half(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = trained(ar(), 1)
    seen: list[int] = []
    original = stage._logits

    def spy(codes: Tensor, dot: Tensor, hints: Tensor, caption: Text) -> Tensor:
        seen.extend(dot.tolist())
        return original(codes, dot, hints, caption)

    monkeypatch.setattr(stage, "_logits", spy)
    drawn(stage, torch.zeros(64, dtype=torch.long), list(range(64)), guidance=1.0)
    assert set(seen) == {4, 5, 6, 7}


def test_the_contrast_counts_for_rows_with_a_caption_only() -> None:
    given, captions = batch(8), torch.get_rng_state()

    def losses(**config: float) -> Tensor:
        torch.manual_seed(0)
        stage = onepass(**config)
        torch.set_rng_state(captions)
        return stage(given)

    assert torch.equal(losses(text_drop=1, contrast=5), losses(text_drop=1, contrast=0))
    assert (losses(text_drop=0, contrast=5) > losses(text_drop=0, contrast=0)).all()


@pytest.mark.parametrize("kind", ["prior_ar", "prior_onepass"])
def test_it_takes_the_priors_place_in_a_model(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    whole = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    shape: dict[str, Any] = {
        "clip": whole.clip.identity,
        "embed": 32,
        "token_width": 32,
        "context": 48,
        "width": 32,
    }
    stage: BasePrior
    if kind == "prior_ar":
        stage = AutoregressivePrior(AutoregressiveConfig(**shape, depth=1, heads=2, buckets=8, dots=4))
        stage.kept.fill_(6)
    else:
        stage = OnePassPrior(OnePassConfig(**shape, depth=1, heads=2))
    (tmp_path / kind).mkdir()
    stage.save(tmp_path / kind)
    parts = [tiny_model / name for name in ("clip", "decoder", "upsampler-256")]
    assemble([tmp_path / kind, *parts], tmp_path / "model", name="other")
    pipe = Pipeline.from_pretrained(str(tmp_path / "model"), device="cpu")
    counted: list[tuple[int, int]] = []
    made = pipe(
        "a fox",
        seed=1,
        size=64,
        on_step=lambda role, i, n, step: counted.append((i, n)) if role == "prior" else None,
    )
    assert made.images[0].size == (64, 64)
    assert counted[-1] == ((6, 6) if kind == "prior_ar" else (1, 1))
    pipe.save_pretrained(tmp_path / "copy")
    assert type(Pipeline.from_pretrained(str(tmp_path / "copy"), device="cpu").prior) is type(stage)


def test_calibrate_measures_a_prior_once_and_refuses_what_does_not_fit(
    tiny_model: Path, train_shards: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model / "prior", tmp_path / "prior")

    def calibrate(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["calibrate", *arguments])

    clip = ("--clip", str(tiny_model / "clip"), "--count", "64")
    assert calibrate(str(tmp_path / "prior"), train_shards, *clip).exit_code == 0
    x0_variance = json.loads((tmp_path / "prior/config.json").read_text())["diffusion"]["x0_variance"]
    assert len(x0_variance) == 64 and min(x0_variance) >= 0 and len(set(x0_variance)) > 1
    for arguments, message in (
        ((str(tmp_path / "prior"), train_shards), "--clip"),
        ((str(tiny_model / "decoder"), train_shards, *clip), "is a decoder"),
        ((str(tmp_path / "prior"), train_shards, *clip[:2], "--count", "3"), "--count 3"),
    ):
        failed = calibrate(*arguments)
        assert isinstance(failed.exception, RequestError) and message in str(failed.exception)


def test_priors_are_compared_with_each_other_and_with_none(tiny_model: Path, tmp_path: Path) -> None:
    identity = Pipeline.from_pretrained(str(tiny_model), device="cpu").clip.identity
    shape: dict[str, Any] = {
        "embed": 32,
        "token_width": 32,
        "context": 48,
        "width": 32,
        "depth": 1,
        "heads": 2,
    }
    for name, clip in (("mine", identity), ("foreign", "other@1")):
        (tmp_path / name).mkdir()
        OnePassPrior(OnePassConfig(**shape, clip=clip)).save(tmp_path / name)
    arguments = [
        "evaluate",
        "prior",
        "--model",
        str(tiny_model),
        "--count",
        "3",
        "--batch",
        "2",
        "--json",
        "--prior",
    ]
    result = CliRunner().invoke(cli, [*arguments, str(tmp_path / "mine")], catch_exceptions=False)
    rows = json.loads(result.stdout)
    assert [row["name"].split(" (")[0] for row in rows] == [
        "prior",
        "prior_onepass",
        "no prior: z_t",
        "no z_i: caption only",
    ]
    assert all(-1 <= row["cosine"] <= 1 for row in rows[:3]) and rows[3]["cosine"] is None
    assert rows[0]["seconds"] > 0 and rows[2]["seconds"] == rows[3]["seconds"] == 0
    assert len({row["named"]["of"] for row in rows}) == 1
    for wrong, message in (("foreign", "other@1"), (str(tiny_model / "decoder"), "not a prior")):
        failed = CliRunner().invoke(cli, [*arguments, str(tmp_path / wrong)])
        assert isinstance(failed.exception, RequestError) and message in str(failed.exception)
