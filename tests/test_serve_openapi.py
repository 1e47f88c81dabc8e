"""The OpenAPI document agrees with what the image routes accept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
from serving import parse_generation

from unclip.serve.app import Policy, create_app
from unclip.serve.envelope import ApiError
from unclip.serve.requests import OPTIONS
from unclip.serve.store import Store
from unclip.serve.worker import Worker


class Painter:
    """A model that paints at once."""

    sizes = (256,)

    def generate(self, prompts: list[str], *, seeds: list[int], **how: Any) -> SimpleNamespace:
        return SimpleNamespace(images=[Image.new("RGB", (256, 256)) for _ in seeds], seeds=seeds, seconds={})


def test_it_names_the_fields_that_are_read(tmp_path: Path) -> None:
    document = create_app(Worker(Painter()), Store(tmp_path), Policy()).openapi()
    bodies = {
        path: next(iter(route["post"]["requestBody"]["content"].values()))["schema"]
        for path, route in document["paths"].items()
        if "post" in route
    }
    assert set(bodies) == {f"/v1/images/{name}" for name in ("generations", "edits", "variations")}
    known = {"prompt", "model", "n", "size", "response_format", "user"}
    ours = {*OPTIONS, "seed", "stream", "partial_images"}
    fields = {path.rpartition("/")[2]: set(body["properties"]) for path, body in bodies.items()}
    assert fields["generations"] == known | ours | {"preset"}
    assert fields["edits"] == known | ours | {"image", "mask", "strength"}
    assert fields["variations"] == known - {"prompt"} | ours | {"image"}
    bounds = bodies["/v1/images/generations"]["properties"]
    for name, schema in bounds.items():  # the document's own extremes are taken, and what lies beyond is not
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in schema and name != "seed":
                body = {"prompt": "a", "stream": name == "partial_images", name: int(schema[bound])}
                parse_generation(body, strict=False)
                with pytest.raises(ApiError, match=f"'{name}'"):
                    parse_generation({**body, name: int(schema[bound]) + beyond}, strict=False)
