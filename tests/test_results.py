"""Results: what can fail at the end is found before the work, and what was drawn is kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unclip import cache
from unclip.cli import cli
from unclip.cli.paths import check_outputs, check_writable, image_paths
from unclip.errors import CheckpointError, RequestError, UnclipError
from unclip.files import UNFINISHED, new_file, new_folder
from unclip.images import open_picture, read_settings, save_picture
from unclip.models.convert.weights import read_component
from unclip.models.resolve import absolute, resolve
from unclip.pipeline import Pipeline
from unclip.provenance import metadata

FAST = ("--size", "64", "--steps", "1", "--steps", "prior=1", "-q")
UNWRITABLE = "/proc/nobody"  # not even root can make a folder there


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tiny_model: Path) -> Any:
    def invoke(verb: str, *arguments: str) -> Any:
        fast = FAST[2:] if verb == "outpaint" else FAST
        return CliRunner().invoke(cli, [verb, "--model", str(tiny_model), *fast, *arguments])

    return invoke


@pytest.fixture
def _never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: Any, **__: Any) -> None:
        raise AssertionError("drawn before the check")

    for verb in ("generate", "vary", "edit", "mix", "interpolate", "diff", "outpaint"):
        monkeypatch.setattr(Pipeline, verb, drawn)


# --- files and folders ---


@pytest.mark.parametrize("length", [200, 241, 242, 251, 255])
def test_a_name_may_be_as_long_as_the_file_system_takes(length: int) -> None:
    path = Path("é" * ((length - 4) // 2) + "n" * (length % 2) + ".png")
    assert len(os.fsencode(path)) == length
    check_writable(path)
    save_picture(Image.new("RGB", (8, 8)), path)
    assert [found.name for found in Path().iterdir()] == [path.name]


def test_a_name_that_is_too_long_is_refused() -> None:
    for path in ("n" * 252 + ".png", "deep/" + "n" * 252 + ".png", "n" * 256 + "/x.png"):
        with pytest.raises(RequestError, match="cannot be written"):
            check_outputs([Path(path)], overwrite=False)
    assert not list(Path().iterdir())


def test_a_caption_in_a_name_is_cut_so_that_the_name_fits() -> None:
    (path,) = image_paths("n" * 200 + "-{prompt}-{seed}.png", [("é" * 90, 7)])
    assert len(os.fsencode(path)) in (254, 255) and path.name.endswith("é-7.png")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (f"{UNWRITABLE}/x.png", "cannot be"),
        ("file/x.png", "file is a file"),
        ("file/deeper/x.png", "file is a file"),
        ("folder.png", "is a folder"),
        ("pipe.png", "is a device"),
        ("loop.png", "cannot be written"),
    ],
)
def test_where_nothing_can_be_written_is_found_first(output: str, says: str) -> None:
    Path("file").touch()
    Path("folder.png").mkdir()
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    before = sorted(os.listdir())
    with pytest.raises(RequestError, match=says):
        check_outputs([Path(output)], overwrite=True)
    assert sorted(os.listdir()) == before


def test_a_link_stays_and_its_target_is_replaced() -> None:
    Path("real").mkdir()
    for name in ("link.png", "real/old.png"):
        Path("real/old.png").write_bytes(b"old")
        Path("link.png").unlink(missing_ok=True)
        Path("link.png").symlink_to("real/old.png")
        save_picture(Image.new("RGB", (8, 8)), Path(name))
        assert Path("link.png").is_symlink() and open_picture(Path("real/old.png")).size == (8, 8)
    Path("current").symlink_to("model")
    for content in ("one", "two"):  # at first, the link dangles
        with new_folder(Path("current"), replaces="index") as folder:
            (folder / "index").write_text(content)
        assert Path("current").is_symlink() and Path("model/index").read_text() == content
    assert sorted(os.listdir()) == ["current", "link.png", "model", "real"]


def test_a_folder_is_kept_where_its_replacement_fails() -> None:
    Path("model").mkdir()
    Path("model/index").write_text("good")
    with pytest.raises(ZeroDivisionError), new_folder(Path("model"), replaces="index"):
        _ = 1 / 0
    assert Path("model/index").read_text() == "good" and os.listdir() == ["model"]
    for path, replaces, says in (
        ("/proc", None, "mount point"),
        (UNWRITABLE, "index", "cannot be written"),
        ("model", "other", "not a model"),
        ("model/index", "other", "not a model"),
    ):
        with pytest.raises(CheckpointError, match=says), new_folder(Path(path), replaces=replaces):
            raise AssertionError("the work began")


def test_what_a_killed_process_left_is_removed() -> None:
    Path(".model.0a1b2c3d.tmp").mkdir()
    Path(".other.0a1b2c3d.tmp").mkdir()
    Path(".model.lock").write_text("process 1 on somewhere")
    with new_folder(Path("model")):
        assert not Path(".model.0a1b2c3d.tmp").exists()
    assert sorted(os.listdir()) == [".other.0a1b2c3d.tmp", "model"]


def test_a_device_is_never_replaced_by_a_file() -> None:
    os.mkfifo("pipe")
    with pytest.raises(OSError, match="a device"), new_file(Path("pipe")) as temporary:
        temporary.touch()
    assert Path("pipe").is_fifo() and not list(Path().glob(f"{UNFINISHED}*"))


# --- pictures ---


def test_a_jpeg_holds_what_fits_of_the_settings_and_says_so() -> None:
    image, many = Image.new("RGB", (8, 8)), [{"prompt": "a fox " * 20, "seed": i} for i in range(2000)]
    for settings in ({"grid": many, "model": "tiny"}, {"prompt": "ж" * 100_000, "model": "tiny"}):
        for name in ("a.jpg", "a.webp", "a.png"):
            save_picture(image, Path(name), settings=settings, source="trainedAlgorithmicMedia")
        assert read_settings(Path("a.png")) == settings == read_settings(Path("a.webp"))
        kept = read_settings(Path("a.jpg"))
        assert kept.pop("shortened") == metadata.SHORTENED and kept["model"] == "tiny"
        assert len(json.dumps(kept)) > 15_000  # most of what fits
        assert b"trainedAlgorithmicMedia" in Path("a.jpg").read_bytes()
    assert kept["prompt"] == "ж" * len(kept["prompt"])


def test_settings_with_a_name_that_is_not_utf_8_are_kept() -> None:
    settings = {"run": os.fsdecode(b"runs/\xff")}
    for name in ("a.jpg", "a.webp", "a.png"):
        save_picture(Image.new("RGB", (8, 8)), Path(name), settings=settings)
        assert read_settings(Path(name)) == settings


@pytest.mark.parametrize(("name", "side"), [("x.webp", 16_384), ("x.jpg", 65_501)])
def test_a_picture_too_large_for_its_format_is_refused(name: str, side: int, run: Any) -> None:
    with pytest.raises(UnclipError, match="too large for a"):
        save_picture(Image.new("RGB", (side, 8)), Path(name))
    save_picture(Image.new("RGB", (side - 1, 8)), Path(name))


@pytest.mark.usefixtures("_never_drawn")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "a fox", "-n", "999", "--grid", "--size", "1024"], "million at most"),
        (["generate", "a fox", "-n", "9999999"], "1 to 10000"),
        (["mix", "a fox", "a cat", "-n", "100000"], "at most 10000"),
        (["interpolate", "a fox", "a cat", "--strip", "fr/frame-0.png", "-o", "fr/"], "two outputs"),
        (["interpolate", "a fox", "a cat", "--animation", "/proc/no/x.gif"], "cannot be"),
        (["interpolate", "a fox", "a cat", "--frames", "999", "--size", "1024"], "999 frames of 1024"),
        (
            ["generate", "fox", "fox 64", "--size", "256", "--save-stages", "-o", "o/{prompt}.png"],
            "two outputs",
        ),
        (["outpaint", "in.png", "a fox", "--to", "20000x64", "-o", "x.webp"], "too large for a WEBP"),
    ],
)
def test_what_would_fail_at_the_end_fails_first(run: Any, arguments: list[str], says: str) -> None:
    Image.new("RGB", (64, 64)).save("in.png")
    result = run(*arguments)
    assert isinstance(result.exception, RequestError) and says in str(result.exception)
    assert os.listdir() == ["in.png"]


def test_a_prompt_that_is_no_file_name_is_a_prompt(run: Any) -> None:
    long = "a fox wearing a crown " * 20
    assert run("mix", "a fox", long, "-o", "m.png").exit_code == 0
    assert read_settings(Path("m.png"))["keys"] == ["a fox", long]


def test_pictures_are_written_as_they_are_drawn(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64), "red").save("in.png")
    monkeypatch.setattr(sys.modules["unclip.cli.outputs"], "BATCH", 2)
    for verb, arguments in (
        ("vary", ["in.png", "-n", "5"]),
        ("vary", ["in.png", "-n", "5", "--fresh-noise"]),
        ("edit", ["in.png", "a fox", "--strength", "0.5", "-n", "5"]),
        ("mix", ["in.png", "a fox", "-n", "5"]),
        ("diff", ["in.png", "", "a fox", "-n", "5"]),
        ("outpaint", ["in.png", "a fox", "--to", "80x64", "-n", "2"]),
    ):
        real = getattr(Pipeline, verb)
        found: list[int] = []

        def counted(*given: Any, real: Any = real, found: list[int] = found, **options: Any) -> Any:
            found.append(len(list(Path("o").glob("*.png"))))
            return real(*given, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, verb, counted)
            result = run(verb, *arguments, "--seed", "3", "-o", "o/")
        assert result.exit_code == 0, (verb, result.exception)
        assert found == ([0, 1] if verb == "outpaint" else [0, 2, 4]), verb
        settings = [read_settings(path) for path in sorted(Path("o").iterdir())]
        assert [one["seed"] for one in settings] == (
            [3] * 5 if verb == "diff" else [3, 4, 5, 6, 7][: len(settings)]
        )
        for path in Path("o").iterdir():
            path.unlink()


def test_an_inversion_can_be_given_instead_of_its_picture(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(str(tiny_model))
    picture, few = Image.linear_gradient("L").resize((64, 64)), {"decoder": {"steps": 2}}
    found = pipe.invert(picture, options=few)
    verbs: list[tuple[str, dict[str, Any]]] = [
        ("vary", {"num_images": 2}),
        ("diff", {"before": "", "after": "a fox"}),
    ]
    for verb, arguments in verbs:
        ours, theirs = (
            getattr(pipe, verb)(one, **arguments, seed=1, size=64, options=few).images
            for one in (found, picture)
        )
        assert [one.tobytes() for one in ours] == [one.tobytes() for one in theirs]


# --- the cache ---


def test_a_cache_that_cannot_be_written_costs_only_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", UNWRITABLE)
    folder = cache.writable_cache("things")
    assert folder == cache.scratch_folder() / "things" and UNWRITABLE in caplog.text
    check_writable(folder / "x")


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    check_writable(cache.cache_folder() / "x")


# --- other programs' weights ---


def test_weights_of_one_variant_are_read_and_of_several_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2, dtype=torch.float16)}, "model.fp16.safetensors")
    assert read_component(tmp_path)["x"].dtype == torch.float16
    save_file({"x": torch.ones(2, dtype=torch.bfloat16)}, "model.bf16.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.bf16\.safetensors, model\.fp16\.safetensors"):
        read_component(tmp_path)
    save_file({"x": torch.ones(2)}, "model.safetensors")
    assert read_component(tmp_path)["x"].dtype == torch.float32
    for path in tmp_path.iterdir():
        path.unlink()
    save_file({"x": torch.ones(2)}, "model.fp16-00001-of-00002.safetensors")
    save_file({"y": torch.ones(2)}, "model.fp16-00002-of-00002.safetensors")
    shards = {"x": "model.fp16-00001-of-00002.safetensors", "y": "model.fp16-00002-of-00002.safetensors"}
    Path("model.safetensors.index.fp16.json").write_text(json.dumps({"weight_map": shards}))
    assert sorted(read_component(tmp_path)) == ["x", "y"]


# --- references ---


@pytest.mark.parametrize("where", ["", "deep/er"])
def test_a_run_finds_its_relative_clip_from_everywhere(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    shutil.copytree(tiny_model / "clip", "myclip")
    run = tmp_path / where / "run"
    shutil.copytree(tiny_model / "decoder", run / "step-00000001")
    (run / "step-00000001/progress.json").write_text("{}")
    (run / "run.yaml").write_text("clip: myclip\n")
    assert absolute("myclip") == str(tmp_path / "myclip") and absolute("mini/clip") == "mini/clip"
    monkeypatch.chdir("/")
    assert resolve(str(run)).clip == str(tmp_path / "myclip")


def test_a_decoder_draws_large_batches_in_parts(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, few = Pipeline.from_pretrained(str(tiny_model)), {"decoder": {"steps": 2}}
    keys: list[Image.Image | str] = ["a fox", Image.linear_gradient("L").resize((64, 64))]
    whole: list[Image.Image] = []
    parts: list[Image.Image] = []
    for made, pixels in ((whole, 2**20), (parts, 2 * 64**2)):
        monkeypatch.setattr("unclip.pipeline.call.TOGETHER", pixels)
        made += pipe.interpolate(keys, 5, seed=1, size=64, options=few).images
        made += pipe.generate("a fox", num_images=3, seed=1, size=64, options=few).images
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
