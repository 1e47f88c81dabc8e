"""What later clients send and expect: their models' fields, file formats, and the image tool of /responses."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
openai = pytest.importorskip("openai")
from serving import KEY, PROMPT, Running, parse_generation, picture  # noqa: E402

from unclip.pipeline import Pipeline  # noqa: E402
from unclip.provenance.header import read_header  # noqa: E402
from unclip.provenance.metadata import settings_text  # noqa: E402
from unclip.provenance.watermark import detect  # noqa: E402
from unclip.serve.app import Policy  # noqa: E402
from unclip.serve.envelope import ApiError  # noqa: E402
from unclip.serve.responses import read_body, response_request  # noqa: E402
from unclip.serve.store import Store  # noqa: E402
from unclip.serve.worker import Worker  # noqa: E402

TOOL: dict[str, Any] = {"type": "image_generation", "size": "256x256", "seed": 5, "steps": 4}


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    server = Running(Worker(pipe), Store(tmp_path_factory.mktemp("images")), Policy(keys=(KEY,)))
    yield server
    server.stop()


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(picture(base64.b64decode(encoded)).convert("RGB")).astype(int)


# --- fields of later models ---


@pytest.mark.parametrize(
    ("model", "longest"),
    [
        (None, 1000),
        ("dall-e-2", 1000),
        ("tiny", 1000),
        ("dall-e-3", 4000),
        ("gpt-image-1", 32_000),
        ("gpt-image-2-2026-04-21", 32_000),
        ("chatgpt-image-latest", 32_000),
    ],
)
def test_the_longest_prompt_is_that_of_the_model_asked_for(model: str | None, longest: int) -> None:
    for extra, refused in ((0, False), (1, True)):
        body = {"model": model, "prompt": "🐶" * (longest + extra)}
        if refused:
            with pytest.raises(ApiError, match="is too long - 'prompt'"):
                parse_generation(body, strict=False)
        else:
            assert len(parse_generation(body, strict=False).prompt) == longest
    with pytest.raises(ApiError, match="is too long - 'prompt'"):
        parse_generation({"prompt": "x" * 1001}, strict=True)


def test_the_response_format_is_that_of_the_model_asked_for() -> None:
    for model in ("gpt-image-1", "chatgpt-image-latest"):
        for asked in (None, "url", "b64_json"):
            body = {"prompt": "a", "model": model, "response_format": asked}
            assert parse_generation(body, strict=False).response_format == "b64_json"
    for model in ("dall-e-2", "dall-e-3", None):
        assert parse_generation({"prompt": "a", "model": model}, strict=False).response_format == "url"
    with pytest.raises(ApiError, match="'gpt-image-1' is not one of"):
        parse_generation({"prompt": "a", "model": "gpt-image-1"}, strict=True)


@pytest.mark.parametrize(
    "field",
    [
        {"output_format": "png"},
        {"output_compression": 50},
        {"negative_prompt": "blurry"},
        {"background": "transparent"},
        {"image_embeds": [0.0]},
    ],
)
def test_strict_refuses_what_dall_e_2_did_not_know(field: dict[str, Any]) -> None:
    parse_generation({"prompt": "a", **field}, strict=False)
    with pytest.raises(ApiError, match=f"{next(iter(field))!r} was unexpected"):
        parse_generation({"prompt": "a", **field}, strict=True)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"output_format": "gif"}, r"'gif' is not one of \['png', 'jpeg', 'webp'\]"),
        ({"output_compression": 101}, "101 is greater than the maximum of 100 - 'output_compression'"),
        ({"output_compression": -1}, "-1 is less than the minimum of 0 - 'output_compression'"),
        ({"negative_prompt": "x" * 1001}, "is too long - 'negative_prompt'"),
        ({"negative_prompt": 5}, "is not of type 'string' - 'negative_prompt'"),
    ],
)
def test_later_fields_are_checked(field: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiError, match=says):
        parse_generation({"prompt": "a", **field}, strict=False)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_asked_for_with_their_marks(running: Running, form: str) -> None:
    made = running.client().images.generate(
        prompt=PROMPT, size="256x256", output_format=form, extra_body={"seed": 5}
    )
    path = made.data[0].url.partition(str(running.port))[2]
    status, headers, data = running.ask("GET", path, headers={"Authorization": ""})
    assert (status, headers["content-type"]) == (200, f"image/{form}") and f".{form}?" in path
    found = picture(data)
    assert found.format == form.upper() and found.size == (256, 256) and detect(found).found
    assert "xmp: trainedAlgorithmicMedia" in read_header(io.BytesIO(data)).generated
    assert json.loads(settings_text(found) or "")["seed"] == 5


def test_compression_makes_files_smaller_and_is_nothing_to_a_png(running: Running) -> None:
    def file(**how: Any) -> tuple[int, Any]:
        made = running.client().images.generate(
            prompt=PROMPT, model="gpt-image-1", size="256x256", extra_body={"seed": 5}, **how
        )
        return len(made.data[0].b64_json), made

    least, (most, answer) = file(output_format="jpeg", output_compression=0)[0], file(output_format="jpeg")
    assert least < most / 2
    assert (answer.output_format, answer.background, answer.size) == ("jpeg", "opaque", "256x256")
    assert file(output_compression=10)[1].x_unclip["ignored"] == ["output_compression"]


def test_fields_without_effect_are_named(running: Running) -> None:
    made = running.client().images.generate(
        prompt=PROMPT, size="256x256", background="transparent", quality="hd", user="me"
    )
    assert made.x_unclip["ignored"] == ["background", "quality"]
    made = running.client().images.generate(prompt=PROMPT, size="256x256")
    assert "ignored" not in made.x_unclip
    odd = b'{"prompt": "a cat", "size": "256x256", "\\ud800": 1, "%s": 1}' % (b"x" * 60)
    status, _, answer = running.ask("POST", "/v1/images/generations", odd)
    assert status == 200 and answer["x_unclip"]["ignored"] == ["x" * 50, "\\ud800"]


def test_a_negative_prompt_changes_the_picture(running: Running) -> None:
    def draw(**how: Any) -> np.ndarray:
        made = running.client().images.generate(
            prompt=PROMPT, size="256x256", response_format="b64_json", extra_body={"seed": 5, **how}
        )
        return pixels(made.data[0].b64_json)

    plain = draw()
    assert (draw(negative_prompt=" ") == plain).all()
    assert np.abs(draw(negative_prompt="a red hat") - plain).max() > 1


# --- the image tool of /responses ---


def test_the_image_tool_draws_what_generations_draws(running: Running) -> None:
    client = running.client()
    made = client.responses.create(model="gpt-5", input=PROMPT, tools=[TOOL])
    [call] = made.output
    assert (made.status, call.type, call.status, call.seed) == (
        "completed",
        "image_generation_call",
        "completed",
        5,
    )
    assert made.output_text == "" and made.model == "gpt-5" and made.error is None
    images = client.images.generate(
        prompt=PROMPT, size="256x256", response_format="b64_json", extra_body={"seed": 5, "steps": 4}
    )
    assert np.abs(pixels(call.result) - pixels(images.data[0].b64_json)).max() <= 1
    assert detect(picture(base64.b64decode(call.result))).found


def test_a_picture_in_the_message_is_edited(running: Running) -> None:
    def url(image: Image.Image) -> str:
        file = io.BytesIO()
        image.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

    grey, mask = Image.new("RGB", (256, 256), (90, 120, 150)), Image.new("RGBA", (256, 256), "black")
    mask.paste((0, 0, 0, 0), (0, 128, 256, 256))
    text, image = {"type": "input_text", "text": PROMPT}, {"type": "input_image", "image_url": url(grey)}
    said = [{"role": "user", "content": "hello"}, {"role": "user", "content": [text, image]}]
    tool = {**TOOL, "input_image_mask": {"image_url": url(mask)}}
    client = running.client()
    made = client.responses.create(model="gpt-5", input=said, tools=[tool])
    assert made.output[0].action == "edit" and "input_image_mask" not in made.tools[0].model_dump(
        exclude_unset=True
    )
    kept = np.abs(pixels(made.output[0].result) - np.array([90, 120, 150]))
    assert kept[:128].max() <= 24 < kept[128:].max()
    # The next turn edits the picture drawn last, as OpenAI's own does.
    turn = [*said, made.output[0].model_dump(exclude_none=True), {"role": "user", "content": "a cat"}]
    assert client.responses.create(model="gpt-5", input=turn, tools=[TOOL]).output[0].action == "edit"
    anew = {**TOOL, "action": "generate"}
    assert client.responses.create(model="gpt-5", input=turn, tools=[anew]).output[0].action == "generate"


def test_a_stream_has_the_events_that_clients_wait_for(running: Running) -> None:
    with running.client().responses.stream(
        model="gpt-5", input=PROMPT, tools=[{**TOOL, "partial_images": 2}]
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    call = "response.image_generation_call"
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        f"{call}.in_progress",
        f"{call}.generating",
        f"{call}.partial_image",
        f"{call}.partial_image",
        f"{call}.completed",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    partial = events[6]
    assert partial.partial_image_index == 1 and pixels(partial.partial_image_b64).shape == (256, 256, 3)
    assert partial.item_id == final.output[0].id and pixels(final.output[0].result).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], "must be a JSON object"),
        ({"tools": [TOOL]}, "'input' is a required property"),
        ({"input": "a"}, "'tools' is a required property"),
        ({"input": 5, "tools": [TOOL]}, "'input'"),
        ({"input": "a", "tools": [5]}, "'tools'"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "needs a tool of type 'image_generation'"),
        ({"input": "a", "tools": [TOOL], "previous_response_id": "resp_1"}, "keeps no responses"),
        ({"input": "", "tools": [TOOL]}, "'prompt'"),
        ({"input": [], "tools": [TOOL]}, "no message of the user"),
        (
            {"input": [{"role": "user", "content": [5, {"type": "input_text", "text": 5}]}], "tools": [TOOL]},
            "'",
        ),
        ({"input": "a", "tools": [{**TOOL, "size": 5}]}, "'size'"),
        ({"input": "a", "tools": [{**TOOL, "action": "edit"}]}, "no image to edit"),
        ({"input": "a", "tools": [{**TOOL, "action": "edit", "model": [1]}]}, "no image to edit"),
        (
            {"input": "a", "tools": [{**TOOL, "x": "\ud800"}]},
            "holds what cannot be written as JSON - 'tools'",
        ),
        ({"input": "a", "tools": [TOOL], "metadata": {"x": float("nan")}}, "as JSON - 'metadata'"),
    ],
)
def test_responses_that_cannot_be_are_refused(body: Any, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        response_request(read_body(body), {})
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "image",
    [
        {"image_url": "http://127.0.0.1:9/x.png"},
        {"image_url": "file:///etc/passwd"},
        {"image_url": "data:image/png;base64,é"},
        {"image_url": "data:image/png;base64,AAAA"},
        {"image_url": ["data:"]},
        {"file_id": "file-1"},
    ],
)
def test_no_image_of_a_message_is_fetched(image: dict[str, Any]) -> None:
    content = [{"type": "input_text", "text": "a"}, {"type": "input_image", **image}]
    with pytest.raises(ApiError, match="data URL|base64|Uploaded image must be"):
        response_request(read_body({"input": [{"role": "user", "content": content}], "tools": [TOOL]}), {})


def test_a_served_models_name_chooses_it() -> None:
    served = {"mini": 1, "mine": 2}
    for named, expected in (
        ({"model": "mine", "tools": [TOOL]}, "mine"),
        ({"model": "mini", "tools": [{**TOOL, "model": "mine"}]}, "mine"),
        ({"model": "gpt-5", "tools": [{**TOOL, "model": "gpt-image-1"}]}, ""),
    ):
        assert response_request(read_body({"input": "a", **named}), served).model == expected


def test_a_strict_server_has_dall_e_2s_routes_only(tiny_model: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu")
    server = Running(Worker(pipe), Store(tmp_path), Policy(strict=True))
    try:
        for path in ("/v1/responses", "/v1/images/embeddings"):
            assert server.ask("POST", path, {"input": "a"})[0] == 404
    finally:
        server.stop()
