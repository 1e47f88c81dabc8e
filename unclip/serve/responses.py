"""OpenAI's Responses API, as far as its `image_generation` tool: a message in, an image out."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unclip.serve.envelope import ApiError, refusal
from unclip.serve.progress import Progress
from unclip.serve.queueing import DrawnImages
from unclip.serve.requests import EditRequest, GenerationRequest, edit_request, generation_request
from unclip.serve.schema import EditBody, GenerationBody, Rules, Truth, validate
from unclip.serve.service import ImageService, Preview, look, sse

TOOL: Final = "image_generation"
CALL: Final = "image_generation_call"
LARGEST_BODY: Final = 12 << 20  # bytes: two images in base64
NO_TOKENS: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


class ResponsesBody(BaseModel):
    """Body of `POST /responses`. Other fields of OpenAI's are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    model: str | None = Field(None, description="A name of /models, here or in the tool, or any other.")
    input: str | list[dict[str, Any]] = Field(
        description="Text, or messages. The last user message is the prompt; with an image in it, as a data "
        "URL, that image is edited."
    )
    tools: list[dict[str, Any]] = Field(
        description="One of type image_generation, with size, output_format, output_compression, "
        "partial_images, input_image_mask and the further fields of /images/generations.",
        json_schema_extra={
            "minItems": 1,
            "items": {"type": "object", "properties": {"type": {"enum": [TOOL]}}, "required": ["type"]},
        },
    )
    tool_choice: Any = Field(None, description="Ignored: an image is always drawn.")
    instructions: Any = Field(None, description="Ignored.")
    metadata: dict[str, Any] | None = Field(None, description="Returned as it is.")
    stream: Truth = Field(False, description="Answer with server-sent events.")


def read_body(data: object) -> ResponsesBody:
    """Validates a body; fields that are null count as absent.

    Raises:
        ApiError: it cannot be used.
    """
    if not isinstance(data, Mapping):
        raise ApiError("The body must be a JSON object.")
    if data.get("previous_response_id") is not None:
        message = (
            "This server keeps no responses: send the image again, as input_image or image_generation_call"
        )
        raise ApiError(f"{message} - 'previous_response_id'", param="previous_response_id")
    for name in ("tools", "tool_choice", "metadata", "instructions"):  # which the answer repeats
        try:
            json.dumps(data.get(name), allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise ApiError(f"holds what cannot be written as JSON - '{name}'", param=name) from None
    try:
        return ResponsesBody.model_validate({key: one for key, one in data.items() if one is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        says = f"'{name}' is a required property" if first["type"] == "missing" else first["msg"]
        raise ApiError(f"{says} - '{name}'", param=name) from None


def response_request(body: ResponsesBody, served: Mapping[str, Any]) -> GenerationRequest:
    """Returns the request of a body, with its images decoded.

    Args:
        served: the server's models by name; the tool or the body may name one.

    Raises:
        ApiError: no such tool, no text, or an image that cannot be used.
    """
    tool = next((tool for tool in body.tools if tool.get("type") == TOOL), None)
    if tool is None:
        message = f"This server only draws: it needs a tool of type '{TOOL}' - 'tools'"
        raise ApiError(message, param="tools")
    fields = {key: one for key, one in tool.items() if key not in ("type", "action", "input_image_mask")}
    names = [name for name in (tool.get("model"), body.model) if isinstance(name, str)]
    model = next((name for name in names if name in served), "")
    text, image = _last_message(body.input)
    # The name decides about the longest prompt and the format of the answer.
    fields |= {"prompt": text, "model": "gpt-image-1", "n": 1, "stream": body.stream}
    if image is None or tool.get("action") == "generate":
        if tool.get("action") == "edit":
            raise ApiError("there is no image to edit - 'input'", param="input")
        wanted = generation_request(validate(GenerationBody, fields, Rules()))
    else:
        mask = tool.get("input_image_mask")
        fields |= {"image": image, "mask": None if mask is None else _image(mask)}
        wanted = edit_request(validate(EditBody, fields, Rules()), strict=False)
    return replace(wanted, model=model)


def _last_message(given: str | list[dict[str, Any]]) -> tuple[str, bytes | None]:
    """Returns the text of the last user message and its image, or else the image drawn last before it."""
    if isinstance(given, str):
        return given, None
    drawn = None
    for item in given:
        if item.get("type") == CALL and isinstance(item.get("result"), str):
            drawn = _decode(item["result"])
    message = next((item for item in reversed(given) if item.get("role") == "user"), None)
    if message is None:
        raise ApiError("there is no message of the user - 'input'", param="input")
    content = message.get("content")
    if isinstance(content, str):
        return content, drawn
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if part.get("type") == "input_text"]
    images = [_image(part) for part in parts if part.get("type") == "input_image"]
    return "\n".join(text for text in texts if isinstance(text, str)), images[0] if images else drawn


def _image(part: object) -> bytes:
    """Returns the bytes of a part's data URL."""
    url = part.get("image_url") if isinstance(part, dict) else None
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        message = (
            "an image is sent as a data URL (data:image/png;base64,…); none is fetched, no file_id is known"
        )
        raise ApiError(f"{message} - 'image_url'", param="image_url")
    return _decode(data)


def _decode(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            "the image is not base64 - 'input'", param="input", code="invalid_base64_image"
        ) from None


@dataclass
class ResponseWriter:
    """Writes the answer to one request: the response object, or its events.

    Attributes:
        number: of the next event.
    """

    service: ImageService
    body: ResponsesBody
    wanted: GenerationRequest
    number: int = 0
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(24)}")
    call_id: str = field(default_factory=lambda: f"ig_{secrets.token_hex(24)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def response(self, drawn: DrawnImages | None = None) -> dict[str, Any]:
        """Returns the response object: completed, or in progress if nothing is drawn yet."""
        tools = [{k: v for k, v in tool.items() if k != "input_image_mask"} for tool in self.body.tools]
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "in_progress" if drawn is None else "completed",
            "error": None,
            "incomplete_details": None,
            "instructions": self.body.instructions,
            "metadata": self.body.metadata or {},
            "model": self.body.model or self.service.worker.model(self.wanted.model).name,
            "output": [] if drawn is None else [self._call(drawn)],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": 1.0,
            "top_p": 1.0,
            "tool_choice": self.body.tool_choice or "auto",
            "tools": tools,
            "usage": None if drawn is None else NO_TOKENS,
            **({} if drawn is None else {"x_unclip": self.service.details(self.wanted, drawn)}),
        }

    def _call(self, drawn: DrawnImages | None) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.call_id, "type": CALL, "status": "in_progress", "result": None}
        if drawn is None:
            return item
        edited = isinstance(self.wanted, EditRequest)
        about = {"action": "edit" if edited else "generate", "revised_prompt": self.wanted.prompt}
        done = {"status": "completed", "result": self._base64(drawn.images[0]), "seed": drawn.seeds[0]}
        return {**item, **done, **about, **look(self.wanted), "quality": "auto"}

    def _base64(self, image: Image.Image) -> str:
        return base64.b64encode(self.service.encode(self.wanted, image)).decode()

    async def events(self, course: AsyncGenerator[Preview | DrawnImages | Progress]) -> AsyncIterator[str]:
        """Yields the events while the image forms; a failure is an event, too."""
        place = {"item_id": self.call_id, "output_index": 0}
        for name in ("created", "in_progress"):
            yield self._event(name, response=self.response())
        yield self._event("output_item.added", output_index=0, item=self._call(None))
        for name in ("in_progress", "generating"):
            yield self._event(f"{CALL}.{name}", **place)
        try:
            async with aclosing(course):
                async for now in course:
                    if isinstance(now, Preview):
                        data = await asyncio.to_thread(self._base64, now.images[0])
                        shown = {"partial_image_index": now.number, "partial_image_b64": data}
                        yield self._event(f"{CALL}.partial_image", **place, **shown, **look(self.wanted))
                    elif isinstance(now, DrawnImages):
                        whole = await asyncio.to_thread(self.response, now)
                        yield self._event(f"{CALL}.completed", **place)
                        yield self._event("output_item.done", output_index=0, item=whole["output"][0])
                        yield self._event("completed", response=whole)
        except Exception as error:  # the status has been sent, so only an event can say it
            refused = refusal(error).body
            yield sse({**refused["error"], **refused, "type": "error", "sequence_number": self.number})

    def _event(self, name: str, **more: Any) -> str:
        self.number += 1
        return sse({"type": f"response.{name}", "sequence_number": self.number - 1, **more})
