"""Image embeddings through the server: of prompts and pictures, and pictures of given embeddings."""

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
pytest.importorskip("openai")
from serving import KEY, PROMPT, Running, parse_generation, picture

from unclip.pipeline import Pipeline
from unclip.serve.app import Policy
from unclip.serve.envelope import ApiError
from unclip.serve.requests import DecodeRequest
from unclip.serve.store import Store
from unclip.serve.worker import Worker

WIDTH = 32  # of the tiny model's embeddings


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


@pytest.fixture(scope="module")
def running(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = Running(Worker(pipe), Store(tmp_path_factory.mktemp("images")), Policy(keys=(KEY,)))
    yield server
    server.stop()


def embed(running: Running, **body: Any) -> Any:
    status, _, answer = running.ask("POST", "/v1/images/embeddings", {"prompt": PROMPT, **body})
    assert status == 200, answer
    return answer


def form(**fields: str | bytes) -> tuple[bytes, dict[str, str]]:
    parts = []
    for name, value in fields.items():
        file = '; filename="x"' if isinstance(value, bytes) else ""
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn(running: Running, **body: Any) -> list[np.ndarray]:
    whole = {"size": "256x256", "response_format": "b64_json", **body}
    status, _, answer = running.ask("POST", "/v1/images/generations", whole)
    assert status == 200, answer
    return [np.asarray(picture(base64.b64decode(one["b64_json"]))).astype(int) for one in answer["data"]]


def test_a_prompts_embeddings_are_the_priors(running: Running, pipe: Pipeline) -> None:
    answer = embed(running, n=2, seed=7)
    expected = pipe.sample_prior(PROMPT, num_images=2, seed=7).numpy()
    assert np.array([one["embedding"] for one in answer["data"]]).astype(np.float32) == pytest.approx(
        expected, abs=1e-5
    )
    assert [(one["index"], one["seed"], one["object"]) for one in answer["data"]] == [
        (0, 7, "embedding"),
        (1, 8, "embedding"),
    ]
    about = answer["x_unclip"]
    assert (about["width"], about["clip"], about["model"]) == (WIDTH, pipe.clip.identity, pipe.name)
    packed = embed(running, n=2, seed=7, encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    assert (np.array(rows) == np.array([one["embedding"] for one in answer["data"]], np.float32)).all()


def test_what_is_embedded_and_decoded_is_what_is_generated(running: Running) -> None:
    for encoding in ("float", "base64"):
        z_i = [one["embedding"] for one in embed(running, n=2, seed=7, encoding_format=encoding)["data"]]
        apart = np.abs(
            np.array(drawn(running, image_embeds=z_i, prompt=PROMPT, seed=7))
            - np.array(drawn(running, prompt=PROMPT, n=2, seed=7))
        )
        assert apart.max() <= 1
        [one] = drawn(running, image_embeds=z_i[0], prompt=PROMPT, seed=7)
        assert np.abs(one - drawn(running, prompt=PROMPT, seed=7)[0]).max() <= 1


def test_a_pictures_embedding_gives_its_variations(running: Running) -> None:
    data = png(Image.radial_gradient("L").convert("RGB"))
    body, headers = form(image=data, encoding_format="base64")
    status, _, answer = running.ask("POST", "/v1/images/embeddings", body, headers)
    assert status == 200 and answer["data"][0]["seed"] is None
    again = drawn(running, image_embeds=answer["data"][0]["embedding"], n=2, seed=3)
    body, headers = form(image=data, n="2", seed="3", size="256x256", response_format="b64_json")
    varied = running.ask("POST", "/v1/images/variations", body, headers)[2]["data"]
    expected = [np.asarray(picture(base64.b64decode(one["b64_json"]))).astype(int) for one in varied]
    assert np.abs(np.array(again) - np.array(expected)).max() <= 1
    for fields in ({"image": data, "prompt": "a"}, {"image": data, "n": "2"}, {"image": b"GIF89a"}, {}):
        body, headers = form(**fields)
        status, _, answer = running.ask("POST", "/v1/images/embeddings", body, headers)
        assert status == 400 and set(answer["error"]) == {"message", "type", "param", "code"}


def test_several_embeddings_give_n_pictures_each() -> None:
    wanted = parse_generation({"image_embeds": [[0.0, 1.0], [2.0, 3.0]], "n": 2}, strict=False)
    assert isinstance(wanted, DecodeRequest) and wanted.n == 4
    assert wanted.embeds.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("embeds", "says"),
    [
        (b"[1, NaN]", "holds nan at place 1"),
        (b"[1, Infinity]", "holds inf at place 1"),
        (b"[1, 1e39]", r"holds 1e\+39 at place 1"),
        (b"[1, 1" + b"0" * 400 + b"]", "holds a huge integer at place 1"),
        (b'[1, "x"]', "'x' at place 1, which is no number"),
        (b"[1, true]", "'True' at place 1, which is no number"),
        (b"[[1, 2], [1]]", "differ in width"),
        (b"[[1, 2], null]", "neither a list of numbers nor their base64"),
        (b"[]", "an embedding has 0 numbers"),
        (b"[[]]", "an embedding has 0 numbers"),
        (b'""', "an embedding has 0 numbers"),
        (b'"AAAA"', "not the base64 of little-endian float32"),
        (b'"!"', "not the base64 of little-endian float32"),
        (b'"AADAfw=="', "holds nan at place 0"),
        (b"{}", "neither a list of numbers nor their base64"),
        (b"[1, 2]", f"an embedding has 2 numbers; those of model have {WIDTH}"),
        (b"[" + b"[1]," * 10 + b"[1]]", "are more than 10 - 'n'"),
    ],
)
def test_embeddings_that_cannot_be_decoded_are_named(running: Running, embeds: bytes, says: str) -> None:
    status, _, answer = running.ask("POST", "/v1/images/generations", b'{"image_embeds": %s}' % embeds)
    name = running.worker.default.name
    assert status == 400 and answer["error"]["param"] in ("image_embeds", "n")
    with pytest.raises(ApiError, match=says.replace("of model", f"of {name}")):
        raise ApiError(answer["error"]["message"])
