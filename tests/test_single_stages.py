"""Single stages as pipelines: the same bits as in the whole chain, and clear errors for the rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny_runs import tree

from unclip.cli import cli
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.pipeline import Pipeline
from unclip.train.config import RunConfig
from unclip.train.loop import train

PROMPT = "a corgi in space"


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


def single(model: Path, part: str) -> Pipeline:
    return Pipeline.from_pretrained(str(model / part), device="cpu")


def test_the_parts_of_the_way_are_the_way(tiny_model: Path, pipe: Pipeline) -> None:
    whole = pipe.generate([PROMPT, "a cat"], seed=7, size=256, keep_stages=True, negative="a hat")
    z_i = single(tiny_model, "prior").sample_prior([PROMPT, "a cat"], seed=7, negative="a hat")
    assert torch.equal(z_i, whole.image_embeds)
    drawn = single(tiny_model, "decoder").decode(z_i, [PROMPT, "a cat"], seed=[7, 7], negative="a hat")
    assert [one.tobytes() for one in drawn.images] == [one.tobytes() for one in whole.stages[64]]
    both = pipe.decode(z_i, [PROMPT, "a cat"], seed=[7, 7], negative="a hat", size=256)
    assert [one.tobytes() for one in both.images] == [one.tobytes() for one in whole.images]
    large = single(tiny_model, "upsampler-256").upsample(drawn.images, seed=[7, 7], size=256)
    assert [one.size for one in large.images] == [(256, 256)] * 2 and large.image_embeds.shape == (2, 0)


def test_enlarging_begins_where_a_picture_fills_it(tiny_model: Path, pipe: Pipeline) -> None:
    picture = pipe.generate(PROMPT, seed=1, size=256).images[0]
    chain = {
        "whole": pipe.upsample(picture, seed=1),
        "small": pipe.upsample(picture.resize((100, 140)), seed=1),
        "tiny": pipe.upsample(picture.resize((20, 20)), seed=1, size=256),
    }
    ran = {name: [role for role in made.settings[0]["stages"]] for name, made in chain.items()}
    assert ran == {
        "whole": ["upsampler-1024"],
        "small": ["upsampler-256", "upsampler-1024"],
        "tiny": ["upsampler-256"],
    }
    again = single(tiny_model, "upsampler-1024").upsample(picture, seed=1)
    assert again.images[0].tobytes() == chain["whole"].images[0].tobytes()
    assert again.settings[0]["verb"] == "upsample" and again.images[0].info["unclip"] == again.settings[0]


def test_a_decoder_by_itself_varies_pictures(tiny_model: Path, pipe: Pipeline) -> None:
    picture = pipe.generate(PROMPT, seed=1, size=64).images[0]
    alone = single(tiny_model, "decoder")
    assert (
        alone.vary(picture, seed=2).images[0].tobytes()
        == pipe.vary(picture, seed=2, size=64).images[0].tobytes()
    )


@pytest.mark.parametrize(
    ("part", "call", "says"),
    [
        ("prior", lambda p: p.generate(PROMPT), "prior: has no decoder, so it cannot make pictures"),
        ("prior", lambda p: p.decode(torch.zeros(1, 32)), "prior: has no decoder"),
        ("prior", lambda p: p.upsample([]), "prior: has no upsampler"),
        (
            "decoder",
            lambda p: p.generate(PROMPT),
            "decoder: has no prior, so it cannot generate from a prompt",
        ),
        ("decoder", lambda p: p.sample_prior(PROMPT), "decoder: has no prior"),
        ("decoder", lambda p: p.decode(torch.zeros(1, 31)), "has 31 numbers per embedding; decoder decodes"),
        ("decoder", lambda p: p.decode(torch.zeros(2, 32), ["a"]), "1 prompts for 2 embeddings"),
        ("decoder", lambda p: p.decode(torch.zeros(0, 32)), "it holds no embedding"),
        ("upsampler-256", lambda p: p.generate(PROMPT), "upsampler-256: has no decoder"),
        ("upsampler-256", lambda p: p.clip, "comes without the CLIP"),
        ("upsampler-256", lambda p: p.upsample([]), "nothing to generate"),
    ],
)
def test_what_a_stage_cannot_do_is_refused(tiny_model: Path, part: str, call: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        call(single(tiny_model, part))


def test_what_there_is_nothing_to_do_for_is_refused(pipe: Pipeline, tiny_model: Path) -> None:
    picture = pipe.generate(PROMPT, seed=1, size=256).images[0]
    with pytest.raises(RequestError, match="size 256: tiny upsamples these pictures from 256 pixels"):
        pipe.upsample(picture, size=256)
    with pytest.raises(RequestError, match="size 64: upsampler-256 makes pictures of 256, 1024 pixels"):
        single(tiny_model, "upsampler-256").upsample(picture, size=64)
    with pytest.raises(CheckpointError, match="clip: is a clip by itself, which makes no pipeline"):
        single(tiny_model, "clip")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            '{"model_type": "llama"}',
            "strange: neither a model nor a stage; its config.json names no kind of stage",
        ),
        ('{"_class_name": "AutoencoderKL"}', "is a AutoencoderKL, not a PriorTransformer"),
        ('{"kind": "poem"}', "no stage 'poem'; there are clip, decoder"),
        ("[]", "strange/config.json"),
    ],
)
def test_folders_of_other_things_are_named(config: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/config.json").write_text(config)
    with pytest.raises((CheckpointError, ConfigError), match=says):
        single(tmp_path, "strange")


def test_a_run_that_saved_nothing_yet_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "run/step-00000001.part").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="run: neither a saved stage nor a run with a checkpoint"):
        single(tmp_path, "run")


def test_a_stage_is_saved_with_its_clip_and_loads_back(tiny_model: Path, tmp_path: Path) -> None:
    z_i = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    decoder = single(tiny_model, "decoder")
    decoder.save_pretrained(tmp_path / "mine")
    again = Pipeline.from_pretrained(str(tmp_path / "mine"), device="cpu", offload=True)
    assert list(again.stages) == ["decoder"] and again.clip.identity == decoder.clip.identity
    assert again.decode(z_i, seed=3).images[0].tobytes() == decoder.decode(z_i, seed=3).images[0].tobytes()
    shutil.copytree(tiny_model / "decoder", tmp_path / "lonely")
    with pytest.raises(RequestError, match="lonely: comes without the CLIP"):
        single(tmp_path, "lonely").decode(z_i)
    single(tmp_path, "lonely").save_pretrained(tmp_path / "saved")
    for part in ("saved", "saved/decoder"):  # the model of it has none either
        with pytest.raises(RequestError, match="comes without the CLIP"):
            single(tmp_path, part).decode(z_i)


def test_a_run_is_its_newest_checkpoint_and_knows_its_clip(
    run_of: Any, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    config: RunConfig = run_of("prior", "train.steps=1")
    train(config, tmp_path / "run", progress=False)
    prior = Pipeline.from_pretrained(str(tmp_path / "run"), device="cpu")
    assert prior.name == "run" and prior.clip.identity == prior.stages["prior"].config.clip
    assert prior.sample_prior(PROMPT, num_images=2, seed=1).shape == (
        2,
        tree("prior", "", tiny_clip_folder)["stage"]["embed"],
    )


def test_the_commands_say_what_a_stage_lacks(tiny_model: Path) -> None:
    prior = str(tiny_model / "prior")
    for command in (
        ["generate", PROMPT, "--model", prior],
        ["generate", PROMPT, "--model", prior, "--size", "64"],
        ["serve", "--model", prior],
        ["evaluate", "compose", "--model", prior, "--count", "1"],
    ):
        done = CliRunner().invoke(cli, command)
        assert isinstance(done.exception, RequestError)
        assert str(done.exception).endswith("has no decoder, so it cannot make pictures")
    assert "parameters: " in CliRunner().invoke(cli, ["info", prior]).output
