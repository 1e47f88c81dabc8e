"""The OpenAPI document agrees with what the image routes accept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
from serving import parse_generation

from unclip.pipeline.sizes import SizeGrid
from unclip.serve.app import Policy, create_app
from unclip.serve.envelope import ApiError
from unclip.serve.requests import OPTIONS
from unclip.serve.store import Store
from unclip.serve.worker import Worker


class Painter:
    """A model that paints at once."""

    name, sizes, vocabulary = "painter", (256,), None
    grid = SizeGrid("painter", {256: 32}, (256,))
    clip = SimpleNamespace(
        identity="a clip",
        width=2,
        preprocess=SimpleNamespace(view=lambda picture: picture.resize((8, 8))),
        encode_image=lambda x: torch.zeros(len(x), 2),
    )

    def generate(self, prompts: list[str], *, seeds: list[int], **how: Any) -> SimpleNamespace:
        return SimpleNamespace(images=[Image.new("RGB", (256, 256)) for _ in seeds], seeds=seeds, seconds={})

    def decode(self, image_embeds: torch.Tensor, prompt: str, *, seed: list[int], **how: Any) -> Any:
        return self.generate([prompt], seeds=seed)

    def sample_prior(self, prompts: list[str], *, seeds: list[int], **how: Any) -> torch.Tensor:
        return torch.zeros(len(seeds), 2)


def test_it_names_the_fields_that_are_read(tmp_path: Path) -> None:
    document = create_app(Worker(Painter()), Store(tmp_path), Policy()).openapi()
    bodies = {
        path: [kind["schema"] for kind in route["post"]["requestBody"]["content"].values()]
        for path, route in document["paths"].items()
        if "post" in route
    }
    names = ("generations", "edits", "variations", "embeddings")
    assert set(bodies) == {"/v1/responses", *(f"/v1/images/{name}" for name in names)}
    known = {"prompt", "model", "n", "size", "response_format", "user"}
    ours = {*OPTIONS, "seed", "stream", "partial_images"}
    ours |= {"output_format", "output_compression", "negative_prompt"}
    fields = {path.rpartition("/")[2]: set(body[-1]["properties"]) for path, body in bodies.items()}
    assert fields["generations"] == known | ours | {"preset", "image_embeds"}
    assert fields["embeddings"] == known | ours | {"preset", "encoding_format", "image"}
    assert fields["responses"] >= {"model", "input", "tools", "stream"}
    assert fields["edits"] == known | ours | {"image", "mask", "strength"}
    assert fields["variations"] == known - {"prompt"} | ours | {"image"}
    bounds = bodies["/v1/images/generations"][0]["properties"]
    assert {name for name, schema in bounds.items() if "minimum" in schema} >= {
        "n",
        "steps",
        "guidance_scale",
    }
    for name, schema in bounds.items():  # the document's own extremes are taken, and what lies beyond is not
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in schema and name != "seed":
                body = {"prompt": "a", "stream": name == "partial_images", name: int(schema[bound])}
                parse_generation(body, strict=False)
                with pytest.raises(ApiError, match=f"'{name}'"):
                    parse_generation({**body, name: int(schema[bound]) + beyond}, strict=False)
