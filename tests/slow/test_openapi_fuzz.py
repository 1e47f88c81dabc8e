"""schemathesis on the image routes: requests that the OpenAPI document allows, and others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs unclip[serve]")
from serving import Running
from test_serve_openapi import Painter

from unclip.serve.app import Policy
from unclip.serve.pictures import Marks
from unclip.serve.store import Store
from unclip.serve.worker import Worker

EXAMPLES = 100  # of each route


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
