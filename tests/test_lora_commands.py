"""LoRA adapters on the command line and in the server, and adapters that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny_lora import PROMPT, as_peft, load, make, picture
from torch import Tensor

from unclip.cli import cli
from unclip.errors import CheckpointError, UnclipError
from unclip.files import read_json, read_weights, write_json, write_weights


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for each of three stages, in folders named like the stages. Never write into it."""
    folder = tmp_path_factory.mktemp("adapters")
    for role in ("prior", "decoder", "upsampler-256"):
        make(folder / role, tiny_model / role)
    return folder


# --- the command line ---


def run(*arguments: str | Path) -> Any:
    done = CliRunner().invoke(cli, [*map(str, arguments), "--quiet", "--device", "cpu"])
    assert done.exception is None or isinstance(done.exception, UnclipError), done.output
    return done


def test_commands_take_adapters(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    model = ["--model", tiny_model, "--seed", "3", "--size", "256"]
    lora = ["--lora", f"{adapters}/decoder:0.5", "--lora", adapters / "prior"]
    done = run("generate", PROMPT, *model, *lora, "-o", tmp_path / "a.png")
    assert done.exit_code == 0, done.output
    drawn = picture(load(tiny_model, f"{adapters}/decoder:0.5", adapters / "prior"))
    assert run("generate", PROMPT, *model, "-o", tmp_path / "b.png").exit_code == 0
    Image.new("L", (256, 256), 255).save(tmp_path / "mask.png")
    saved = [Image.open(tmp_path / name) for name in ("a.png", "b.png")]
    assert saved[0].tobytes() == drawn != saved[1].tobytes()
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "a.png")]).output
    assert "decoder@" in shown and "scale: 0.5" in shown
    for verb in ("vary", "edit"):
        more = ["a cat", "--mask", tmp_path / "mask.png"] if verb == "edit" else []
        done = run(verb, tmp_path / "b.png", *more, *model, *lora, "-o", tmp_path / f"{verb}.png")
        assert done.exit_code == 0, done.output
        assert "decoder@" in CliRunner().invoke(cli, ["info", str(tmp_path / f"{verb}.png")]).output
    about = CliRunner().invoke(cli, ["info", str(adapters / "decoder"), "--json"]).output
    assert json.loads(about)["rank"] == 4


def test_a_job_is_not_resumed_with_another_adapter(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    job = [
        "generate",
        "--prompts-file",
        tmp_path / "prompts.txt",
        "--model",
        tiny_model,
        "--size",
        "64",
        "-o",
    ]
    assert run(*job, tmp_path / "out/").exit_code == 0
    again = run(*job, tmp_path / "out/", "--lora", adapters / "decoder")
    assert "were asked for with lora []" in str(again.exception)


def test_a_server_has_adapters_by_model(tiny_model: Path, adapters: Path) -> None:
    from unclip.cli.serve_setup import load_models, model_loras

    loras = model_loras([f"b={adapters}/decoder:2", str(adapters / "prior")], ["a", "b"])
    assert loras == {"a": [str(adapters / "prior")], "b": [f"{adapters}/decoder:2"]}
    [a, b] = load_models({"a": str(tiny_model), "b": str(tiny_model)}, ["cpu"], reload=True, loras=loras)
    for model, stage in ((a, "prior"), (b, "decoder")):
        model._pipelines[0] = None  # as after --unload-after
        with model.use(0) as pipe:
            assert [one.stage for one in pipe.loras] == [stage]


# --- bad input ---


def edited(source: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    """A copy of an adapter with its config and tensors changed."""
    tree, tensors = read_json(source / "config.json"), read_weights(source / "model.safetensors")
    change(tree, tensors)
    folder.mkdir()
    write_json(folder / "config.json", tree)
    write_weights(tensors, folder / "model.safetensors")
    return folder


FIRST = "network.unet.time.linear_1.lora_A.weight"
CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], Any], str]] = {
    "nan": (lambda c, t: t[FIRST].fill_(float("nan")), "holds values that are not numbers"),
    "shape": (lambda c, t: t.update({FIRST: torch.ones(4, 7)}), "the adapter's 128 × 7"),
    "half": (lambda c, t: t.pop(FIRST), "A and B of layer network.unet.time.linear_1 do not fit each other"),
    "other tensors": (
        lambda c, t: t.update({"weight": torch.ones(1)}),
        r"is no LoRA adapter \(tensor weight\)",
    ),
    "no tensors": (lambda c, t: t.clear(), "holds no tensors"),
    "rank 0": (lambda c, t: c.update(rank=0), "rank: Input should be greater than or equal to 1, not 0"),
    "a layer that is not there": (
        lambda c, t: t.update({f"x.{n}": v.clone() for n, v in t.items() if "linear_1" in n}),
        "it has no layer x.network",
    ),
    "another clip": (
        lambda c, t: c["stage"].update(clip="other@12"),
        "was trained for CLIP other@12, the dec",
    ),
    "another kind": (lambda c, t: c.update(kind="lokr"), "no stage 'lokr'"),
    "another stage": (lambda c, t: c["stage"].update(kind="prior"), "embed_drop: no such key"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_adapters_that_cannot_be_used(name: str, tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    change, says = CHANGES[name]
    bad = edited(adapters / "decoder", tmp_path / "bad", change)
    with pytest.raises(UnclipError, match=says) as failure:
        load(tiny_model, bad)
    assert "\n" not in str(failure.value)


def test_what_is_no_adapter(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "pickle.bin").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for given, says in (
        (tiny_model / "decoder", "is a decoder, not a LoRA adapter"),
        (tiny_model, "is a whole model, not a LoRA adapter"),
        (tiny_model / "decoder/model.safetensors", "is a decoder, not a LoRA adapter"),
        (tmp_path / "pickle.bin", "only safetensors files are read"),
        (tmp_path / "empty", "no model_index.json in it"),
        (f"{adapters}/decoder:x", "the scale 'x' is not a number"),
        (f"{adapters}/decoder:nan", "the scale nan is not a finite number"),
        ("nowhere", "nowhere: no such"),
    ):
        done = run("generate", PROMPT, "--model", tiny_model, "-o", tmp_path / "a.png", "--lora", given)
        assert says in str(done.exception) and "\n" not in str(done.exception)
    for command in (
        ["generate", PROMPT, "--model"],
        ["assemble", "-o", tmp_path / "m", tiny_model / "prior"],
    ):
        with pytest.raises(
            UnclipError, match="give it with its model|is an adapter of a decoder; m has prior"
        ):
            CliRunner().invoke(cli, [*map(str, command), str(adapters / "decoder")], catch_exceptions=False)
    peft = as_peft(adapters / "decoder", tmp_path / "peft")
    write_json(peft / "adapter_config.json", {"r": 4, "lora_alpha": 8, "use_dora": True})
    with pytest.raises(CheckpointError, match="has use_dora, which is not plain LoRA"):
        load(tiny_model, peft)


def test_other_weights_of_the_same_shape_give_a_warning(
    tiny_model: Path, adapters: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(tiny_model, adapters / "decoder", adapters / "decoder", offload=True)
    assert not caplog.messages
    load(tiny_model, adapters / "prior").save_pretrained(tmp_path / "other")
    load(tmp_path / "other", adapters / "prior")
    assert "was trained on prior@" in caplog.text and "has other weights" in caplog.text
