"""The prior that reads vectors: what it learns, its data, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from tiny_runs import assert_same_bits, tree
from torch import Tensor

from unclip.cli import cli
from unclip.data.embed import embed_shards
from unclip.data.examine import Limits
from unclip.data.loader import batches
from unclip.data.pack import PackJob, pack
from unclip.data.shards import DataConfig, Stream
from unclip.data.tar import read_shard, write_shard
from unclip.diffusion.noise import SeededNoise
from unclip.embeddings import read_embeddings
from unclip.errors import ConfigError, DataError, RequestError
from unclip.menagerie.priors import compare_priors
from unclip.menagerie.scene import VECTOR_WIDTH, sample
from unclip.menagerie.shards import write_shards
from unclip.models.assemble import assemble
from unclip.pipeline import Pipeline
from unclip.stages import load_stage
from unclip.stages.batch import Batch
from unclip.stages.prior_vectors import VectorPrior, VectorPriorConfig
from unclip.train.config import RunConfig, read_run
from unclip.train.loop import train
from unclip.train.plan import plan

D, WIDTH = 8, 5
STAGE: dict[str, Any] = {"kind": "prior_vectors", "width": 32, "depth": 1, "heads": 2}
NEEDS = frozenset({"image_embed", "vectors"})


@pytest.fixture(autouse=True)
def _seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


def prior(**config: Any) -> VectorPrior:
    shape = {"embed": D, "vectors": {"width": WIDTH}, **config}
    return VectorPrior(VectorPriorConfig(**{**STAGE, **shape}))


def points() -> Tensor:
    return torch.randn(4, D, generator=torch.Generator().manual_seed(3))


def said(which: Tensor, count: int = 1) -> Tensor:
    """Vectors that say one of four points; the last number is constant, the third is large."""
    table = torch.eye(WIDTH)[:4]
    table[:, 2] *= 1e4
    table[:, 4] = 7
    return table[which][:, None].expand(-1, count, -1)


def batch(n: int = 64, count: int = 1) -> Batch:
    which = torch.randint(4, (n,))
    return Batch(
        ("",) * n, image_embed=points()[which] + 0.02 * torch.randn(n, D), vectors=said(which, count)
    )


def trained(stage: VectorPrior, steps: int, count: int = 1) -> VectorPrior:
    stage.calibrate([batch(count=count) for _ in range(8)])
    optimizer = torch.optim.AdamW(stage.parameters(), 3e-3)
    for _ in range(steps):
        loss = stage(batch(count=count))
        assert loss.shape == (64,)
        optimizer.zero_grad()
        loss.mean().backward()
        assert all(p.grad is not None for p in stage.parameters())
        optimizer.step()
    return stage.eval()


@torch.inference_mode()
def drawn(stage: VectorPrior, vectors: Tensor, seeds: list[int], **changes: Any) -> Tensor:
    *_, last = stage.sample(vectors, stage.config.sampling.updated(changes), SeededNoise(seeds, "prior"))
    return last.x


# --- the stage ---


@pytest.mark.parametrize(("count", "tokens", "guidance"), [(1, 1, 1.0), (1, 3, 2.0), (2, 2, 1.0)])
def test_it_learns_which_z_i_a_vector_means(count: int, tokens: int, guidance: float) -> None:
    stage = trained(prior(vectors={"width": WIDTH, "count": count, "tokens": tokens}), 150, count)
    which = torch.arange(4).repeat(4)
    made = drawn(stage, said(which, count), list(range(16)), steps=8, guidance=guidance)
    assert (torch.cdist(made, points()).argmin(1) == which).float().mean() > 0.9


def test_a_constant_number_is_not_amplified_and_the_scale_of_numbers_does_not_matter() -> None:
    stage = prior()
    stage.calibrate([batch() for _ in range(8)])
    assert stage.vector_std[0, 4] == 1 and stage.vector_mean[0, 4] == 7
    assert 1e3 < stage.vector_std[0, 2] < 1e4 and 0.1 < stage.vector_std[0, 0] < 1
    same = batch()
    with pytest.raises(DataError, match="the vectors of the measured samples .* are all the same"):
        stage.calibrate(
            [Batch(same.captions, image_embed=same.image_embed, vectors=torch.ones(64, 1, WIDTH))]
        )


def test_a_seed_draws_the_same_alone_and_in_a_batch_and_after_loading(tmp_path: Path) -> None:
    stage, vectors = trained(prior(), 3), said(torch.arange(3))
    together = drawn(stage, vectors, [5, 6, 7], steps=4, guidance=3.0)
    alone = drawn(stage, vectors[2:], [7], steps=4, guidance=3.0)
    torch.testing.assert_close(alone, together[2:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn(stage, vectors, [5, 6, 7], steps=4), together)
    stage.save(tmp_path)
    again = load_stage(tmp_path)
    assert isinstance(again, VectorPrior)
    assert torch.equal(drawn(again, vectors, [5, 6, 7], steps=4, guidance=3.0), together)


def test_dropped_vectors_have_no_influence() -> None:
    stage = trained(prior(vector_drop=1.0), 2)
    one = batch(8)
    other = Batch(one.captions, image_embed=one.image_embed, vectors=100 * torch.randn(8, 1, WIDTH))
    losses = [
        stage(Batch(b.captions, image_embed=b.image_embed, vectors=b.vectors, seeds=torch.arange(8)))
        for b in (one, other)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": {}}, r"stage\.vectors\.width"),
        ({"vectors": {"width": 0}}, r"stage\.vectors\.width"),
        ({"sampling": {"candidates": 2}}, r"stage\.sampling\.candidates must be 1"),
        ({"diffusion": {"variance": "learned"}}, r"stage\.diffusion\.variance learned"),
        ({"text_drop": 0.1}, r"stage\.text_drop"),
    ],
)
def test_configs_that_cannot_be_right_name_the_key(run: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(stage=changes)


# --- data and training ---


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures of the menagerie with their vectors, and no captions."""
    drawn, out = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("vectors")
    list(write_shards(drawn, count=40, size=32, vectors=True))
    for path in drawn.glob("*.tar"):
        samples = [{k: v for k, v in s.items() if k != "txt"} for s in read_shard(str(path))]
        for one in samples:
            one["json"] = json.dumps({"numbers": np.load(io.BytesIO(one["npy"])).tolist()}).encode()
        write_shard(out / path.name, samples)
    return str(out / "*.tar")


@pytest.fixture
def run(shards: str, tiny_clip_folder: Path) -> Any:
    """Makes a tiny run from changes to its blocks."""

    def made(stage: dict[str, Any] | None = None, **data: Any) -> RunConfig:
        config = tree("prior", shards, tiny_clip_folder)
        config["clip"] = str(tiny_clip_folder)
        config["stage"] = {**STAGE, "embed": 32, "vectors": {"width": VECTOR_WIDTH}, **(stage or {})}
        config["data"] |= data
        Path("run.yaml").write_text(yaml.safe_dump(config))
        return read_run(Path("run.yaml"))

    return made


def changed(shards: str, folder: Path, change: Any) -> str:
    """The shards with changed samples; `change` returns the files of sample number i."""
    paths = sorted(Path(shards).parent.glob("*.tar"))
    samples = [change(i, dict(one)) for path in paths for i, one in enumerate(read_shard(str(path)))]
    write_shard(folder / "0.tar", samples)
    return str(folder / "*.tar")


def test_resuming_is_exact_and_json_and_arrays_are_the_same(run: Any, tmp_path: Path) -> None:
    whole = train(run(validation=0.2), tmp_path / "whole", progress=False)
    half = run(validation=0.2)
    short = half.model_copy(update={"train": half.train.model_copy(update={"steps": 2})})
    train(short, tmp_path / "halves", progress=False)
    assert_same_bits(train(half, tmp_path / "halves", progress=False), whole)
    other = train(run(validation=0.2, vectors="json:numbers"), tmp_path / "json", progress=False)
    assert_same_bits(other, whole)
    stage = load_stage(whole)
    assert isinstance(stage, VectorPrior) and stage.vector_std.min() < 1


def test_embedded_shards_keep_the_vectors_and_need_no_clip(
    run: Any, tmp_path: Path, shards: str, tiny_clip_folder: Path
) -> None:
    captioned = changed(shards, tmp_path, lambda i, one: {**one, "txt": b"a cat"})
    embed_shards(captioned, tmp_path / "embedded", str(tiny_clip_folder), batch=8, tokens=False)
    config = run(shards=str(tmp_path / "embedded/*.tar"))
    saved = train(config.model_copy(update={"clip": None}), tmp_path / "run", progress=False)
    assert load_stage(saved).config.clip is not None
    by_json = run(shards=str(tmp_path / "embedded/*.tar"), vectors="json:numbers")
    assert_same_bits(train(by_json, tmp_path / "json", progress=False), saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, one: one.pop("npy"), r"40 no vectors|no vectors \(data\.vectors is npy\)"),
        (lambda i, one: one.update(npy=b"abc"), "unreadable vectors"),
        (
            lambda i, one: one.update(npy=npy(np.zeros(7))),
            rf"vectors of another shape \(\[7\], the stage reads \[{VECTOR_WIDTH}\]\)",
        ),
        (lambda i, one: one.update(npy=npy(np.full(VECTOR_WIDTH, np.inf))), "vectors with NaN or infinite"),
        (lambda i, one: one.update(npy=npy(np.array([{}]))), "never loaded"),
    ],
)
def test_samples_that_cannot_be_used_are_named(
    run: Any, tmp_path: Path, shards: str, change: Any, message: str
) -> None:
    def spoilt(i: int, one: dict[str, Any]) -> dict[str, Any]:
        change(i, one)
        return one

    data = run(shards=changed(shards, tmp_path, spoilt), shuffle=1).data
    stream = Stream(data, needs=NEEDS, vector_shape=(1, VECTOR_WIDTH))
    with pytest.raises(DataError, match=message) as caught:
        next(batches(stream))
    assert "the first is sample 000000" in str(caught.value) and "\n" not in str(caught.value)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_few_samples_without_vectors_are_skipped_and_counted(run: Any, tmp_path: Path, shards: str) -> None:
    def spoilt(i: int, one: dict[str, Any]) -> dict[str, Any]:
        if i == 3:
            del one["npy"]
        return one

    data = run(shards=changed(shards, tmp_path, spoilt), shuffle=1).data
    stream = batches(Stream(data, needs=NEEDS, vector_shape=(1, VECTOR_WIDTH)))
    first = next(stream)
    assert first.vectors is not None and first.vectors.shape == (4, 1, VECTOR_WIDTH)
    assert sum(first.skipped.values()) == 1 and "00000003" not in first.keys


@pytest.mark.parametrize("where", ["", "json:", "txt", "vectors.npz"])
def test_the_place_of_vectors_is_checked(where: str) -> None:
    with pytest.raises(ValueError, match=r"must be npy, NAME\.npy or json:NAME"):
        DataConfig(shards="x", batch=1, vectors=where)


def test_a_vector_holds_all_attributes_of_a_scene() -> None:
    vectors = torch.tensor([sample(0, i).vector() for i in range(50)])
    assert vectors.shape == (50, VECTOR_WIDTH) and (vectors.sum(1) == 9).all()
    assert len(vectors.unique(dim=0)) > 45


def test_the_plan_counts_its_parameters(run: Any) -> None:
    config = run()
    stage = VectorPrior(config.stage)
    assert plan(config, 1).parameters == sum(p.numel() for p in stage.parameters())


# --- in a pipeline ---


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a prior that reads pairs of vectors."""
    folder = tmp_path_factory.mktemp("vector-model")
    identity = load_stage(tiny_model / "decoder").config.clip
    shape = {"width": WIDTH, "count": 2}
    with torch.random.fork_rng():
        stage = prior(embed=32, vectors=shape, clip=identity, sampling={"steps": 2, "guidance": 1.5})
    (folder / "prior").mkdir()
    stage.save(folder / "prior")
    assemble([folder / "prior", tiny_model / "decoder"], folder / "model", clip=str(tiny_model))
    return folder / "model"


def test_vectors_become_embeddings_and_pictures(model: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(str(model), device="cpu")
    vectors = torch.randn(2, 2, WIDTH)
    z_i = pipe.sample_prior(vectors=vectors, num_images=2, seed=3)
    assert z_i.shape == (4, 32) and z_i.isfinite().all() and not torch.equal(z_i[0], z_i[1])
    offloaded = Pipeline.from_pretrained(str(model), device="cpu", offload=True)
    assert torch.equal(offloaded.sample_prior(vectors=vectors, num_images=2, seed=3), z_i)
    alone = Pipeline.from_pretrained(str(model / "prior"), device="cpu")
    torch.testing.assert_close(alone.sample_prior(vectors=vectors[1], seed=4), z_i[3:], rtol=1e-4, atol=1e-5)
    np.save("v.npy", vectors.double().numpy())
    given = [
        "embed",
        "--vectors",
        "v.npy",
        "-n",
        "2",
        "--seed",
        "3",
        "--model",
        str(model),
        "-o",
        "z.safetensors",
    ]
    CliRunner().invoke(cli, given, catch_exceptions=False)
    found = read_embeddings("z.safetensors")
    assert torch.equal(found.image_embeds, z_i) and found.seeds == (3, 4, 3, 4) and found.names[2] == "v 1"
    assert len(pipe.decode(found, seed=0).images) == 4
    pipe.save_pretrained(tmp_path / "again")
    again = Pipeline.from_pretrained(str(tmp_path / "again"), device="cpu")
    assert torch.equal(again.sample_prior(vectors=vectors, num_images=2, seed=3), z_i)


def test_the_wrong_condition_is_refused(model: Path, tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(str(model), device="cpu")
    for call in (pipe.generate, pipe.sample_prior):
        with pytest.raises(RequestError, match="its prior reads vectors, not captions"):
            call("a cat")
    good = torch.zeros(1, 2, WIDTH)
    for vectors in (torch.zeros(2, 7), torch.zeros(2, WIDTH + 1), torch.zeros(1, 3, WIDTH), good[:0]):
        with pytest.raises(RequestError, match=rf"the prior of model reads \[N, 2, {WIDTH}\]"):
            pipe.sample_prior(vectors=vectors)
    with pytest.raises(RequestError, match="vectors: 1 of 1 rows hold NaN"):
        pipe.sample_prior(vectors=good * float("nan"))
    with pytest.raises(RequestError, match="a negative prompt needs a prior that reads captions"):
        pipe.sample_prior(vectors=good, negative="a hat")
    with pytest.raises(RequestError, match="not both"):
        pipe.sample_prior("a cat", vectors=good)
    with pytest.raises(RequestError, match="a prompt or vectors"):
        pipe.sample_prior()
    with pytest.raises(RequestError, match="its prior reads captions, not vectors"):
        Pipeline.from_pretrained(str(tiny_model), device="cpu").sample_prior(vectors=good)
    decoder = Pipeline.from_pretrained(str(model / "decoder"), device="cpu")
    with pytest.raises(RequestError, match="has no prior"):
        decoder.sample_prior(vectors=good)


def test_priors_of_other_vectors_are_not_compared(model: Path, tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    other = load_stage(model / "prior")
    assert isinstance(other, VectorPrior)
    with pytest.raises(RequestError, match=rf"shape \[2, {WIDTH}\], not the {VECTOR_WIDTH} attributes"):
        compare_priors(pipe, {"v": other}, count=1)
    with pytest.raises(RequestError, match="no prior that reads captions"):
        compare_priors(Pipeline.from_pretrained(str(model), device="cpu"), {}, count=1)


def test_arrays_beside_pictures_are_packed_and_read(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        Image.effect_noise((64, 64), 50 + i).save(folder / f"{i}.png")
        np.save(folder / f"{i}.npy", np.full(VECTOR_WIDTH, i / 2))
    needs = {"needs": NEEDS, "vector_shape": (1, VECTOR_WIDTH)}
    direct = next(batches(Stream(run(shards=str(folder)).data, **needs)))  # captions are not needed
    assert direct.vectors is not None
    assert [Path(key).stem for key in direct.keys] == [str(int(2 * x)) for x in direct.vectors[:, 0, 0]]
    for i in range(8):
        (folder / f"{i}.txt").write_text(f"number {i}")
    pack(PackJob(str(folder), Limits(), 100), tmp_path / "packed")
    samples = list(read_shard(str(tmp_path / "packed/000000.tar")))
    found = [(one["txt"].decode(), np.load(io.BytesIO(one["npy"]))[0]) for one in samples]
    assert sorted(found) == [(f"number {i}", i / 2) for i in range(8)]
