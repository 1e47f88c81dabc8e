"""The OpenAPI document: the API's answers as pydantic models, and the schemas of bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field


class ImageData(BaseModel):
    """One image of an answer."""

    url: str | None = None
    b64_json: str | None = None
    seed: int


class Details(BaseModel):
    """Our own fields of an answer."""

    seconds: float
    model: str = Field(description="Name of the model that drew.")
    ignored: list[str] = Field([], description="Fields of the request that had no effect.")


class ImagesResponse(BaseModel):
    """Answer of the image routes."""

    created: int = Field(description="Seconds since 1970.")
    data: list[ImageData]
    x_unclip: Details
    background: Literal["opaque"] | None = Field(None, description="For the names gpt-image-….")
    output_format: str | None = None
    size: str | None = None


class Embedding(BaseModel):
    """One embedding of an answer."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    seed: int | None = Field(None, description="Seed of the prior; absent for an image.")


class EmbeddingDetails(Details):
    """Our own fields of an answer with embeddings."""

    clip: str = Field(description="Identity of the CLIP whose embeddings these are.")
    width: int = Field(description="Numbers in an embedding.")


class EmbeddingsResponse(BaseModel):
    """Answer of `POST /images/embeddings`, in the shape of OpenAI's `/embeddings`."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    x_unclip: EmbeddingDetails


class ResponseObject(BaseModel):
    """Answer of `POST /responses`; it has all fields that OpenAI's clients require."""

    id: str
    object: Literal["response"]
    status: Literal["completed"]
    created_at: int
    model: str
    output: list[dict[str, Any]] = Field(description="One item of type image_generation_call.")
    x_unclip: Details


class Model(BaseModel):
    """One entry of the list of models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 1698798177  # OpenAI's date of dall-e-2
    owned_by: str = "unclip"


class ModelList(BaseModel):
    """Answer of `GET /models`."""

    object: Literal["list"] = "list"
    data: list[Model]


class Failure(BaseModel):
    """The `error` object of an answer that refuses."""

    message: str
    type: str
    param: str | None
    code: str | None


class FailureResponse(BaseModel):
    """OpenAI's envelope of errors."""

    error: Failure


def body_schema(bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Returns the OpenAPI `requestBody` of models by media type; optional fields may also be null."""
    content = {media: {"schema": _schema(model)} for media, model in bodies.items()}
    return {"requestBody": {"required": True, "content": content}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        choices = [one for one in field.pop("anyOf", []) if one.get("type") != "null"]
        if len(choices) == 1:  # X | None
            field |= choices[0]
        elif choices:
            field["oneOf"] = choices
        for ours, theirs in (("ge", "minimum"), ("le", "maximum")):  # which pydantic leaves beside validators
            if ours in field:
                field.setdefault(theirs, field.pop(ours))
        if name not in schema.get("required", []):
            if "enum" in field:
                field["enum"] = [*field["enum"], None]
                field.pop("type", None)
            elif "oneOf" in field:
                field["oneOf"] = [*field["oneOf"], {"type": "null"}]
            elif "type" in field and "format" not in field:
                field["type"] = [field["type"], "null"]
    return schema
