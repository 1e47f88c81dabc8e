"""The commands that edit images: files in, files out, and refused input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.errors import RequestError
from unclip.images import open_picture, plain, read_settings, save_animation
from unclip.provenance.verify import verify

SMALL = ("--size", "64", "--steps", "2", "--seed", "1")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("in.png")


@pytest.fixture
def run(tiny_model: Path) -> Any:
    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(cli, [*arguments, "--model", str(tiny_model)], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return invoke


def picture(side: int = 64) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def test_vary_writes_pictures_that_say_how_they_were_made(run: Any) -> None:
    assert run("vary", "in.png", "-n", "2", "--eta", "0.5", *SMALL).split() == [
        "variation-0.png",
        "variation-1.png",
    ]
    settings = read_settings(Path("variation-1.png"))
    assert (settings["verb"], settings["eta"], settings["seed"], settings["model"]) == (
        "vary",
        0.5,
        2,
        "tiny",
    )
    assert settings["stages"]["decoder"]["sampler"] == "ddim" and "prior" not in settings["stages"]
    assert b"/trainedAlgorithmicMedia" in Path("variation-1.png").read_bytes()
    line = json.loads(run("vary", "in.png", "--fresh-noise", *SMALL, "--json", "-o", "new/v.png"))
    assert line["path"] == "new/v.png" and line["settings"]["fresh_noise"] is True


def test_interpolate_writes_frames_a_film_and_a_strip(run: Any) -> None:
    out = run(
        "interpolate",
        "in.png",
        "a fox",
        "--frames",
        "3",
        *SMALL,
        "-o",
        "f",
        "--animation",
        "f.gif",
        "--strip",
        "s.png",
    )
    assert out.split() == ["f/frame-0.png", "f/frame-1.png", "f/frame-2.png", "f.gif", "s.png"]
    with Image.open("f.gif") as film, Image.open("s.png") as strip:
        assert film.n_frames == 4 and strip.size == (3 * 68 - 4, 64)


def test_mix_takes_prompts_files_and_weights(run: Any) -> None:
    assert run("mix", "in.png", "a fox", "--weights", "1,3", "-n", "2", *SMALL).split() == [
        "mix-0.png",
        "mix-1.png",
    ]
    settings = read_settings(Path("mix-1.png"))
    assert (settings["keys"], settings["weights"], settings["seed"]) == (
        ["a picture", "a fox"],
        [0.25, 0.75],
        2,
    )


def test_diff_goes_through_thetas(run: Any) -> None:
    assert len(run("diff", "in.png", "", "a fox", "--theta", "0.2:0.4", "-n", "3", *SMALL).split()) == 3
    assert [read_settings(Path(f"diff-{i}.png"))["theta"] for i in range(3)] == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize("marks", [[], ["--no-watermark"]])
def test_edit_and_outpaint_keep_what_is_kept(run: Any, marks: list[str]) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 64, 20))
    mask.save("mask.png")
    run("edit", "in.png", "a fox", "--mask", "mask.png", "--repeats", "1", *SMALL, "-o", "edited.png", *marks)
    wide = ("--to", "96x64", "--repeats", "1", "--steps", "2", "-o", "wide.png")
    run("outpaint", "in.png", "a fox", *wide, *marks)
    original = np.asarray(picture())
    with Image.open("edited.png") as edited, Image.open("wide.png") as wide:
        assert np.array_equal(np.asarray(edited)[20:], original[20:])
        assert np.array_equal(np.asarray(wide)[:, 16:80], original)
    for name in ("edited.png", "wide.png"):
        assert (
            b"/compositeWithTrainedAlgorithmicMedia" in Path(name).read_bytes()
            and verify(Path(name)).generated
        )


def test_an_edit_is_marked_where_it_was_painted(run: Any) -> None:
    picture(256).save("large.png")
    mask = Image.new("L", (256, 256), 255)
    mask.paste(0, (0, 0, 256, 40))
    mask.save("mask.png")
    run(
        "edit",
        "large.png",
        "a fox",
        "--mask",
        "mask.png",
        "--repeats",
        "1",
        "--steps",
        "2",
        "-o",
        "edited.png",
    )
    with Image.open("edited.png") as edited:
        assert np.array_equal(np.asarray(edited)[:40], np.asarray(picture(256))[:40])
    assert verify(Path("edited.png")).watermark.found


def test_every_verb_marks_what_it_makes_unless_it_is_told_not_to(run: Any) -> None:
    size = ("--size", "256", "--steps", "2", "--seed", "1")
    run("vary", "in.png", *size, "-o", "vary.png")
    run("edit", "in.png", "a fox", "--strength", "0.5", "--repeats", "1", *size, "-o", "edit.png")
    run("interpolate", "in.png", "a fox", "--frames", "2", *size, "-o", "frames")
    for name in ("vary.png", "edit.png", "frames/frame-1.png"):
        assert verify(Path(name)).watermark.found and read_settings(Path(name))["seed"] == 1
    run("vary", "in.png", *size, "-o", "bare.png", "--no-watermark", "--no-metadata")
    assert not verify(Path("bare.png")).generated and b"iTXt" not in Path("bare.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vary", "none.png"], "none.png: no such file"),
        (
            ["vary", "in.png", "-o", "a.bmp"],
            "--output a.bmp: give a folder, or a name that ends in .png, .jpg",
        ),
        (["vary", "in.png", "-o", "{name}.png"], "a pattern knows {prompt}, {seed} and {index} only"),
        (["interpolate", "in.png", "a fox", "-o", "{seed}.png"], "several pictures would have the same name"),
        (["vary", "in.png", "--steps", "prior=fast"], "prior: steps"),
        (
            ["edit", "in.png", "a fox", "--size", "100", "--strength", "0.5"],
            "--size 100: tiny makes pictures of 64, 256",
        ),
        (["vary", "in.png", "-n", "0"], "at least 1"),
        (["interpolate", "in.png", "none.png"], "none.png: no such file"),
        (["interpolate", "in.png"], "two"),
        (["interpolate", "in.png", "a fox", "--animation", "a.avi"], "a.avi"),
        (["mix", "in.png", "a fox", "--weights", "1;2"], "--weights 1;2"),
        (["mix", "in.png", "none.png"], "none.png: no such file"),
        (["diff", "in.png", "a", "b", "--theta", "x"], "--theta x"),
        (["diff", "in.png", "a", "b", "--theta", "0.2:1.2"], "theta 1.2"),
        (["diff", "in.png", "a", "b", "-n", "1"], "at least 2"),
        (["edit", "in.png", "a fox"], "nothing says what to paint"),
        (["outpaint", "in.png", "a fox", "--to", "wide"], "--to wide"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    tiny_model: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(cli, [*arguments, "--model", str(tiny_model)])
    assert isinstance(result.exception, RequestError) and message in str(result.exception)
    assert [p.name for p in Path().rglob("*")] == ["in.png"]


def test_existing_files_are_kept(run: Any) -> None:
    Path("variation-0.png").write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        run("vary", "in.png", *SMALL)
    assert Path("variation-0.png").read_text() == "mine"


# --- pictures of all kinds ---


def test_sixteen_bits_become_eight() -> None:
    grey = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    assert np.abs(np.asarray(plain(Image.fromarray(grey)))[..., 0].astype(int) - grey // 257).max() <= 1


def test_exif_turns_the_picture_and_palettes_keep_their_transparency() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    Image.new("RGB", (30, 20)).save("turned.jpg", exif=exif)
    assert open_picture(Path("turned.jpg")).size == (20, 30)
    spot = Image.new("P", (16, 16), 0)
    spot.putpalette([0, 0, 0, 255, 0, 0])
    spot.putpixel((3, 3), 1)
    spot.save("spot.png", transparency=1)
    read = open_picture(Path("spot.png"))
    assert read.mode == "RGBA" and read.getpixel((3, 3))[3] == 0 and read.getpixel((4, 4))[3] == 255


def test_of_a_film_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    save_animation(frames, Path("film.gif"))
    assert open_picture(Path("film.gif")).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_pictures_are_named(damage: str) -> None:
    data = Path("in.png").read_bytes()
    Path("bad.png").write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(RequestError, match="bad.png: not a readable picture"):
        open_picture(Path("bad.png"))


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (9000, 9000)])
def test_tiny_and_huge_pictures_are_refused(size: tuple[int, int]) -> None:
    Image.new("1", size).save("odd.png")
    with pytest.raises(RequestError, match=rf"odd.png: {size[0]} × {size[1]} pixels"):
        open_picture(Path("odd.png"))


def test_mp4_needs_ffmpeg_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match="ffmpeg"):
        save_animation([picture()], Path("film.mp4"))


@pytest.mark.parametrize(
    ("size", "message"), [((7, 64), "7 × 64 pixels"), ((9000, 9000), "9000 × 9000 pixels")]
)
def test_tiny_and_huge_pictures_are_named(size: tuple[int, int], message: str) -> None:
    Image.new("1", size).save("odd.png")
    with pytest.raises(RequestError, match=f"odd.png: {message}; pictures from 8 × 8 to 64 megapixels"):
        open_picture(Path("odd.png"))
