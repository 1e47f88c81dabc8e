"""Stable unCLIP through the server: an embedding of a picture, pictures of it, and variations."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
pytest.importorskip("openai")
pytest.importorskip("diffusers")
import stable_unclip_models as small
from serving import KEY, Running, picture

from unclip.models.convert import convert
from unclip.pipeline import Pipeline
from unclip.serve.app import Policy
from unclip.serve.store import Store
from unclip.serve.worker import Worker


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("stable")
    small.variations(root / "words").save_pretrained(root / "theirs")
    convert(root / "theirs", root / "ours")
    pipe = Pipeline.from_pretrained(str(root / "ours"), device="cpu")
    server = Running(Worker(pipe), Store(root / "images"), Policy(keys=(KEY,)))
    yield server
    server.stop()


def form(image: Image.Image, **fields: str) -> tuple[bytes, dict[str, str]]:
    file = io.BytesIO()
    image.save(file, "PNG")
    parts = [b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + file.getvalue()]
    for name, value in fields.items():
        parts.append(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
    body = b"\r\n".join(parts) + b"\r\n--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


def pixels(answer: object) -> np.ndarray:
    assert isinstance(answer, dict), answer
    shown = [picture(base64.b64decode(one["b64_json"])) for one in answer["data"]]
    return np.array([np.asarray(one).astype(int) for one in shown])


def test_embed_decode_and_vary(running: Running, tmp_path: Path) -> None:
    image = Image.radial_gradient("L").convert("RGB")
    body, headers = form(image, encoding_format="base64")
    status, _, answer = running.ask("POST", "/v1/images/embeddings", body, headers)
    assert status == 200 and answer["x_unclip"]["width"] == small.EMBED
    z_i = answer["data"][0]["embedding"]
    common = {"size": "256x256", "response_format": "b64_json", "seed": 3, "n": 2}
    decoded = running.ask("POST", "/v1/images/generations", {**common, "image_embeds": z_i})[2]
    body, headers = form(image, **{name: str(value) for name, value in common.items()})
    varied = running.ask("POST", "/v1/images/variations", body, headers)[2]
    assert np.abs(pixels(decoded) - pixels(varied)).max() <= 1
    described = running.ask(
        "POST", "/v1/images/generations", {**common, "image_embeds": z_i, "prompt": "a fox"}
    )[2]
    assert np.abs(pixels(decoded) - pixels(described)).max() > 1


def test_a_prompt_alone_is_refused(running: Running) -> None:
    status, _, answer = running.ask("POST", "/v1/images/generations", {"prompt": "a fox"})
    assert status == 400 and "prior" in answer["error"]["message"]
