"""Edits, variations and streams of the official client, and images that no client should send."""

from __future__ import annotations

import asyncio
import base64
import http.client
import importlib
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
openai = pytest.importorskip("openai")
from fastapi import Request  # noqa: E402
from serving import KEY, PROMPT, Running, parse_edit, parse_variation, picture  # noqa: E402

from unclip.pipeline import Pipeline  # noqa: E402
from unclip.pipeline.sizes import SizeGrid  # noqa: E402
from unclip.provenance.header import read_header  # noqa: E402
from unclip.provenance.metadata import settings_text  # noqa: E402
from unclip.provenance.watermark import detect  # noqa: E402
from unclip.serve.app import Policy  # noqa: E402
from unclip.serve.bodies import read_form  # noqa: E402
from unclip.serve.envelope import ApiError  # noqa: E402
from unclip.serve.pictures import Marks, encode  # noqa: E402
from unclip.serve.store import Store  # noqa: E402
from unclip.serve.worker import Worker  # noqa: E402


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pipes = [Pipeline.from_pretrained(str(tiny_model), device="cpu") for _ in range(2)]
    server = Running(Worker(*pipes), Store(tmp_path_factory.mktemp("images")), Policy(keys=(KEY,)))
    yield server
    server.stop()


def gradient(side: int = 256, mode: str = "RGB", format: str = "PNG", **how: Any) -> bytes:
    row = np.linspace(0, 255, side).astype(np.uint8)
    pixels = np.stack(
        [np.tile(row, (side, 1)), np.tile(row[:, None], (1, side)), np.full((side, side), 128, np.uint8)], -1
    )
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **how)
    return file.getvalue()


def hole(side: int = 256, *, left: int = 0) -> bytes:
    """A mask as the cookbook makes it: transparent where to paint, in one half."""
    image = Image.new("RGBA", (side, side), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (left, 0, left + side // 2, side))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def decoded(one: Any) -> Image.Image:
    return picture(base64.b64decode(one.b64_json))


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max(axis=2)


@pytest.mark.parametrize(
    ("marks", "source", "told"),
    [
        (Marks(), "trainedAlgorithmicMedia", {"seed": 7}),
        (Marks(watermark=False), "trainedAlgorithmicMedia", {"seed": 7}),
        (Marks(prompts=True), "trainedAlgorithmicMedia", {"seed": 7, "prompt": "a secret"}),
        (Marks(metadata=False), None, None),
    ],
)
def test_a_picture_says_what_it_is_told_to(
    marks: Marks, source: str | None, told: dict[str, Any] | None
) -> None:
    made = picture(gradient())
    made.info["unclip"] = {"seed": 7, "prompt": "a secret"}
    file = encode(made, marks, part=False, settings=marks.settings(made))
    assert detect(picture(file)).found == marks.watermark
    assert read_header(io.BytesIO(file)).generated[:1] == (() if source is None else (f"xmp: {source}",))
    text = settings_text(picture(file))
    assert (None if text is None else json.loads(text)) == told


# --- the official client ---


def test_the_cookbooks_program_runs_unchanged(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI's cookbook for DALL·E 2, step by step: generate, save, vary, mask, edit."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{running.port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = openai.OpenAI(max_retries=0)

    def save(url: str, name: str) -> Path:
        status, _, data = running.ask(
            "GET", url.partition(str(running.port))[2], headers={"Authorization": ""}
        )
        assert status == 200
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    generation = client.images.generate(
        model="dall-e-2", prompt="A cyberpunk monkey hacker", n=1, size="1024x1024", response_format="url"
    )
    generated = save(generation.data[0].url, "generated_image.png")
    with pytest.warns(DeprecationWarning), generated.open("rb") as image:
        variations = client.images.create_variation(image=image, n=2, size="1024x1024", response_format="url")
    names = [save(datum.url, f"variation_image_{i}.png") for i, datum in enumerate(variations.data)]
    assert [Image.open(name).size for name in names] == [(1024, 1024)] * 2

    width, height = 1024, 1024
    mask = Image.new(
        "RGBA", (width, height), (0, 0, 0, 1)
    )  # opaque enough, says the cookbook: only 0 is painted
    mask.putalpha(Image.new("L", (width, height), 255))
    mask.paste((0, 0, 0, 0), (0, height // 2, width, height))
    mask.save(tmp_path / "bottom_half_mask.png")
    with generated.open("rb") as image, (tmp_path / "bottom_half_mask.png").open("rb") as bottom_half:
        edit = client.images.edit(
            model="dall-e-2",
            image=image,
            mask=bottom_half,
            prompt="a monkey",
            n=1,
            size="1024x1024",
            response_format="url",
        )
    edited = Image.open(save(edit.data[0].url, "edited_image.png"))
    apart = difference(edited, Image.open(generated))
    assert apart[:512].max() <= 24 < apart[512:].mean()  # the watermark, and something else


def test_edits_keep_what_the_mask_keeps_at_every_size(running: Running) -> None:
    for size in (256, 512):  # the model makes the first, the second is brought down from 1024
        source = gradient(size)
        made = running.client().images.edit(
            image=source,
            mask=hole(size),
            prompt=PROMPT,
            n=2,
            size=f"{size}x{size}",
            response_format="b64_json",
            extra_body={"seed": 3, "steps": 2},
        )
        assert [one.seed for one in made.data] == [3, 4]
        for one in made.data:
            apart = difference(decoded(one), picture(source).convert("RGB"))
            assert apart[:, size // 2 + 1 :].max() <= 24 and apart[:, : size // 2].mean() > 5
            data = base64.b64decode(one.b64_json)
            assert detect(picture(data)).found
            assert read_header(io.BytesIO(data)).generated == (
                "xmp: compositeWithTrainedAlgorithmicMedia",
                "settings of unclip",
            )
        assert difference(*map(decoded, made.data)).max() > 5


@pytest.mark.parametrize("image", ["RGBA", "JPEG", "WEBP"])
def test_edits_without_a_mask_paint_what_is_transparent_or_all_of_it(running: Running, image: str) -> None:
    source = hole() if image == "RGBA" else gradient(format=image)
    made = running.client().images.edit(
        image=[source], prompt=PROMPT, size="256x256", response_format="b64_json"
    )
    assert decoded(made.data[0]).size == (256, 256)
    if image == "RGBA":
        assert np.asarray(decoded(made.data[0]))[:, 140:].max() <= 24


def test_variations_of_several_clients_are_drawn_together_and_are_their_own(running: Running) -> None:
    def vary(source: bytes, n: int, seed: int) -> list[Image.Image]:
        with pytest.warns(DeprecationWarning):
            made = running.client().images.create_variation(
                image=source, n=n, size="256x256", response_format="b64_json", extra_body={"seed": seed}
            )
        assert [one.seed for one in made.data] == [seed + i for i in range(n)]
        return [decoded(one) for one in made.data]

    first, second = gradient(), hole()
    alone = vary(first, 1, 5), vary(second, 1, 6)
    together = vary(first, 2, 5)
    with running.worker.default.use(0) as pipe:
        both = pipe.vary([picture(first), picture(second)], fresh_noise=True, seed=[5, 6], size=256).images
    assert difference(together[0], alone[0][0]).max() <= 1
    for made, expected in zip(both, (alone[0][0], alone[1][0]), strict=True):
        assert difference(made, expected).max() <= 24  # the watermark
    assert difference(alone[0][0], alone[1][0]).max() > 24


def test_a_stream_shows_the_picture_forming(running: Running) -> None:
    client = running.client()
    events = list(
        client.images.generate(
            prompt=PROMPT, size="256x256", stream=True, partial_images=2, extra_body={"seed": 5, "steps": 4}
        )
    )
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert all(decoded(event).size == (256, 256) and detect(decoded(event)).found for event in events)
    whole = client.images.generate(
        prompt=PROMPT, size="256x256", response_format="b64_json", extra_body={"seed": 5, "steps": 4}
    )
    assert difference(decoded(events[-1]), decoded(whole.data[0])).max() <= 1 and events[-1].seed == 5
    edits = list(
        client.images.edit(image=gradient(), mask=hole(), prompt=PROMPT, size="256x256", stream=True)
    )
    assert [event.type for event in edits] == ["image_edit.completed"]
    with pytest.raises(openai.BadRequestError, match="n must be 1"):
        client.images.generate(prompt=PROMPT, n=2, stream=True)


class Slow:
    """A pipeline that never ends by itself, or fails."""

    name, sizes = "slow", (64, 256)
    grid = SizeGrid("slow", {64: 8, 256: 32}, (64, 256))

    def __init__(self) -> None:
        self.started = threading.Event()

    def generate(self, prompts: list[str], *, on_step: Any, **how: Any) -> Any:
        self.started.set()
        if prompts == ["fail"]:
            raise ZeroDivisionError("a bug")
        while True:
            on_step("decoder", 1, 100, None)
            time.sleep(0.01)


def test_a_stream_that_nobody_reads_any_more_is_stopped_and_a_failure_is_an_event(tmp_path: Path) -> None:
    pipeline: Any = Slow()
    server = Running(Worker(pipeline), Store(tmp_path), Policy())
    try:
        with pytest.raises(openai.APIError, match="had an error"):
            list(server.client().images.generate(prompt="fail", stream=True))
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request(
            "POST",
            "/v1/images/generations",
            json.dumps({"prompt": "a cat", "stream": True}),
            {"Content-Type": "application/json"},
        )
        assert connection.getresponse().status == 200 and pipeline.started.wait(10)
        connection.close()
        deadline = time.monotonic() + 5
        while not server.worker.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.worker.cancelled == 1
    finally:
        server.stop()


# --- what may be sent ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is that large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><image href="http://example.org/x.png"/></svg>'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Uploaded image must be"),
        (b"GIF89a" + bytes(100), "Uploaded image must be"),
        (gradient()[:600], "Uploaded image must be"),
        (SVG, "Uploaded image must be"),
        (b"\x89PNG\r\n\x1a\n" + SVG, "Uploaded image must be"),
        (gradient() + bytes(4 << 20), "less than 4 MB"),
        (bomb(100_000, 100), "at most 4096x4096 pixels, got 100000x100"),
        (bomb(50_000, 50_000), "Uploaded image must be"),
        (bomb(4096, 4096), "Uploaded image must be"),
        (gradient(4), "from 8 × 8"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_pictures_that_are_none_are_refused(data: bytes, says: str, strict: bool) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        parse_variation(({}, {"image": data}), strict=strict)
    assert caught.value.status == 400
    if "Uploaded" in says or "4 MB" in says:
        assert caught.value.code == "invalid_image_format"


def test_strict_is_dall_e_2s_own_and_lenient_takes_what_programs_send() -> None:
    wide = io.BytesIO()
    Image.new("RGB", (300, 200), "white").save(wide, "PNG")
    cases: list[tuple[dict[str, bytes], str]] = [
        ({"image": gradient(format="JPEG"), "mask": hole()}, "must be a PNG and less than 4 MB"),
        ({"image": gradient()}, "format must be in .* got RGB"),
        ({"image": gradient(), "mask": gradient(mode="L")}, "must have transparent areas"),
        ({"image": wide.getvalue(), "mask": wide.getvalue()}, "mask must have transparent areas"),
    ]
    for files, says in cases:
        with pytest.raises(ApiError, match=says):
            parse_edit(({"prompt": "x"}, files), strict=True)
        assert parse_edit(({"prompt": "x"}, files), strict=False).image.width in (200, 256)
    with pytest.raises(ApiError, match="expected an image with equal width and height, got 300x200 instead"):
        parse_variation(({}, {"image": wide.getvalue()}), strict=True)
    assert parse_variation(({}, {"image": wide.getvalue()}), strict=False).image.size == (200, 200)
    with pytest.raises(ApiError, match="'prompt' was unexpected"):
        parse_variation(({"prompt": "x"}, {"image": gradient()}), strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_a_mask_must_fit_and_leave_something_to_do(strict: bool) -> None:
    with pytest.raises(ApiError, match="mask size does not match") as caught:
        parse_edit(({"prompt": "x"}, {"image": gradient(), "mask": hole(128)}), strict=strict)
    assert caught.value.code == "invalid_mask_image_format"
    full = parse_edit(({"prompt": "x"}, {"image": gradient(2048), "mask": hole(2048)}), strict=strict)
    assert full.image.size == (1024, 1024) and full.mask is not None and full.strength is None
    assert [full.mask.getpixel((x, 5)) for x in (0, 511, 514, 1023)] == [255, 255, 0, 0]
    assert (
        parse_edit(({"prompt": "x", "strength": "0.4"}, {"image": gradient()}), strict=False).strength == 0.4
    )
    for form, name in ((({}, {"image": gradient()}), "prompt"), (({"prompt": "x"}, {}), "image")):
        with pytest.raises(ApiError, match=f"'{name}' is a required property"):
            parse_edit(form, strict=strict)


def test_bodies_that_are_no_forms_get_an_envelope(running: Running) -> None:
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    bodies: list[tuple[bytes, dict[str, str], int]] = [
        (b"{}", {"Content-Type": "application/json"}, 400),
        (b"", boundary, 400),
        (b"nonsense", boundary, 400),
        (part, boundary, 400),
        (part + gradient() + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data"}, 400),
        (part + bytes(10 << 20) + b"\r\n--x--\r\n", boundary, 413),
        (b"--x\r\nA: b\r\n\r\n1\r\n--x--\r\n", boundary, 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nhttp://example.org/a.png\r\n--x--\r\n',
            boundary,
            400,
        ),
    ]
    for body, headers, expected in bodies:
        for route in ("/v1/images/variations", "/images/edits"):
            status, _, answer = running.ask("POST", route, body, headers)
            assert status == expected and set(answer["error"]) == {"message", "type", "param", "code"}, body[
                :50
            ]


@pytest.mark.parametrize(
    "rest", [b"", b"abc", b"abc\r\n--x--\r\n", b"\r\n--x\r\nA: b\r\n\r\n1", bytes(10 << 20)]
)
def test_no_uploaded_file_stays_open(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def make(*arguments: Any, **how: Any) -> Any:
        made.append(SpooledTemporaryFile(*arguments, **how))  # noqa: SIM115
        return made[-1]

    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    parts = iter([(head, True), (rest, False)])

    async def body() -> dict[str, Any]:
        part, more = next(parts)
        return {"type": "http.request", "body": part, "more_body": more}

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", make)
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
    }
    with suppress(ApiError):
        asyncio.run(read_form(Request(scope, body)))
    assert made and all(file.closed for file in made)


def test_whatever_is_sent_is_answered_with_a_well_formed_4xx(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "tools/benchmarks")
    fuzz, server = importlib.import_module("fuzz_serve"), importlib.import_module("server_process")
    for case in fuzz.cases(200, seed=1):
        sent = case.sent.replace(server.KEY.encode(), KEY.encode())
        said = fuzz.verdict(case, server.send(running.port, sent, half_close=case.broken))
        assert not said.startswith("BAD"), (said, case.sent[:300])
    assert running.ask("GET", "/health")[0] == 200
