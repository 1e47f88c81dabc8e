"""The routes that draw: OpenAI's Images API, its image tool, and ours for embeddings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from unclip.serve.access import FORM, JSON, authorize, base_url
from unclip.serve.answers import (
    EmbeddingsResponse,
    FailureResponse,
    ImagesResponse,
    ResponseObject,
    body_schema,
)
from unclip.serve.bodies import read_form, read_json
from unclip.serve.requests import (
    DecodeRequest,
    GenerationRequest,
    check_width,
    edit_request,
    embedding_request,
    generation_request,
    variation_request,
)
from unclip.serve.responses import LARGEST_BODY, ResponsesBody, ResponseWriter, read_body, response_request
from unclip.serve.schema import (
    EditBody,
    EmbeddingBody,
    EmbeddingForm,
    GenerationBody,
    ImageBody,
    Rules,
    VariationBody,
    validate,
)
from unclip.serve.service import ImageService, event_stream

if TYPE_CHECKING:
    from unclip.serve.app import Policy

Route = Callable[[Request], Awaitable[Response]]
Answers = dict[int | str, dict[str, Any]]

FAILURES: Final[Answers] = {
    "4XX": {"description": "Refused.", "model": FailureResponse},
    503: {"description": "The server is shutting down.", "model": FailureResponse},
    507: {"description": "No room for images.", "model": FailureResponse},
}


def add_image_routes(app: FastAPI, prefix: str, service: ImageService, policy: Policy) -> None:
    """Adds the routes that draw, below a prefix; a strict server has dall-e-2's only."""
    rules = Rules(strict=policy.strict, models=policy.models)

    async def generate(request: Request) -> Response:
        client = authorize(request, policy.keys)
        wanted = generation_request(validate(GenerationBody, await read_json(request), rules))
        if isinstance(wanted, DecodeRequest):
            model = service.worker.model(wanted.model)
            check_width(wanted, model.facts.width, model.name)
        return await service.answer(request, wanted, base_url(request, policy.public_url), client)

    def on_form(model: type[ImageBody], convert: Callable[..., GenerationRequest]) -> Route:
        async def route(request: Request) -> Response:
            client = authorize(request, policy.keys)
            body = validate(model, await read_form(request), replace(rules, form=True))
            wanted = await service.decoders.run(convert, body, strict=policy.strict)
            del body  # the encoded uploads
            return await service.answer(request, wanted, base_url(request, policy.public_url), client)

        return route

    edit, vary = on_form(EditBody, edit_request), on_form(VariationBody, variation_request)
    events = "The images; with `stream`, events."
    _add_post(app, f"{prefix}/images/generations", generate, {JSON: GenerationBody}, ImagesResponse, events)
    _add_post(app, f"{prefix}/images/edits", edit, {FORM: EditBody}, ImagesResponse, events)
    _add_post(app, f"{prefix}/images/variations", vary, {FORM: VariationBody}, ImagesResponse, events)
    if not policy.strict:
        _add_embeddings_route(app, prefix, service, policy, rules)
        _add_responses_route(app, prefix, service, policy)


def _add_embeddings_route(
    app: FastAPI, prefix: str, service: ImageService, policy: Policy, rules: Rules
) -> None:
    async def embed(request: Request) -> Response:
        client = authorize(request, policy.keys)
        body: EmbeddingBody
        if request.headers.get("content-type", "").lower().startswith(FORM):
            body = validate(EmbeddingForm, await read_form(request), replace(rules, form=True))
        else:
            body = validate(EmbeddingBody, await read_json(request), rules)
        wanted = await service.decoders.run(embedding_request, body)
        return await service.embed(request, wanted, body.encoding_format, client)

    bodies = {JSON: EmbeddingBody, FORM: EmbeddingForm}
    _add_post(app, f"{prefix}/images/embeddings", embed, bodies, EmbeddingsResponse, "The embeddings.")


def _add_responses_route(app: FastAPI, prefix: str, service: ImageService, policy: Policy) -> None:
    async def respond(request: Request) -> Response:
        client = authorize(request, policy.keys)
        body = read_body(await read_json(request, LARGEST_BODY))
        wanted = await service.decoders.run(response_request, body, service.worker.models)
        writer = ResponseWriter(service, body, wanted)
        if body.stream:
            return event_stream(writer.events(service.follow(wanted, client)))
        drawn = await service.draw(request, wanted, client)
        return JSONResponse(await service.decoders.run(writer.response, drawn))

    says = "The response; with `stream`, events."
    _add_post(app, f"{prefix}/responses", respond, {JSON: ResponsesBody}, ResponseObject, says)


def _add_post(
    app: FastAPI,
    path: str,
    route: Route,
    bodies: Mapping[str, type[BaseModel]],
    answer: type[BaseModel],
    says: str,
) -> None:
    found: dict[str, Any] = {"description": says, "model": answer}
    if "events" in says:
        found["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    app.add_api_route(
        path,
        route,
        methods=["POST"],
        name=path.rpartition("/")[2],
        response_model=None,
        responses={200: found, **FAILURES},
        openapi_extra=body_schema(bodies),
        include_in_schema=path.startswith("/v1"),
    )
