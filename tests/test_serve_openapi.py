"""The OpenAPI document agrees with what the image routes accept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs unclip[serve]")
from serving import Running, parse_generation

from unclip.serve.app import Policy, create_app
from unclip.serve.envelope import ApiError
from unclip.serve.pictures import Marks
from unclip.serve.requests import OPTIONS
from unclip.serve.store import Store
from unclip.serve.worker import Worker

EXAMPLES = 100  # of each route


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


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_the_document_does_not_know(tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs unclip[browser]")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
    ]
    asked: dict[str, Counter[int]] = {}
    server = Running(Worker(Painter()), Store(tmp_path), Policy(marks=Marks(watermark=False, metadata=False)))
    try:
        document = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        for found in document.include(method="POST").get_all_operations():
            for mode in schemathesis.GenerationMode:  # what the document allows, and what it does not

                def ask(case: Any) -> None:
                    answer = case.call()
                    asked.setdefault(case.operation.label, Counter())[answer.status_code] += 1
                    case.validate_response(answer, checks=checks)

                many = settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                )
                many(given(case=found.ok().as_strategy(generation_mode=mode))(ask))()
    finally:
        server.stop()
    for name, codes in asked.items():
        print(f"{name:<30}{codes.total():>6,} requests: {dict(sorted(codes.items()))}")
    assert {200, 400} <= set(asked["POST /v1/images/generations"])
