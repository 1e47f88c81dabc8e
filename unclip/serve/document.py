"""What the OpenAPI document says of the image routes, whose bodies are read by hand: see `parse_generation` and its like."""

from __future__ import annotations

from typing import Any, Final

from unclip.pipeline.presets import PRESETS
from unclip.serve.request import LONGEST_PROMPT, MOST_GUIDANCE, MOST_IMAGES, MOST_PARTIAL, MOST_STEPS, SIZES

Schema = dict[str, Any]

LARGEST_SEED = 2**53  # larger ones are taken, but a JSON number may lose digits from here on


def _maybe(kind: str, **more: Any) -> Schema:
    """A field that may also be null."""
    return {"type": [kind, "null"], **more}


_PROMPT: Final[Schema] = {
    "type": "string", "minLength": 1, "maxLength": LONGEST_PROMPT, "description": "What the picture should show.",
}  # fmt: skip
_FILE: Final[Schema] = {
    "type": "string",
    "format": "binary",
    "description": "Below 4 MB, sides of at most 4096 pixels.",
}

# By name, as dall-e-2 knew them, and then those that are ours.
_COMMON: Final[Schema] = {
    "model": _maybe("string", description="Ignored: there is one model."),
    "n": _maybe("integer", minimum=1, maximum=MOST_IMAGES, default=1, description="Pictures."),
    "size": {
        "enum": [*(f"{side}x{side}" for side in SIZES), "auto", None], "default": f"{SIZES[-1]}x{SIZES[-1]}",
        "description": "Of later models' shapes, the nearest square is drawn.",
    },
    "response_format": {"enum": ["url", "b64_json", None], "default": "url"},
    "user": _maybe("string", description="Ignored."),
    "seed": _maybe("integer", minimum=0, maximum=LARGEST_SEED, description="Of the first picture."),
    "steps": _maybe("integer", minimum=1, maximum=MOST_STEPS, description="Of the decoder."),
    "guidance_scale": _maybe("number", minimum=0, maximum=MOST_GUIDANCE, description="Of the decoder."),
    "prior_steps": _maybe("integer", minimum=1, maximum=MOST_STEPS),
    "prior_guidance_scale": _maybe("number", minimum=0, maximum=MOST_GUIDANCE),
    "stream": _maybe("boolean", description="Answer with events while the picture forms; n must be 1 then."),
    "partial_images": _maybe("integer", minimum=0, maximum=MOST_PARTIAL, description="Pictures under way in a stream."),
}  # fmt: skip

_ERROR: Final[Schema] = {
    "type": "object", "required": ["error"],
    "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string"}, "type": {"type": "string"}, "param": _maybe("string"),
            "code": _maybe("string"),
        },
    }},
}  # fmt: skip

_PICTURES: Final[Schema] = {
    "type": "object", "required": ["created", "data"],
    "properties": {
        "created": {"type": "integer", "description": "Seconds since 1970."},
        "data": {"type": "array", "items": {
            "type": "object", "required": ["seed"],
            "properties": {"url": {"type": "string"}, "b64_json": {"type": "string"}, "seed": {"type": "integer"}},
        }},
        "x_unclip": {"type": "object", "properties": {"seconds": {"type": "number"}}},
    },
}  # fmt: skip

_EVENT: Final[Schema] = {  # of the newer API's: partial_image, completed, error
    "type": "object", "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "A JSON object."}},
}  # fmt: skip

FAILURES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"description": "Refused.", "content": {"application/json": {"schema": _ERROR}}},
    503: {"description": "The server is going down.", "content": {"application/json": {"schema": _ERROR}}},
}
ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The pictures; events if it is to be a stream.",
        "content": {"application/json": {"schema": _PICTURES}, "text/event-stream": {"schema": _EVENT}},
    },
    **FAILURES,
}


def _body(kind: str, required: list[str], properties: Schema) -> Schema:
    schema = {"type": "object", "required": required, "properties": {**properties, **_COMMON}}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


GENERATION: Final = _body(
    "application/json", ["prompt"], {"prompt": _PROMPT, "preset": {"enum": [*PRESETS, None], "default": "balanced"}}
)
EDIT: Final = _body(
    "multipart/form-data", ["image", "prompt"],
    {
        "image": _FILE, "mask": {**_FILE, "description": "Transparent, or else white, where to paint."},
        "prompt": _PROMPT, "strength": _maybe("number", minimum=0.01, maximum=1),
    },
)  # fmt: skip
VARIATION: Final = _body("multipart/form-data", ["image"], {"image": _FILE})
