"""A real server on loopback, for the tests that speak to one."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import openai
import uvicorn
from fastapi import FastAPI
from PIL import Image

from unclip.serve.app import Policy, create_app
from unclip.serve.requests import (
    EditRequest,
    GenerationRequest,
    VariationRequest,
    edit_request,
    generation_request,
    variation_request,
)
from unclip.serve.schema import EditBody, GenerationBody, Rules, VariationBody, validate
from unclip.serve.store import Store
from unclip.serve.worker import Worker

KEY = "sk-test"
PROMPT = "a shiba inu wearing a red beret"


class Running:
    """A server in a thread, with what `more` puts onto it."""

    def __init__(
        self,
        worker: Worker,
        store: Store,
        policy: Policy,
        more: Callable[[FastAPI], None] = lambda app: None,
        **config: Any,
    ) -> None:
        self.worker = worker
        self.app = app = create_app(worker, store, policy)
        more(app)
        self.server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="warning", access_log=False, **config)
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def client(self, key: str = KEY, retries: int = 0) -> Any:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(api_key=key, base_url=url, max_retries=retries, timeout=60)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Status, headers, and the body, as JSON where it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, path, data, {"Authorization": f"Bearer {KEY}", **kind, **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.status, answer.headers, json.loads(content) if is_json and content else content


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def parse_generation(body: object, *, strict: bool) -> GenerationRequest:
    return generation_request(validate(GenerationBody, body, Rules(strict=strict)))


def parse_edit(form: tuple[dict[str, str], dict[str, bytes]], *, strict: bool) -> EditRequest:
    rules = Rules(strict=strict, form=True)
    return edit_request(validate(EditBody, {**form[0], **form[1]}, rules), strict=strict)


def parse_variation(form: tuple[dict[str, str], dict[str, bytes]], *, strict: bool) -> VariationRequest:
    rules = Rules(strict=strict, form=True)
    return variation_request(validate(VariationBody, {**form[0], **form[1]}, rules), strict=strict)
