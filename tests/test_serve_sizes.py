"""Sizes that are not square in the HTTP API and on the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
openai = pytest.importorskip("openai")
from serving import KEY, PROMPT, Running, parse_generation, picture  # noqa: E402

from unclip.errors import RequestError  # noqa: E402
from unclip.pipeline import Pipeline  # noqa: E402
from unclip.pipeline.sizes import SizeGrid  # noqa: E402
from unclip.serve.app import Policy  # noqa: E402
from unclip.serve.envelope import ApiError  # noqa: E402
from unclip.serve.limits import cost  # noqa: E402
from unclip.serve.page_controller import PageController, PictureSettings  # noqa: E402
from unclip.serve.page_sizes import SizeMenu  # noqa: E402
from unclip.serve.store import Store  # noqa: E402
from unclip.serve.worker import Worker  # noqa: E402

MINI = SizeGrid("mini", {64: 8, 256: 8, 1024: 32}, (64, 256, 1024))
SMALL = SizeGrid("small", {64: 8}, (64,))
FAST: dict[str, Any] = {"seed": 5, "steps": 2, "prior_steps": 2}


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    server = Running(Worker(pipe), Store(tmp_path_factory.mktemp("images")), Policy(keys=(KEY,)))
    yield server
    server.stop()


def decoded(item: Any) -> Image.Image:
    return picture(base64.b64decode(item.b64_json))


def wide(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(file, "PNG")
    return file.getvalue()


def mask(size: tuple[int, int]) -> bytes:
    """Painted in the right half."""
    found, file = Image.new("L", size, 255), io.BytesIO()
    found.paste(0, (size[0] // 2, 0, *size))
    Image.merge("LA", (found, found)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("size", ["384x256", "1536x1024", "1024x1792"])
def test_other_shapes_are_as_asked_for(running: Running, size: str) -> None:
    made = running.client().images.generate(
        prompt=PROMPT, model="gpt-image-1", size=size, extra_body={**FAST, "output_format": "jpeg"}
    )
    assert "x".join(map(str, decoded(made.data[0]).size)) == size == made.size


def test_auto_is_a_square(running: Running) -> None:
    assert parse_generation({"prompt": "a", "size": "auto"}, strict=False).size == 1024


def test_edits_keep_what_the_mask_keeps_in_other_shapes(running: Running) -> None:
    source = wide((384, 256))
    made = running.client().images.edit(
        image=source,
        mask=mask((384, 256)),
        prompt=PROMPT,
        size="384x256",
        response_format="b64_json",
        extra_body=FAST,
    )
    found, kept = np.asarray(decoded(made.data[0])), np.asarray(picture(source))
    assert found.shape == (256, 384, 3) and np.array_equal(found[:, :192], kept[:, :192])
    assert not np.array_equal(found[:, 192:], kept[:, 192:])


def test_edits_take_the_middle_of_the_shape(running: Running) -> None:
    made = running.client().images.edit(
        image=wide((500, 300)),
        mask=mask((500, 300)),
        prompt=PROMPT,
        size="288x192",
        response_format="b64_json",
        extra_body=FAST,
    )
    assert decoded(made.data[0]).size == (288, 192)


def test_variations_and_streams_have_the_shape(running: Running) -> None:
    client = running.client()
    with pytest.warns(DeprecationWarning):
        made = client.images.create_variation(
            image=wide((500, 300)), size="256x384", response_format="b64_json", extra_body=FAST
        )
    assert decoded(made.data[0]).size == (256, 384)
    events = client.images.generate(
        prompt=PROMPT, size="384x256", stream=True, partial_images=1, extra_body=FAST
    )
    assert [decoded(event).size for event in events] == [(384, 256)] * 2


def test_the_image_tool_takes_the_shape(running: Running) -> None:
    tool = {"type": "image_generation", "size": "384x256", **FAST}
    (call,) = running.client().responses.create(model="m", input=PROMPT, tools=[tool]).output
    assert picture(base64.b64decode(call.result)).size == (384, 256) and call.size == "384x256"


@pytest.mark.parametrize("stream", [False, True])
def test_a_shape_that_the_model_does_not_make_is_refused(running: Running, stream: bool) -> None:
    body = {"prompt": PROMPT, "size": "1600x200", "stream": stream}
    status, _, answer = running.ask("POST", "/v1/images/generations", body)
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (400, "size", "invalid_size")
    assert "size 1600x200: tiny makes no such shape; the nearest is" in error["message"]


@pytest.mark.parametrize(
    "size", ["0x0", "0x64", "4096x3072", "99999x99999999", "wide", "1024", 5, "1024x1024x3"]
)
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(ApiError, match=r"is not one of .*'1536x1024'.* - 'size'"):
        parse_generation({"prompt": "a", "size": size}, strict=False)


def test_strict_servers_know_squares_only() -> None:
    with pytest.raises(ApiError, match=r"is not one of \['256x256', '512x512', '1024x1024'\] - 'size'"):
        parse_generation({"prompt": "a", "size": "1536x1024"}, strict=True)


@pytest.mark.parametrize(
    ("grid", "asked", "drawn"),
    [
        (MINI, "256x256", "256"),
        (MINI, "512x512", "1024"),
        (MINI, "1792x1024", "1792x1024"),
        (MINI, "1024x1536", "1024x1536"),
        (MINI, "600x400", "1152x768"),
        (MINI, "800x600", "1024x768"),
        (SMALL, "1024x1024", "64"),  # and enlarged, as it ever was
        (SMALL, "1536x1024", "96x64"),
    ],
)
def test_the_model_draws_the_smallest_size_of_the_shape(grid: SizeGrid, asked: str, drawn: str) -> None:
    assert str(parse_generation({"prompt": "a", "size": asked}, strict=False).drawn(grid)) == drawn


def test_the_cost_grows_with_the_area() -> None:
    square, half = (
        cost(parse_generation({"prompt": "a", "size": size}, strict=False))
        for size in ("1024x1024", "2048x128")
    )
    assert half == pytest.approx(square / 2)


# --- the page ---


def test_the_page_offers_squares_and_shapes() -> None:
    menu = SizeMenu(MINI)
    assert menu.sides == (64, 256, 1024)
    assert [*menu.shapes] == ["1:1", "3:2", "4:3", "16:9", "2:3", "3:4", "9:16"]
    assert menu.chosen(256, "1:1").plain == 256
    assert str(menu.chosen(1024, "4:3")) == "1024x768" and str(menu.chosen(1024, "3:4")) == "768x1024"
    for side, shape in ((100, "1:1"), (256, "5:4"), ("256", "1:1"), (256, None)):
        with pytest.raises(RequestError, match="is not one of"):
            menu.chosen(side, shape)  # type: ignore[arg-type]


def test_the_page_offers_larger_sizes_of_a_flexible_decoder() -> None:
    menu = SizeMenu(SizeGrid("wide", {512: 64}, (512,), flexible=True))
    assert menu.sides == (512, 768, 1024)
    assert str(menu.chosen(768, "3:2")) == "960x640" and str(menu.chosen(1024, "1:1")) == "1024"


def test_the_pages_requests_have_the_shape(running: Running, tmp_path: Path) -> None:
    controller = PageController(running.app.state.service, tmp_path / "pictures", tmp_path)
    settings = PictureSettings(1, 256, {}, None, "16:9")
    assert controller.generation("a cat", settings).size == "368x208"
    varied = controller.variation(wide((500, 300)), settings)
    assert varied.size == "368x208" and varied.image.size == (368, 208)
    drawn = {"background": wide((500, 300)), "layers": [wide((500, 300))]}
    edited = controller.edit(drawn, "a cat", settings)
    assert edited.image.size == (368, 208) and edited.mask is not None and edited.mask.size == (368, 208)
    assert controller.enlargement(wide((368, 208)), settings).size == "1472x832"  # a picture of the model
    assert controller.enlargement(wide((500, 300)), settings).size == 1024
    with pytest.raises(RequestError, match="already has 1024 pixels"):
        controller.enlargement(wide((1472, 832)), settings)
    assert controller.outpainting(wide((300, 200)), "a cat", 2, 1, settings).size == "600x200"
