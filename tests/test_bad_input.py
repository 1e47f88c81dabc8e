"""Errors: one clear line on stderr, a non-zero exit code, no traceback, no partial output."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from unclip.cli import cli, main
from unclip.files import read_weights
from unclip.images import read_settings
from unclip.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
TENSOR = "network.out_proj.weight"  # of the prior


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the program, which must refuse in one line and change no file; gives back that line."""

    def run(*arguments: str, code: int = 1) -> str:
        before = tree()
        monkeypatch.setattr(sys, "argv", ["unclip", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        assert out == ""
        assert len(err.strip().splitlines()) == 1 and err.startswith("error: "), err
        assert "Traceback" not in err and 20 < len(err) < 600
        assert tree() == before
        return err.strip()

    return run


@pytest.fixture
def refuses_to_draw(refused: Any, tiny_model: Path) -> Any:
    """The same for `unclip generate` on the tiny model."""

    def run(*arguments: str, code: int = 1) -> str:
        line: str = refused("generate", "--model", str(tiny_model), "-o", "x.png", *arguments, code=code)
        return line

    return run


def tree() -> dict[str, bytes | None]:
    """Every file and folder here, hidden ones, too."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in Path().rglob("*")}


def damage(path: Path, **changes: torch.Tensor | None) -> None:
    """Rewrites a checkpoint with some tensors replaced, or left out."""
    tensors = read_weights(path)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path)


# --- the model ---


def test_an_unknown_model_is_named_and_what_there_is(refused: Any) -> None:
    assert refused("generate", "a cat", "--model", "mimi") == (
        "error: mimi: no such model; there is the bundled 'mini', or give a folder or a Hub id owner/name"
    )
    assert "no such model" in refused("info", "mimi")


def test_a_hub_model_that_cannot_be_fetched_is_named(refused: Any) -> None:
    line = refused("generate", "a cat", "--model", "nobody/nothing-of-that-name")
    assert "nobody/nothing-of-that-name: not in the cache, and the Hub cannot be reached" in line


def test_a_folder_without_a_model_says_how_to_make_one(refused: Any) -> None:
    Path("empty").mkdir()
    assert "empty: no model_index.json in it; `unclip assemble` makes" in refused(
        "generate", "a cat", "--model", "empty"
    )


@pytest.mark.parametrize(
    "file",
    ["prior/model.safetensors", "prior/config.json", "decoder/model.safetensors", "clip/model.safetensors"],
)
def test_a_missing_file_is_named(refused: Any, copy: Path, file: str) -> None:
    (copy / file).unlink()
    assert f"{copy / file}: no such file" in refused("generate", "a cat", "--model", str(copy))


@pytest.mark.parametrize(
    "file", ["prior/model.safetensors", "upsampler-1024/model.safetensors", "clip/model.safetensors"]
)
@pytest.mark.parametrize("how", ["cut", "empty", "noise"])
def test_a_damaged_checkpoint_is_named(refused: Any, copy: Path, file: str, how: str) -> None:
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": os.urandom(5000)}[how])
    assert f"{copy / file}: damaged or not safetensors" in refused("generate", "a cat", "--model", str(copy))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
@pytest.mark.parametrize("file", ["model_index.json", "decoder/config.json"])
def test_damaged_json_is_named(refused: Any, copy: Path, file: str, content: bytes) -> None:
    (copy / file).write_bytes(content)
    assert f"{copy / file}: " in refused("generate", "a cat", "--model", str(copy))


@pytest.mark.parametrize("stage", ["prior", "clip", "upsampler-256"])
def test_a_wrong_shape_names_its_tensor_and_both_shapes(refused: Any, copy: Path, stage: str) -> None:
    path = copy / stage / "model.safetensors"
    name, tensor = next((n, t) for n, t in read_weights(path).items() if t.ndim == 2)
    damage(path, **{name: torch.zeros(3, 5)})
    line = refused("generate", "a cat", "--model", str(copy))
    assert str(path) in line and name.removeprefix("model.") in line
    assert "(3, 5)" in line and str(tuple(tensor.shape)) in line


def test_missing_and_foreign_tensors_are_named(refused: Any, copy: Path) -> None:
    path = copy / "prior/model.safetensors"
    damage(path, **{TENSOR: None})
    assert f"tensor {TENSOR} is missing" in refused("generate", "a cat", "--model", str(copy))
    shape = (32, 32)
    damage(path, **{TENSOR: torch.zeros(shape), "from.another.world": torch.zeros(2)})
    assert "tensor from.another.world belongs to another architecture" in refused(
        "generate", "a cat", "--model", str(copy)
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "piror"}, "no stage 'piror'"),
        ({"kind": "../../evil"}, "no stage"),
        ({"kind": ".."}, "no stage"),
        ({"kind": 5}, "names no kind of stage"),
        ({"width": "wide"}, "width"),
        ({"wings": 2}, "wings: no such key"),
        ({"width": 64}, "tensor"),
        ({"heads": 3}, "heads 3 does not divide width 32"),
        ({"clip": "other@123"}, "was trained for CLIP other@123"),
    ],
)
def test_a_wrong_stage_config_is_explained(
    refused: Any, copy: Path, changes: dict[str, Any], says: str
) -> None:
    path = copy / "prior/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert says in refused("generate", "a cat", "--model", str(copy))


class Bomb:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("part", ["decoder", "prior", "clip", "upsamplers"])
@pytest.mark.parametrize("elsewhere", ["../{}", "/{}", "sub/../../{}"])
def test_an_index_that_points_outside_the_folder_is_refused(
    refused: Any, copy: Path, part: str, elsewhere: str
) -> None:
    shutil.copytree(copy, copy.parent / "other")  # a real model, so that nothing but the rule can refuse it
    name = elsewhere.format(f"other/{'upsampler-256' if part == 'upsamplers' else part}")
    index = json.loads((copy / "model_index.json").read_text())
    index[part] = [name] if part == "upsamplers" else name
    (copy / "model_index.json").write_text(json.dumps(index))
    for verb in (["generate", "a cat", "--size", "64"], ["info"]):
        where = ["--model", str(copy)] if verb[0] == "generate" else [str(copy)]
        assert f"copy/model_index.json: {name!r} points outside the folder" in refused(*verb, *where)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', "damaged"),  # more than there is
        (b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "damaged"),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}', "damaged"),
        (b'{"x":{"dtype":"P9","shape":[1],"data_offsets":[0,4]}}', "damaged"),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "tensor .* is missing"),
    ],
)
def test_tampered_weights_are_refused(refused: Any, copy: Path, header: bytes, says: str) -> None:
    data = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (copy / "decoder/model.safetensors").write_bytes(data)
    line = refused("generate", "a cat", "--model", str(copy))
    assert re.search(f"decoder/model.safetensors: {says}", line), line


def test_a_header_of_a_length_beyond_all_memory_is_refused(refused: Any, copy: Path) -> None:
    (copy / "decoder/model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert "decoder/model.safetensors: damaged" in refused("generate", "a cat", "--model", str(copy))


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "SomethingElse", "FluxPipeline"])
def test_another_kind_of_pipeline_is_named_as_such(refused: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "other/unet").mkdir(parents=True)
    (tmp_path / "other/model_index.json").write_text(
        json.dumps({"_class_name": kind, "unet": ["diffusers", "X"]})
    )
    for verb in (["generate", "a cat", "--model"], ["convert"]):
        line = refused(*verb, str(tmp_path / "other"), *(["out"] if verb[0] == "convert" else []))
        assert f"other: is a {kind}" in line and (
            "diffusers runs it" in line or "it converts Karlo's" in line
        )


def test_a_pipeline_with_missing_components_names_the_first(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "karlo").mkdir()
    (tmp_path / "karlo/model_index.json").write_text('{"_class_name": "UnCLIPPipeline"}')
    line = refused("convert", str(tmp_path / "karlo"), "out")
    assert "karlo/text_encoder: no weights in it" in line


class _Runs:
    """What runs when a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("ran"), "it ran")


@pytest.mark.parametrize("verb", ["generate", "convert"])
def test_a_checkpoint_with_an_executable_pickle_is_refused_and_nothing_runs(
    refused: Any, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "karlo").mkdir()
    torch.save({"state_dict": {"model.prd_emb": _Runs()}}, tmp_path / "karlo/prior.ckpt")
    source = str(tmp_path / "karlo")
    line = refused(
        *(["generate", "a cat", "--model", source] if verb == "generate" else ["convert", source, "out"])
    )
    assert "prior.ckpt: refused, this pickle holds more than tensors" in line
    assert not Path("ran").exists()


def test_a_mean_of_the_wrong_shape_names_both(refused: Any, copy: Path) -> None:
    weights = read_weights(copy / "prior/model.safetensors")
    (name,) = [name for name in weights if name.endswith("mean")]
    damage(copy / "prior/model.safetensors", **{name: torch.zeros(7)})
    line = refused("generate", "a cat", "--model", str(copy))
    assert f"prior/model.safetensors: tensor {name} has shape (7,), its config.json asks for (32,)" in line


def test_a_mistyped_hub_id_gives_the_nearest(refused: Any) -> None:
    line = refused("generate", "a cat", "--model", "kakaobrain/karlo-v1-alfa")
    assert "; did you mean kakaobrain/karlo-v1-alpha or kakaobrain/karlo-v1-alpha-image-variations?" in line


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *(
            (name, "a pickle or single file is never loaded")
            for name in ("model.pt", "model.bin", "model.pkl")
        ),
        (
            "model.ckpt",
            "model.ckpt: refused, this pickle holds more than tensors",
        ),  # as Karlo's own are called
    ],
)
def test_a_pickle_is_never_loaded_as_a_model(refused: Any, tmp_path: Path, name: str, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    assert says in refused("generate", "a cat", "--model", str(path))
    assert not Path("exploded").exists()


def test_a_pickle_inside_a_model_is_never_loaded(refused: Any, copy: Path) -> None:
    path = copy / "decoder/model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    assert "damaged or not safetensors" in refused("generate", "a cat", "--model", str(copy))
    torch.save({"weights": torch.zeros(2)}, path)
    assert "damaged or not safetensors" in refused("generate", "a cat", "--model", str(copy))
    path.rename(path.with_name("pytorch_model.bin"))
    assert "model.safetensors: no such file" in refused("generate", "a cat", "--model", str(copy))
    assert not Path("exploded").exists()


def test_pickles_are_read_in_two_places_that_run_none() -> None:
    weights, arrays = ROOT / "unclip/models/convert/weights.py", ROOT / "unclip/data/arrays.py"
    text = weights.read_text(encoding="utf-8")
    assert text.count("torch.load(") == 1
    assert 'torch.load(path, map_location="cpu", weights_only=True)' in text
    text = arrays.read_text(
        encoding="utf-8"
    )  # CIFAR's, by an unpickler of its own: tests/test_labelled.py attacks it
    assert (
        text.count("np.load(") == text.count("np.load(path, allow_pickle=False)")
        and text.count("pickle.") == 1
    )
    embeddings = ROOT / "unclip/embeddings.py"
    assert "np.load(file, allow_pickle=False)" in embeddings.read_text(encoding="utf-8")
    allowed = {
        weights: {"torch.load(", "weights_only", "import pickle"},
        arrays: {"import pickle", "np.load("},
        embeddings: {"np.load("},
    }
    for path in (ROOT / "unclip").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in ("torch.load(", "pickle.load", "import pickle", "np.load(", "joblib", "weights_only"):
            assert call in allowed.get(path, ()) or call not in text, f"{path}: {call}"


# --- the prompt ---


@pytest.mark.parametrize("prompts", [[""], ["   "], ["\n\t"], ["a cat", ""], ["\u00a0"]])
def test_an_empty_prompt_is_refused(refuses_to_draw: Any, prompts: list[str]) -> None:
    assert refuses_to_draw(*prompts) == "error: the prompt is empty; say what the picture should show"


def test_no_prompt_at_all_is_refused(refuses_to_draw: Any) -> None:
    assert "no prompt: say what the picture should show" in refuses_to_draw()
    Path("prompts.txt").write_text("\n  \n")
    assert "no prompt" in refuses_to_draw("--prompts-file", "prompts.txt")


def test_a_prompts_file_that_cannot_be_read_is_named(refuses_to_draw: Any) -> None:
    assert "nowhere.txt: no such file" in refuses_to_draw("--prompts-file", "nowhere.txt")
    Path("latin.txt").write_bytes("a naïve cat".encode("latin-1"))
    assert "latin.txt: cannot be read (not UTF-8 text)" in refuses_to_draw("--prompts-file", "latin.txt")
    assert ".: cannot be read (Is a directory)" in refuses_to_draw("--prompts-file", ".")


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\udcff"])
def test_control_characters_are_refused_by_name(refuses_to_draw: Any, character: str) -> None:
    expected = f"error: the prompt holds the control character U+{ord(character):04X}; leave it out"
    assert refuses_to_draw(f"a {character} cat") == expected
    assert refuses_to_draw("a cat", "--negative", f"a {character} dog") == expected


@pytest.mark.parametrize(
    "prompt",
    ["a corgi 🐶👑", "كلب يرتدي قبعة", "כלב עם כובע", "a cat\u202e\u200f", "👨‍👩‍👧", "<end_of_text> a cat"],
)
def test_emoji_and_right_to_left_text_work(tiny_model: Path, prompt: str) -> None:
    result = CliRunner().invoke(
        cli, ["generate", prompt, "--model", str(tiny_model), "--size", "64", "-o", "x.png"]
    )
    assert result.exit_code == 0, result.output
    assert read_settings(Path("x.png"))["prompt"] == prompt


def test_a_prompt_that_is_too_long_is_cut_and_the_cut_is_shown(tiny_model: Path) -> None:
    prompt = "a corgi wearing a red beret " + "and a blue scarf " * 12 + "with a purple crown"
    result = CliRunner().invoke(
        cli, ["generate", prompt, "--model", str(tiny_model), "--size", "64", "-o", "x.png"]
    )
    assert result.exit_code == 0 and result.stdout == "x.png\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: the prompt is too long for tiny; this is not read: '")
    assert line.endswith("with a purple crown'") and "corgi" not in line
    assert read_settings(Path("x.png"))["prompt"] == prompt.strip()


def test_words_the_model_never_saw_are_named_and_what_to_use(tiny_model: Path) -> None:
    result = CliRunner().invoke(
        cli,
        ["generate", "a dragon wearing a beret", "--model", str(tiny_model), "--size", "64", "-o", "x.png"],
    )
    assert result.exit_code == 0 and result.stdout == "x.png\n"
    (line,) = result.stderr.splitlines()
    assert (
        line.startswith("warning: tiny has never seen: dragon.") and "--model" in line and "beret" not in line
    )


# --- the numbers ---


@pytest.mark.parametrize("size", ["300", "0", "63", "4096"])
def test_sizes_the_model_cannot_make_are_refused_with_those_it_can(refuses_to_draw: Any, size: str) -> None:
    assert (
        refuses_to_draw("a cat", "--size", size)
        == f"error: --size {size}: tiny makes pictures of 64, 256, 1024 pixels"
    )


@pytest.mark.parametrize("steps", ["-5", "0", "100000", "99999999999999999999", "many", "2.5", "nan", ""])
@pytest.mark.parametrize("stage", ["", "prior=", "upsampler-256="])
def test_absurd_steps_are_refused(refuses_to_draw: Any, steps: str, stage: str) -> None:
    line = refuses_to_draw("a cat", "--steps", stage + steps)
    assert f"error: {stage[:-1] or 'decoder'}: steps: " in line and repr(steps) in line


@pytest.mark.parametrize("guidance", ["nan", "inf", "-inf", "-1", "1e9", "strong"])
def test_absurd_guidance_is_refused(refuses_to_draw: Any, guidance: str) -> None:
    assert "error: decoder: guidance: " in refuses_to_draw("a cat", "--guidance", guidance)


def test_unknown_stages_and_samplers_are_refused_with_the_known(refuses_to_draw: Any) -> None:
    assert "no sampler 'euler'; there are analytic_dpm, ddim, ddpm, dpmpp_2m, unipc" in refuses_to_draw(
        "a cat", "--sampler", "euler"
    )
    assert "options for 'upscaler': the stages are prior, decoder" in refuses_to_draw(
        "a cat", "--steps", "upscaler=5"
    )
    assert "options for ''" in refuses_to_draw("a cat", "--steps", "=5")


@pytest.mark.parametrize("seed", ["-1", str(2**63), "9" * 40])
def test_seeds_out_of_range_are_refused(refuses_to_draw: Any, seed: str) -> None:
    assert "error: a seed must be between 0 and 9223372036854775807" in refuses_to_draw(
        "a cat", "--seed", seed
    )


@pytest.mark.parametrize("count", ["0", "-3", "10001", "1000000000000"])
def test_absurd_counts_are_refused(refuses_to_draw: Any, count: str) -> None:
    assert refuses_to_draw("a cat", "-n", count).startswith(
        f"error: {count} pictures: one command makes 1 to 10000;"
    )


def test_a_refused_request_leaves_no_folder_behind(refuses_to_draw: Any, tmp_path: Path) -> None:
    refuses_to_draw("a cat", "-o", str(tmp_path / "new" / "folder" / "cat.png"), "--steps", "decoder=0")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments", [["-n", "two"], ["--seed", "x"], ["--dtype", "float8"], ["--nonsense"], ["--seed"]]
)
def test_what_is_not_an_option_is_refused(refuses_to_draw: Any, arguments: list[str]) -> None:
    assert arguments[0] in refuses_to_draw("a cat", *arguments, code=2)


def test_an_unknown_command_is_refused(refused: Any) -> None:
    assert "No such command 'draw'" in refused("draw", "a cat", code=2)


def test_a_device_that_is_not_there_is_refused(refuses_to_draw: Any) -> None:
    assert "error: device quantum: cannot be used here" in refuses_to_draw("a cat", "--device", "quantum")


# --- the output ---


def test_an_output_that_exists_is_kept(refuses_to_draw: Any, refused: Any, tiny_model: Path) -> None:
    Path("x.png").write_text("precious")
    expected = "error: x.png: exists already and is kept; --overwrite replaces it"
    assert refuses_to_draw("a cat") == expected
    assert refuses_to_draw("a cat", "a fox", "--grid") == expected
    Path("x-1.png").write_text("precious, too")
    assert "x-1.png: exists already" in refuses_to_draw("a cat", "-n", "2")
    assert "x.png: exists already" in refused("data", "show", "nowhere.tar", "-o", "x.png")
    assert "here: exists already" in refused("assemble", str(tiny_model / "clip"), "-o", str(Path.cwd()))
    assert Path("x.png").read_text() == "precious"


def test_an_earlier_stages_picture_that_exists_is_kept(refuses_to_draw: Any) -> None:
    Path("x-64.png").write_text("precious")
    line = refuses_to_draw("a cat", "--save-stages", "--size", "256")
    assert line == "error: x-64.png: exists already and is kept; --overwrite replaces it"


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("x.gif", "give a folder, or a name that ends in .png, .jpg, .jpeg, .webp"),
        ("{sed}.png", "a pattern knows {prompt}, {seed} and {index} only"),
        ("{}.png", "a pattern knows"),
        ("{seed.png", "a pattern knows"),
        ("{seed.real.x}.png", "a pattern knows"),
        ("{seed[0]}.png", "a pattern knows"),
        ("{seed:q}.png", "a pattern knows"),
        ("same-{prompt}.png", "several pictures would have the same name"),
    ],
)
def test_a_wrong_output_pattern_is_explained(refuses_to_draw: Any, output: str, says: str) -> None:
    assert says in refuses_to_draw("a cat", "-n", "2", "-o", output)


def test_an_output_below_a_file_is_refused(refuses_to_draw: Any) -> None:
    Path("file").write_text("x")
    assert "cannot be made" in refuses_to_draw("a cat", "-o", "file/x.png")
    assert "cannot be made" in refuses_to_draw("a cat", "-o", "file/deeper/")


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    refuses_to_draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)  # root may write anywhere
    monkeypatch.setattr(Pipeline, "from_pretrained", never)
    assert refuses_to_draw("a cat") == "error: .: cannot be written to (not permitted)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(refuses_to_draw: Any) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "locked: cannot be written to" in refuses_to_draw("a cat", "-o", "locked/x.png")
    assert "cannot be made" in refuses_to_draw("a cat", "-o", "locked/deeper/x.png")


def test_a_full_disk_is_named_and_nothing_half_written_stays(
    refuses_to_draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> None:
        self.write_text("half a picture")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert (
        refuses_to_draw("a cat", "--size", "64")
        == "error: x.png: cannot be written (No space left on device)"
    )
    Path("x.png").write_text("the last one")
    assert "No space left" in refuses_to_draw("a cat", "--size", "64", "--overwrite")


def program(*arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
    """The program in a process of its own, where no file may grow beyond `limit` bytes: a disk that really is
    full.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs would ignore
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", "unclip", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.filterwarnings("ignore:.*preexec_fn.*:DeprecationWarning")
@pytest.mark.parametrize("verb", ["generate", "assemble", "data"])
def test_a_write_that_fails_half_way_leaves_nothing(tiny_model: Path, verb: str) -> None:
    arguments = {
        "generate": ["a cat", "--model", str(tiny_model), "--size", "256", "-o", "x.png"],
        "assemble": [*(str(tiny_model / s) for s in ("clip", "prior", "decoder")), "-o", "model"],
        "data": ["menagerie", "--out", "shards", "--count", "20", "--size", "64"],
    }[verb]
    process = program(verb, *arguments, limit=20_000)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and out == ""
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and "File too large" in err
    assert not [name for name, content in tree().items() if content is not None]


@pytest.fixture
def interrupted(tiny_model: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, stopped by Ctrl-C after its first pictures of many."""
    many = ["-n", "256", "--size", "256", "--seed", "0", "-o", "{seed}.png"]
    process = program("generate", "a cat", *many, "--model", str(tiny_model))
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first == "0.png\n"
    time.sleep(0.5)  # into the next batch
    process.send_signal(signal.SIGINT)
    yield process
    process.kill()


@pytest.mark.filterwarnings("ignore:.*preexec_fn.*:DeprecationWarning")
def test_ctrl_c_keeps_what_is_finished_and_nothing_else(interrupted: subprocess.Popen[str]) -> None:
    _, err = interrupted.communicate(timeout=300)
    assert interrupted.returncode == 130
    assert err.strip() == "stopped; what was finished is kept"
    made = sorted(Path().iterdir())
    assert 1 <= len(made) < 256 and all(
        path.suffix == ".png" and not path.name.startswith(".") for path in made
    )
    for path in made:
        with Image.open(path) as image:
            image.load()  # whole
            assert image.size == (256, 256)


def test_ctrl_c_in_the_middle_of_a_write_leaves_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Path, data: bytes) -> None:
        self.write_text("half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    monkeypatch.setattr(
        sys,
        "argv",
        ["unclip", "generate", "a cat", "--model", str(tiny_model), "--size", "64", "-o", "x.png"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and tree() == {}
    assert capsys.readouterr().err.strip() == "stopped; what was finished is kept"


# --- the other commands ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "nowhere.png"], "nowhere.png: no such file"),
        (["info", "text.txt"], "text.txt: not a readable picture"),
        (["info", "plain.png"], "plain.png: carries no unclip settings"),
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", "text.txt"], "text.txt: expected a mapping"),
        (["assemble", "nowhere", "-o", "model"], "nowhere: no such model; there is the bundled"),
        (["data", "show", "nowhere/*.tar"], "nowhere/*.tar: no such shards"),
        (["data", "show", "text.txt"], "text.txt: not a tar"),
        (
            ["data", "menagerie", "--out", "a", "--count", "0"],
            "--count, --siblings and --jobs must be at least 1",
        ),
        (["data", "menagerie", "--out", "a", "--size", "5"], "--size between 16 and 4096"),
        (["data", "menagerie", "--out", "text.txt", "--count", "1"], "text.txt: File exists"),
        (["data", "show", "text.txt", "--count", "0"], "--count must be at least 1"),
        (["evaluate", "compose", "--count", "0"], "--count and --batch must be at least 1"),
        (["evaluate", "compose", "--model", "nowhere"], "nowhere: no such model"),
    ],
)
@pytest.mark.filterwarnings("ignore:ReadError:UserWarning")
def test_other_commands_refuse_as_clearly(refused: Any, arguments: list[str], says: str) -> None:
    Path("text.txt").write_text("just words")
    Image.new("RGB", (4, 4)).save("plain.png")
    assert says in refused(*arguments)
