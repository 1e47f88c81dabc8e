"""The API's bodies as pydantic models: what clients may send, and what they get.

Validation follows dall-e-2. In lenient mode unknown fields are ignored and the shapes of later models are
accepted; in strict mode whatever dall-e-2 refused is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from unclip.pipeline.presets import PRESETS
from unclip.pipeline.sizes import Size
from unclip.serve.embeddings import Embeds
from unclip.serve.envelope import ApiError

SIZES: Final = (256, 512, 1024)  # dall-e-2's squares
SHAPES: Final = ("1536x1024", "1024x1536", "1792x1024", "1024x1792")  # of OpenAI's later models
LONGEST_SIDE: Final = 2048  # pixels of an answer's image; the model may draw it smaller
LONGEST_PROMPT: Final = 1000  # characters, for dall-e-2 and our own models
LONGEST_PROMPTS: Final = {
    "dall-e-3": 4000,
    "gpt-image": 32_000,
    "chatgpt-image": 32_000,
}  # by name's beginning
GPT_IMAGE: Final = ("gpt-image", "chatgpt-image")
MAX_IMAGES: Final = 10
MAX_SEED: Final = 2**63 - 1 - MAX_IMAGES  # image i has seed + i
MAX_PARTIAL: Final = 3
MAX_STEPS: Final = 250
MAX_GUIDANCE: Final = 50
SAFE_INTEGER: Final = 2**53  # JSON numbers may lose digits above it
DALL_E_2: Final = {"prompt", "model", "n", "size", "response_format", "user", "image", "mask"}


@dataclass(frozen=True)
class Rules:
    """How a body is read: pydantic's validation context.

    Attributes:
        strict: refuse everything that dall-e-2 refused.
        form: fields come as text, because the body is a form.
        models: names that `model` may have in strict mode.
    """

    strict: bool = False
    form: bool = False
    models: tuple[str, ...] = ("dall-e-2",)


def _rules(info: ValidationInfo) -> Rules:
    return info.context if isinstance(info.context, Rules) else Rules()


def _integer(value: object, info: ValidationInfo) -> int:
    rules = _rules(info)
    # Some programs send JSON as if it were a form; dall-e-2 refused them.
    if (rules.form or not rules.strict) and isinstance(value, str) and re.fullmatch(r"\d{1,19}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PydanticCustomError("int_type", "not an integer")
    return value


def _number(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PydanticCustomError("float_type", "not a number")
    return value


def _model(value: str, info: ValidationInfo) -> str:
    rules = _rules(info)
    if rules.strict and value not in rules.models:
        raise PydanticCustomError("literal_error", "no such model", {"allowed": list(rules.models)})
    return value


def _size(value: object, info: ValidationInfo) -> int | str:
    """Returns `Size.plain`: one of `SIZES` or, in lenient mode, the nearest to another square, or a shape.

    Whether the model makes the shape is known later (`GenerationRequest.drawn`).
    """
    strict = _rules(info).strict
    if value == "auto" and not strict:
        return SIZES[-1]
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value) if isinstance(value, str) else None
    if found:
        size = Size(int(found[1]), int(found[2]))
        square = size.width == size.height
        if square and size.width in SIZES:
            return size.plain
        if not strict and square and size.width:
            return min(SIZES, key=lambda side: abs(side - size.width))
        if not strict and min(size) > 0 and max(size) <= LONGEST_SIDE:
            return size.plain
    allowed = [*(f"{side}x{side}" for side in SIZES), *(() if strict else SHAPES)]
    raise PydanticCustomError("literal_error", "no such size", {"allowed": allowed})


def _preset(value: object) -> str:
    if not isinstance(value, str) or value not in PRESETS:
        raise PydanticCustomError("literal_error", "no such preset", {"allowed": list(PRESETS)})
    return value


def _truth(value: object) -> bool:
    return value in (True, "true", "True")


def is_gpt_image(model: str | None) -> bool:
    """Whether a name is one of OpenAI's later models, whose clients expect base64 and send no format."""
    return (model or "").startswith(GPT_IMAGE)


def _prompt(value: str, info: ValidationInfo) -> str:
    """Checks the length as the service of that model name would."""
    name = info.data.get("model") or ""
    longest = next((n for start, n in LONGEST_PROMPTS.items() if name.startswith(start)), LONGEST_PROMPT)
    if len(value) > longest:
        raise PydanticCustomError("string_too_long", "too long")
    return value


Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Steps = Annotated[Integer, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[Number, Field(ge=0, le=MAX_GUIDANCE)]
Upload = Annotated[bytes, Field(strict=True), WithJsonSchema({"type": "string", "format": "binary"})]
ResponseFormat = Literal["url", "b64_json"]
ModelName = Annotated[str, Field(strict=True), AfterValidator(_model)]
Prompt = Annotated[
    str, Field(strict=True, min_length=1, max_length=max(LONGEST_PROMPTS.values())), AfterValidator(_prompt)
]
ImageSize = Annotated[
    int | str,
    BeforeValidator(_size),
    WithJsonSchema({"enum": [*(f"{side}x{side}" for side in SIZES), *SHAPES, "auto"]}),
]
Preset = Annotated[
    str, BeforeValidator(_preset), WithJsonSchema({"enum": list(PRESETS), "default": "balanced"})
]


class ImageBody(BaseModel):
    """Fields that all image routes share: dall-e-2's, later models', then our extensions."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    _unknown: tuple[str, ...] = PrivateAttr(())

    model: ModelName | None = Field(
        None, description="A name of /models. Any other name, like dall-e-3, means the first of them."
    )
    n: Annotated[Integer, Field(ge=1, le=MAX_IMAGES)] = Field(1, description="Number of images.")
    size: ImageSize = Field(
        SIZES[-1],
        description="Width and height in pixels. Other shapes work if the model makes them. `auto`: a square.",
        json_schema_extra={"default": f"{SIZES[-1]}x{SIZES[-1]}"},
    )
    response_format: ResponseFormat | None = Field(None, description="Default: url.")
    user: Any = Field(None, description="Ignored.", json_schema_extra={"type": "string"})
    output_format: Literal["png", "jpeg", "webp"] = Field("png", description="File format of the images.")
    output_compression: Annotated[Integer, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of JPEG or WebP. Default: 95 and 92."
    )
    negative_prompt: Annotated[str, Field(strict=True, max_length=LONGEST_PROMPT)] | None = Field(
        None, description="Text that guidance leads away from."
    )
    seed: Annotated[Integer, Field(ge=0, le=MAX_SEED)] | None = Field(
        None,
        description="Seed of the first image; later images use seed + 1, seed + 2, … Default: random.",
        json_schema_extra={"maximum": SAFE_INTEGER},
    )
    steps: Steps | None = Field(None, description="Denoising steps of the decoder.")
    guidance_scale: Guidance | None = Field(None, description="Classifier-free guidance of the decoder.")
    prior_steps: Steps | None = Field(None, description="Denoising steps of the prior.")
    prior_guidance_scale: Guidance | None = Field(None, description="Classifier-free guidance of the prior.")
    stream: Truth = Field(False, description="Answer with server-sent events; n must be 1.")
    partial_images: Annotated[Integer, Field(ge=0, le=MAX_PARTIAL)] = Field(
        0, description="Number of previews in a stream."
    )

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the fields that were sent and that no body of this kind has."""
        return self._unknown


class GenerationBody(ImageBody):
    """Body of `POST /images/generations`."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["prompt"]}, {"required": ["image_embeds"]}]}
    )

    prompt: Prompt | None = Field(None, description="Text that describes the image.")
    preset: Preset = Field("balanced", description="Sampling settings that the other fields change.")
    image_embeds: Embeds | None = Field(
        None,
        description="Embeddings z_i to decode instead of the prior's: one or several, each a list of numbers or "
        "base64 of little-endian float32. The prompt may then be left out.",
    )


class EditBody(ImageBody):
    """Form of `POST /images/edits`."""

    image: Upload = Field(description="Below 4 MB, sides of at most 4096 pixels.")
    prompt: Prompt = Field(description="Text that describes the whole image after the edit.")
    mask: Upload | None = Field(None, description="Transparent, or else white, where to paint.")
    strength: Annotated[Number, Field(ge=0.01, le=1)] | None = Field(
        None,
        description="Without any mask: 1 paints everything anew, less keeps colours and layout. Default: 0.7.",
    )


class VariationBody(ImageBody):
    """Form of `POST /images/variations`."""

    image: Upload = Field(description="Below 4 MB, sides of at most 4096 pixels.")


class EmbeddingBody(ImageBody):
    """Body of `POST /images/embeddings`."""

    prompt: Prompt | None = Field(None, description="Text whose image embeddings the prior samples.")
    preset: Preset = Field("balanced", description="Sampling settings that the other fields change.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Lists of numbers, or base64 of little-endian float32."
    )


class EmbeddingForm(EmbeddingBody):
    """Form of `POST /images/embeddings`."""

    image: Upload | None = Field(None, description="Below 4 MB, sides of at most 4096 pixels.")


Body = TypeVar("Body", bound=ImageBody)


def validate(model: type[Body], data: object, rules: Rules) -> Body:
    """Validates a body; fields that are null count as absent.

    Raises:
        ApiError: with dall-e-2's own message.
    """
    if not isinstance(data, Mapping):
        raise ApiError("The body must be a JSON object.")
    if rules.strict and (unknown := sorted(set(data) - (DALL_E_2 & set(model.model_fields)))):
        raise ApiError(f"Additional properties are not allowed ({unknown[0][:50]!r} was unexpected)")
    try:
        body = model.model_validate(
            {key: value for key, value in data.items() if value is not None and key in model.model_fields},
            context=rules,
        )
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None
    body._unknown = tuple(
        key for key, value in data.items() if value is not None and key not in model.model_fields
    )
    return body


def _refusal(error: ErrorDetails) -> ApiError:
    """Words pydantic's error as OpenAI's servers did (jsonschema's messages)."""
    name, value, details = str(error["loc"][0]), error["input"], error.get("ctx", {})
    shown = repr(str(value)[:50])
    match error["type"]:
        case "missing":
            return ApiError(f"'{name}' is a required property", param=name)
        case "string_too_short":
            says = "'' is too short"
        case "string_too_long":
            says = f"{str(value)[:50] + '…'!r} is too long"
        case "greater_than_equal":
            says = f"{value} is less than the minimum of {details['ge']}"
        case "less_than_equal":
            says = f"{value} is greater than the maximum of {details['le']}"
        case "literal_error":
            allowed = details.get("allowed") or re.findall(r"'([^']*)'", str(details["expected"]))
            says = f"{shown} is not one of {allowed}"
        case "unclip":
            says = str(details["message"])
        case kind:
            known = {"int_type": "integer", "float_type": "number", "bytes_type": "file"}
            says = f"{shown} is not of type '{known.get(kind, 'string')}'"
    return ApiError(f"{says} - '{name}'", param=name)
