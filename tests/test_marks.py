"""Every image is marked as generated: by all commands, from Python, the server and its page."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.images import read_settings
from unclip.pipeline import Generation, Pipeline, SamplingOptions
from unclip.provenance.verify import verify

SIDE = 256  # pixels: the smallest side at which the detector is certain
FEW = SamplingOptions(seed=3, size=SIDE, stages={"decoder": {"steps": 2}})
SMALL = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
PICTURE = Image.fromarray(SMALL).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
MASK = Image.new("L", (SIDE, SIDE))
MASK.paste(255, (0, 0, SIDE, 160))
KEPT = np.s_[160:, :]
HOLED = PICTURE.convert("RGBA")  # which an outpainting to its own size fills in, in one window
HOLED.putalpha(Image.eval(MASK, lambda value: 255 - value))
INNER = PICTURE.resize((192, 192))  # 56 % of the canvas that the page extends it to

VERBS: dict[str, Callable[[Pipeline, SamplingOptions], Generation]] = {
    "generate": lambda p, o: p("a cat", options=o),
    "decode": lambda p, o: p.decode(torch.ones(1, 32), options=o),
    "upsample": lambda p, o: p.upsample(PICTURE.resize((64, 64)), options=o),
    "vary": lambda p, o: p.vary(PICTURE, options=o),
    "interpolate": lambda p, o: p.interpolate(["a cat", "a fox"], 2, options=o),
    "diff": lambda p, o: p.diff(PICTURE, "a cat", "a fox", 0.4, options=o),
    "mix": lambda p, o: p.mix(["a cat", "a fox"], options=o),
    "edit": lambda p, o: p.edit(PICTURE, "a fox", MASK, repeats=1, options=o),
    "outpaint": lambda p, o: p.outpaint(HOLED, "a fox", (SIDE, SIDE), repeats=1, options=o),
}
PARTS = ("edit", "outpaint")


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURE.save("in.png")
    HOLED.save("holed.png")
    MASK.save("mask.png")


def check(path: Path, verb: str) -> None:
    """The file has both marks."""
    found = verify(path)
    kind = "compositeWithTrainedAlgorithmicMedia" if verb in PARTS else "trainedAlgorithmicMedia"
    assert found.watermark.found, f"{path}: no watermark"
    assert any(kind in statement for statement in found.header.generated), f"{path}: {found.header}"


def check_kept(image: Image.Image, verb: str) -> None:
    """The pixels that an edit or an outpainting keeps are the given picture's, bit for bit."""
    if verb in PARTS:
        assert np.array_equal(np.asarray(image)[KEPT], np.asarray(PICTURE)[KEPT])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_a_pipeline_marks_what_it_makes(pipe: Pipeline, verb: str) -> None:
    made = VERBS[verb](pipe, FEW)
    for number, image in enumerate(made.images):
        made.save(number, f"{number}.png")
        check(Path(f"{number}.png"), verb)
        assert read_settings(Path(f"{number}.png")) == image.info["unclip"]
        check_kept(image, verb)


@pytest.mark.parametrize("verb", ["vary", "edit", "upsample"])
def test_marks_are_left_out_where_they_are_not_wanted(pipe: Pipeline, verb: str) -> None:
    bare = VERBS[verb](pipe, replace(FEW, watermark=False))
    bare.save(0, "bare.png", metadata=False)
    assert not verify(Path("bare.png")).generated


def test_pictures_of_earlier_stages_are_marked_too(pipe: Pipeline) -> None:
    made = pipe("a cat", seed=3, keep_stages=True)
    made.save(0, "256.webp", size=256)
    check(Path("256.webp"), "generate")


COMMANDS = {
    "generate": ["a cat"],
    "vary": ["in.png"],
    "interpolate": ["a cat", "a fox", "--frames", "2", "--strip", "strip.png", "--animation", "way.webp"],
    "diff": ["in.png", "a cat", "a fox", "--theta", "0.4"],
    "mix": ["a cat", "a fox"],
    "edit": ["in.png", "a fox", "--mask", "mask.png", "--repeats", "1"],
    "outpaint": ["holed.png", "a fox", "--to", f"{SIDE}x{SIDE}", "--repeats", "1"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_marks_its_files_in_every_format(tiny_model: Path, verb: str) -> None:
    size = [] if verb == "outpaint" else ["--size", str(SIDE)]
    for suffix in ("png", "jpg", "webp"):
        shared = [
            "--model",
            str(tiny_model),
            "--steps",
            "2",
            "--seed",
            "3",
            "-o",
            f"{suffix}/{{index}}.{suffix}",
        ]
        done = CliRunner().invoke(
            cli, [verb, *COMMANDS[verb], *size, *shared, "--overwrite"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.stderr
        written = [Path(line) for line in done.stdout.splitlines()]
        assert written and written[0].suffix == f".{suffix}"
        for path in written:
            check(path, verb)
    with Image.open("png/0.png") as image:
        check_kept(image, verb)


def test_every_command_takes_the_options_of_generate() -> None:
    from unclip.cli.generate import generate

    own = {"prompts", "prompts_file", "grid"}
    shared = {one.name for one in generate.params} - own
    for verb in COMMANDS:
        have = {one.name for one in cli.commands[verb].params}
        lacks = {"outpaint": {"size", "save_stages"}, "interpolate": {"num_images"}}.get(verb, set())
        assert shared - have == lacks, verb


@pytest.mark.parametrize("verb", ["vary", "edit", "mix"])
def test_commands_draw_alike_offloaded_and_with_every_option(tiny_model: Path, verb: str) -> None:
    shared = [
        "--model",
        str(tiny_model),
        "--size",
        "256",
        "--seed",
        "3",
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "-q",
    ]
    sampler = [] if verb == "vary" else ["--sampler", "ddim"]
    how = [
        "--preset",
        "fast",
        "--steps",
        "2",
        "--guidance",
        "2",
        "--negative",
        "a hat",
        "--save-stages",
        "--json",
        *sampler,
    ]
    for name, more in (("whole", []), ("offloaded", ["--offload"])):
        arguments = [verb, *COMMANDS[verb], *shared, *how, "-o", f"{name}.png", *more]
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0 and f'"path": "{name}.png"' in done.stdout
    assert Path("whole-64.png").is_file()
    with Image.open("whole.png") as whole, Image.open("offloaded.png") as offloaded:
        assert whole.tobytes() == offloaded.tobytes()
    settings = read_settings(Path("whole.png"))
    assert settings["dtype"] == "bfloat16" and settings["stages"]["decoder"]["steps"] == 2
    assert settings["stages"]["decoder"]["sampler"] == "ddim"


# --- the server and its page ---


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def client(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="needs unclip[serve]")
    pytest.importorskip("openai")
    from serving import KEY, Running

    from unclip.serve.app import Policy
    from unclip.serve.store import Store
    from unclip.serve.worker import Worker

    server = Running(Worker(pipe), Store(tmp_path_factory.mktemp("images")), Policy(keys=(KEY,)))
    yield server.client()
    server.stop()


@pytest.mark.parametrize("verb", ["generate", "edit", "vary"])
def test_the_server_marks_what_it_sends(client: Any, verb: str) -> None:
    common: dict[str, Any] = {"size": f"{SIDE}x{SIDE}", "response_format": "b64_json"}
    calls = {
        "generate": lambda: client.images.generate(prompt="a cat", extra_body={"steps": 2}, **common),
        "edit": lambda: client.images.edit(
            image=png(HOLED), prompt="a fox", extra_body={"steps": 2}, **common
        ),
        "vary": lambda: client.images.create_variation(image=png(PICTURE), extra_body={"steps": 2}, **common),
    }
    Path("sent.png").write_bytes(base64.b64decode(calls[verb]().data[0].b64_json))
    check(Path("sent.png"), verb)
    with Image.open("sent.png") as image:
        check_kept(image, verb)


@pytest.mark.parametrize("verb", ["generate", "vary", "edit", "outpaint", "interpolate", "diff"])
def test_the_page_marks_what_it_shows(pipe: Pipeline, verb: str) -> None:
    pytest.importorskip("fastapi", reason="needs unclip[serve]")
    from unclip.serve.page_controller import PageController, PictureSettings
    from unclip.serve.service import ImageService
    from unclip.serve.store import Store
    from unclip.serve.worker import Worker

    Path("shown").mkdir()
    worker = Worker(pipe)
    page = PageController(ImageService(worker, Store(Path("store"))), Path("shown"), Path("copies"))
    how = PictureSettings(2 if verb == "interpolate" else 1, SIDE, {"steps": "2", "seed": "3"})
    brush = Image.new("RGBA", (SIDE, SIDE))
    brush.putalpha(MASK)
    wanted = {
        "generate": lambda: page.generation("a cat", how),
        "vary": lambda: page.variation(png(PICTURE), how),
        "edit": lambda: page.edit({"background": png(PICTURE), "layers": [png(brush)]}, "a fox", how),
        "outpaint": lambda: page.outpainting(png(INNER), "a fox", 4 / 3, 4 / 3, how),
        "interpolate": lambda: page.interpolation(png(PICTURE), "", None, "a fox", how),
        "diff": lambda: page.difference(png(PICTURE), "a cat", "a fox", 0.4, how),
    }[verb]()

    async def last() -> Any:
        return [now async for now in page.draw(wanted, "somebody")][-1]

    worker.start()
    try:
        shown = asyncio.run(last())
    finally:
        worker.stop()
    assert shown
    for one in shown:
        check(Path(one.path), verb)
        with Image.open(one.path) as image:
            if verb == "outpaint":
                assert np.array_equal(np.asarray(image)[32:224, 32:224], np.asarray(INNER))
            else:
                check_kept(image, verb)
