"""The command line: the effect of each option on files, standard output and standard error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from unclip.cli import cli
from unclip.images import read_settings
from unclip.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
PROMPT = "a shiba inu wearing a red beret"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def generate(tiny_model: Path) -> Any:
    """Runs `unclip generate` on the tiny model, at 64 px and a seed unless told otherwise."""

    def run(*arguments: str, size: int | None = 64, seed: int | None = 7) -> Result:
        more = [
            *(["--size", str(size)] if size else []),
            *(["--seed", str(seed)] if seed is not None else []),
        ]
        return invoke("generate", *arguments, "--model", str(tiny_model), *more)

    return run


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def here() -> list[str]:
    return sorted(str(p) for p in Path().rglob("*") if p.is_file())


# --- generate: where pictures go ---


def test_generate_writes_a_picture_and_prints_its_path(generate: Any) -> None:
    result = generate(PROMPT)
    assert result.stdout == "a-shiba-inu-wearing-a-red-beret-7.png\n"
    assert result.stderr == ""
    assert here() == [result.stdout.strip()]
    with Image.open(here()[0]) as image:
        assert image.format == "PNG" and image.size == (64, 64) and image.mode == "RGB"


def test_the_default_is_the_largest_size_and_a_random_seed(generate: Any) -> None:
    generate("a cat", size=None, seed=None)
    (path,) = here()
    assert pixels(path).shape == (1024, 1024, 3)
    assert path == f"a-cat-{read_settings(Path(path))['seed']}.png"


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_size(generate: Any, size: int) -> None:
    generate("a cat", size=size)
    assert pixels(here()[0]).shape == (size, size, 3)


@pytest.mark.parametrize(
    ("output", "count", "files"),
    [
        ("x.png", 1, ["x.png"]),
        ("x.PNG", 1, ["x.PNG"]),
        ("x.png", 2, ["x-0.png", "x-1.png"]),
        ("out/", 1, ["out/a-cat-7.png"]),
        ("out", 2, ["out/a-cat-7.png", "out/a-cat-8.png"]),
        ("deep/er/x.png", 1, ["deep/er/x.png"]),
        ("{seed}.png", 2, ["7.png", "8.png"]),
        ("out/{prompt}/{index:03d}-{seed}.png", 2, ["out/a-cat/000-7.png", "out/a-cat/001-8.png"]),
    ],
)
def test_output_is_a_file_a_folder_or_a_pattern(
    generate: Any, output: str, count: int, files: list[str]
) -> None:
    result = generate("a cat", "-o", output, "-n", str(count))
    assert here() == files
    assert result.stdout.split() == files


def test_an_existing_folder_is_a_folder_whatever_its_name(generate: Any) -> None:
    Path("album.png").mkdir()
    generate("a cat", "-o", "album.png")
    assert here() == ["album.png/a-cat-7.png"]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("🐶👑", "picture-7.png"),
        ("../../etc/passwd", "etc-passwd-7.png"),
        ("a/b\\c:d*e?", "a-b-c-d-e-7.png"),
        ("قبعة حمراء", "قبعة-حمراء-7.png"),
    ],
)
def test_prompts_become_safe_file_names(generate: Any, prompt: str, name: str) -> None:
    generate(prompt, "-q")
    assert here() == [name]


def test_long_prompts_become_short_file_names(generate: Any) -> None:
    generate(
        "𠀀" * 100, "-q", seed=2**63 - 1
    )  # four bytes each: 60 of them are too long for most file systems
    (path,) = here()
    assert len(path.encode()) < 250


def test_overwrite_replaces(generate: Any) -> None:
    Path("x.png").write_text("old")
    generate("a cat", "-o", "x.png", "--overwrite")
    assert pixels("x.png").shape == (64, 64, 3)


# --- generate: what is drawn ---


def test_num_images_count_seeds_up_and_match_single_ones(generate: Any) -> None:
    generate("a cat", "-n", "10", "-o", "{seed}.png")  # more than one batch
    assert here() == sorted(f"{7 + i}.png" for i in range(10))
    generate("a cat", "-o", "alone.png", seed=16)
    assert np.abs(pixels("alone.png") - pixels("16.png")).max() <= 1
    assert len({pixels(p).tobytes() for p in here()}) >= 10


def test_several_prompts_and_a_file_of_them(generate: Any) -> None:
    Path("prompts.txt").write_bytes("\ufeffa corgi in space\r\n\n  \nein Hündchen\n".encode())
    result = generate("a cat", "a fox", "--prompts-file", "prompts.txt", "--json", "-q")
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == [
        "a cat",
        "a fox",
        "a corgi in space",
        "ein Hündchen",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--steps", "3"], {("decoder", "steps"): 3}),
        (["--steps", "decoder=3,prior=4"], {("decoder", "steps"): 3, ("prior", "steps"): 4}),
        (["--steps", "prior=4", "--steps", "5"], {("prior", "steps"): 4, ("decoder", "steps"): 5}),
        (["--guidance", "3.5"], {("decoder", "guidance"): 3.5}),
        (["--guidance", "prior=2"], {("prior", "guidance"): 2.0}),
        (["--sampler", "ddpm"], {("decoder", "sampler"): "ddpm"}),
        (
            ["--sampler", "prior=ddim", "--steps", "upsampler-256=2"],
            {("prior", "sampler"): "ddim", ("upsampler-256", "steps"): 2},
        ),
    ],
)
def test_steps_guidance_and_sampler_per_stage(
    generate: Any, options: list[str], expected: dict[tuple[str, str], Any]
) -> None:
    generate(PROMPT, "-o", "plain.png", size=256)
    generate(PROMPT, "-o", "changed.png", *options, size=256)
    plain, changed = (read_settings(Path(p))["stages"] for p in ("plain.png", "changed.png"))
    differ = {
        (role, key): changed[role][key]
        for role in plain
        for key in plain[role]
        if changed[role][key] != plain[role][key]
    }
    assert differ == expected
    assert (pixels("plain.png") != pixels("changed.png")).any()


def test_negative(generate: Any) -> None:
    generate(PROMPT, "-o", "plain.png")
    generate(PROMPT, "-o", "negative.png", "--negative", "a beach in the rain")
    assert (pixels("plain.png") != pixels("negative.png")).any()
    assert read_settings(Path("negative.png"))["negative"] == "a beach in the rain"


def test_device_and_dtype(generate: Any) -> None:
    generate(PROMPT, "-o", "full.png", "--device", "cpu")
    generate(PROMPT, "-o", "half.png", "--device", "cpu", "--dtype", "bfloat16")
    difference = np.abs(pixels("full.png") - pixels("half.png"))
    assert 0 < difference.mean() < 12


def test_a_preset_has_an_option_of_its_own(generate: Any) -> None:
    stages = json.loads(generate("a cat", "--preset", "fast", "--json", "-q").stdout)["settings"]["stages"]
    assert (stages["decoder"]["steps"], stages["decoder"]["sampler"]) == (12, "unipc")


def test_steps_have_presets_and_single_numbers_go_before_them(generate: Any) -> None:
    result = generate("a cat", "--steps", "decoder=3", "--steps", "fast", "--json", "-q", "--offload")
    stages = json.loads(result.stdout)["settings"]["stages"]
    assert (stages["prior"]["steps"], stages["prior"]["sampler"]) == (10, "unipc")
    assert (stages["decoder"]["steps"], stages["decoder"]["sampler"]) == (3, "unipc")


def test_json_is_one_line_for_each_picture(generate: Any) -> None:
    result = generate("a cat", "a فox", "-n", "2", "--json", "-q", size=256)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 4 and "a فox" in result.stdout
    for line, seed in zip(lines, [7, 8, 7, 8], strict=True):
        assert set(line) == {"path", "prompt", "seed", "settings", "seconds"}
        assert line["seed"] == seed == line["settings"]["seed"]
        assert read_settings(Path(line["path"])) == line["settings"]
        assert set(line["seconds"]) == {"clip", "prior", "decoder", "upsampler-256"}
        assert all(isinstance(s, float) and s >= 0 for s in line["seconds"].values())


def test_grid_is_one_sheet_that_tells_of_all(generate: Any) -> None:
    result = generate("a cat", "a fox", "-n", "2", "--grid", "-o", "sheet.png", "--no-watermark")
    assert result.stdout == "sheet.png\n" and here() == ["sheet.png"]
    sheet = pixels("sheet.png")
    assert sheet.shape == (132, 132, 3)
    settings = read_settings(Path("sheet.png"))["grid"]
    assert [(s["prompt"], s["seed"]) for s in settings] == [
        ("a cat", 7),
        ("a cat", 8),
        ("a fox", 7),
        ("a fox", 8),
    ]
    generate("a fox", "-o", "alone.png", "--no-watermark")
    assert np.abs(sheet[68:132, 0:64] - pixels("alone.png")).max() <= 1


def marks(path: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(invoke("verify", "--json", path).stdout)
    return tree


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_pictures_say_that_a_model_made_them_unless_told_not_to(generate: Any, name: str) -> None:
    generate("a cat", "-o", name, size=256)
    said = marks(name)
    assert said["watermark"]["found"] and "xmp: trainedAlgorithmicMedia" in said["metadata"]
    assert json.loads(invoke("info", "--json", name).stdout)["prompt"] == "a cat"
    generate("a cat", "-o", name, "--overwrite", "--no-watermark", "--no-metadata", size=256)
    assert not marks(name)["generated"]


def test_a_sheet_is_marked_as_one_picture(generate: Any) -> None:
    generate("a cat", "-n", "4", "--grid", "-o", "sheet.png", size=256)
    assert marks("sheet.png")["watermark"]["found"]


def test_grid_has_a_name_of_its_own_and_json(generate: Any) -> None:
    line = json.loads(generate("a cat", "-n", "3", "--grid", "--json").stdout)
    assert line == {"path": "a-cat-7-grid.png", "images": 3, "seed": 7} and here() == ["a-cat-7-grid.png"]


def test_save_stages_writes_the_smaller_pictures_too(generate: Any) -> None:
    generate("a cat", "-n", "2", "-o", "{seed}.png", "--save-stages", size=1024)
    assert here() == ["7-256.png", "7-64.png", "7.png", "8-256.png", "8-64.png", "8.png"]
    assert pixels("8-256.png").shape == (256, 256, 3) and pixels("8-64.png").shape == (64, 64, 3)
    generate("a cat", "-o", "small.png", size=64, seed=8)
    assert np.abs(pixels("small.png") - pixels("8-64.png")).max() <= 1


def test_warnings_go_to_stderr_and_quiet_silences_them(generate: Any) -> None:
    loud = generate("a dragon eating sushi", "-o", "a.png")
    assert loud.stdout == "a.png\n"
    assert "never seen: dragon, sushi" in loud.stderr and len(loud.stderr.splitlines()) == 1
    assert generate("a dragon eating sushi", "-o", "b.png", "--quiet").stderr == ""


def test_progress_bars_are_shown_on_a_terminal_only(tiny_model: Path, generate: Any) -> None:
    assert generate("a cat").stderr == ""
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(
        child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0)
    )  # a terminal without a size shows no bar
    command = [
        sys.executable,
        "-m",
        "unclip",
        "generate",
        "a cat",
        "--model",
        str(tiny_model),
        "--size",
        "256",
        "-o",
        "b.png",
    ]
    process = subprocess.Popen(command, stderr=child, stdout=subprocess.PIPE, env=environment())
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 65536):
            shown += chunk
    except OSError:  # how a terminal ends on Linux
        pass
    out, _ = process.communicate(timeout=300)
    os.close(parent)
    assert process.returncode == 0 and out == b"b.png\n"
    assert all(role in shown for role in (b"prior", b"decoder", b"upsampler-256"))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


# --- info ---


def test_info_reads_back_how_a_picture_was_made(generate: Any) -> None:
    prompt = "a corgi 🐶 with a “قبعة”"
    generate(prompt, "-q", "--steps", "prior=3", "--negative", "snow", "-o", "x.png")
    tree = json.loads(invoke("info", "x.png", "--json").stdout)
    assert tree == read_settings(Path("x.png"))
    assert (
        tree["prompt"] == prompt and tree["seed"] == 7 and tree["size"] == 64 and tree["negative"] == "snow"
    )
    assert tree["stages"]["prior"]["steps"] == 3
    readable = invoke("info", "x.png").stdout
    assert (
        f"prompt: {prompt}\n" in readable
        and "seed: 7\n" in readable
        and "  prior:\n    steps: 3\n" in readable
    )


def test_what_info_prints_draws_the_same_picture_again(generate: Any, tiny_model: Path) -> None:
    generate(
        PROMPT,
        "--steps",
        "decoder=4,prior=3",
        "--guidance",
        "4",
        "--sampler",
        "ddim",
        "--negative",
        "snow",
        "-o",
        "x.png",
        size=256,
    )
    how = json.loads(invoke("info", "x.png", "--json").stdout)
    again = Pipeline.from_pretrained(str(tiny_model), device="cpu").generate(
        how["prompt"], seed=how["seed"], size=how["size"], negative=how["negative"], options=how["stages"]
    )
    assert again.images[0].tobytes() == Image.open("x.png").tobytes()


def test_info_on_a_grid_lists_its_pictures(generate: Any) -> None:
    generate("a cat", "a fox", "--grid", "-o", "sheet.png")
    readable = invoke("info", "sheet.png").stdout
    assert "prompt: a cat" in readable and "prompt: a fox" in readable


def test_info_without_an_argument_tells_of_the_program() -> None:
    from unclip import __version__

    tree = json.loads(invoke("info", "--json").stdout)
    assert tree["unclip"] == __version__ and tree["samplers"] == "analytic_dpm, ddim, ddpm, dpmpp_2m, unipc"
    assert f"unclip: {__version__}" in invoke("info").stdout


def test_info_on_a_model_counts_its_parameters(tiny_model: Path) -> None:
    tree = json.loads(invoke("info", str(tiny_model), "--json").stdout)
    assert tree["name"] == "tiny" and tree["upsamplers"] == ["upsampler-256", "upsampler-1024"]
    pipe = Pipeline.from_pretrained(str(tiny_model))
    expected = sum(tensor.numel() for tensor in pipe.decoder.state_dict().values())
    assert tree["parameters of decoder"] == f"{expected:,}"
    assert "shiba" in tree["words it knows"]
    assert "name: tiny" in invoke("info", str(tiny_model)).stdout


# --- assemble ---


def test_assemble_joins_parts_into_a_model_that_generates(tiny_model: Path) -> None:
    parts = [str(tiny_model / name) for name in ("clip", "prior", "decoder", "upsampler-256")]
    result = invoke("assemble", *parts, "-o", "model", "--name", "mine", "--half", "--world", "menagerie")
    assert result.stdout == "model\n"
    tree = json.loads(invoke("info", "model", "--json").stdout)
    assert tree["name"] == "mine" and "words it knows" in tree and tree["upsamplers"] == ["upsampler-256"]
    invoke("generate", "a cat", "--model", "model", "-o", "cat.png")
    assert pixels("cat.png").shape == (256, 256, 3)
    invoke("assemble", *parts[:3], "-o", "model", "--overwrite")
    assert json.loads(invoke("info", "model", "--json").stdout)["name"] == "model"


def test_assemble_takes_the_newest_checkpoint_of_a_run(tiny_model: Path) -> None:
    import shutil

    for step in (9, 10):
        folder = Path(f"run/step-{step:08d}")
        shutil.copytree(tiny_model / "prior", folder)
        (folder / "progress.json").write_text("{}")
        config = json.loads((folder / "config.json").read_text())
        config["sampling"]["steps"] = step
        (folder / "config.json").write_text(json.dumps(config))
    invoke("assemble", str(tiny_model / "clip"), "run", str(tiny_model / "decoder"), "-o", "model")
    assert json.loads(Path("model/prior/config.json").read_text())["sampling"]["steps"] == 10


# --- data ---


def test_data_menagerie_and_show() -> None:
    assert (
        invoke("data", "menagerie", "--out", "shards", "--count", "10", "--size", "32").stdout == "shards\n"
    )
    assert here() == ["shards/000000.tar", "shards/shards.json"]
    shown = invoke("data", "show", "shards/*.tar", "-o", "sheet.png", "--count", "7", "--size", "32")
    assert len(shown.stdout.splitlines()) == 7 and shown.stderr == "sheet.png\n"
    assert pixels("sheet.png").shape == (2 * 36 - 4, 6 * 36 - 4, 3)


def test_data_menagerie_draws_held_out_scenes_when_asked() -> None:
    invoke(
        "data",
        "menagerie",
        "--out",
        "a",
        "--count",
        "5",
        "--size",
        "16",
        "--held-out",
        "--seed",
        "3",
        "--jobs",
        "1",
    )
    from unclip.data.tar import read_samples
    from unclip.menagerie.scene import sample

    scenes = [json.loads(one["json"])["scene"] for one in read_samples(["a/000000.tar"])]
    assert scenes == [sample(3, i, held_out=True).attributes() for i in range(5)]


def test_data_show_skips_what_cannot_be_read() -> None:
    import tarfile

    invoke("data", "menagerie", "--out", "a", "--count", "2", "--size", "16")
    Path("bad.png").write_text("no picture")
    Path("bad.txt").write_text("words")
    with tarfile.open("a/000000.tar", "a") as tar:
        tar.add("bad.png")
        tar.add("bad.txt")
    result = invoke("data", "show", "a/*.tar", "--size", "16")
    assert len(result.stdout.splitlines()) == 2 and "skipped sample bad" in result.stderr


# --- train ---


def test_train_dry_run_prints_the_resolved_config_and_the_size() -> None:
    result = invoke(
        "train",
        str(ROOT / "configs/mini/prior.yaml"),
        "train.steps=7",
        "stage.sampling.guidance=9",
        "--dry-run",
        "--devices",
        "1",
    )
    tree = yaml.safe_load(result.stdout)
    assert tree["train"]["steps"] == 7 and tree["stage"]["sampling"]["guidance"] == 9.0
    assert tree["optim"]["eps"] == 1e-8  # a default
    assert re.search(r"^# [\d,]{9} parameters$", result.stdout, re.M) and here() == []
    from unclip.train.config import read_run

    Path("resolved.yaml").write_text(result.stdout)
    assert read_run(Path("resolved.yaml")).train.steps == 7


def test_train_writes_a_run_and_goes_on() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # one precision per process, whatever other tests chose
    invoke("data", "menagerie", "--out", "shards", "--count", "20", "--size", "32")
    tree = {
        "name": "small",
        "stage": {
            "kind": "upsampler",
            "size": 32,
            "crop_fraction": 0.5,
            "unet": {"channels": 32, "multipliers": [1], "depth": 1},
        },
        "data": {"shards": "shards/*.tar", "batch": 2, "workers": 0, "shuffle": 5},
        "optim": {"lr": 0.001},
        "train": {"steps": 2, "precision": "no", "sample_every": 0},
    }
    Path("small.yaml").write_text(yaml.safe_dump(tree))
    result = invoke("train", "small.yaml", "train.steps=1", "-q")
    assert result.stdout == "runs/small/step-00000001\n" and result.stderr == ""
    assert invoke("train", "small.yaml", "-q").stdout == "runs/small/step-00000002\n"
    assert invoke("train", "small.yaml", "--out", "elsewhere", "-q").stdout == "elsewhere/step-00000002\n"


# --- the program ---


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["generate"],
        ["info"],
        ["train"],
        ["assemble"],
        ["data"],
        ["data", "menagerie"],
        ["data", "show"],
        ["evaluate"],
    ],
)
def test_every_command_explains_itself(command: list[str]) -> None:
    long, short = (invoke(*command, flag).stdout for flag in ("--help", "-h"))
    assert long == short and long.startswith("Usage: ")


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from unclip.cli import cli; cli(['generate', '--help'], standalone_mode=False); print(sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    ).stdout
    loaded = out.splitlines()[-1]
    assert "'click'" in loaded
    for heavy in ("torch", "numpy", "PIL", "pydantic", "yaml", "skia", "open_clip"):
        assert f"'{heavy}'" not in loaded


def test_python_m_unclip_is_the_program(tiny_model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "unclip",
        "generate",
        "a cat",
        "--model",
        str(tiny_model),
        "--size",
        "64",
        "--seed",
        "1",
    ]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, "a-cat-1.png\n", "")
