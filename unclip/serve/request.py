"""What a client may ask for: the letter of dall-e-2's API, or, leniently, what real programs send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unclip.serve.envelope import ApiError

SIZES = (256, 512, 1024)
LONGEST_PROMPT = 1000  # characters
MOST_IMAGES = 10
MAX_SEED = 2**63 - 1
FIELDS = {"prompt", "model", "n", "size", "response_format", "user"}
B64_MODELS = ("gpt-image", "chatgpt-image")  # programs that ask for these expect base64 without asking for it

ResponseFormat = Literal["url", "b64_json"]


@dataclass(frozen=True)
class GenerationRequest:
    """A checked request.

    Attributes:
        n: pictures.
        size: their side in pixels.
        seed: of the first one, if the client chose it.
        options: changes to the sampling, hashable: requests with equal ones are batched.
    """

    prompt: str
    n: int
    size: int
    response_format: ResponseFormat
    seed: int | None = None
    options: tuple[tuple[str, str, float], ...] = ()


def parse_generation(body: object, *, strict: bool) -> GenerationRequest:
    """The request that a JSON body makes.

    Args:
        strict: refuse everything that dall-e-2 did not know, instead of making the best of it.
    """
    if not isinstance(body, Mapping):
        raise ApiError("The body must be a JSON object.")
    if strict and (unknown := sorted(set(body) - FIELDS)):
        raise ApiError(f"Additional properties are not allowed ({unknown[0]!r} was unexpected)")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise ApiError("'model' must be a string - 'model'", param="model")
    return GenerationRequest(
        prompt=_prompt(body.get("prompt")),
        n=_integer(body, "n", 1, 1, MOST_IMAGES),
        size=_size(body.get("size"), strict=strict),
        response_format=_response_format(body.get("response_format"), model),
        seed=None if body.get("seed") is None else _integer(body, "seed", 0, 0, MAX_SEED - MOST_IMAGES),
        options=tuple(_options(body)),
    )


def _prompt(prompt: object) -> str:
    if prompt is None:
        raise ApiError("'prompt' is a required property", param="prompt")
    if not isinstance(prompt, str):
        raise ApiError(f"{str(prompt)[:100]!r} is not of type 'string' - 'prompt'", param="prompt")
    if not prompt.strip():
        raise ApiError("'' is too short - 'prompt'", param="prompt")
    if len(prompt) > LONGEST_PROMPT:
        raise ApiError(f"{prompt[:50] + '…'!r} is too long - 'prompt'", param="prompt")
    return prompt


def _integer(body: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, str) and re.fullmatch(r"\d{1,19}", value):
        value = int(value)  # forms know text only, and some programs send JSON as if it were a form
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError(f"{str(value)[:50]!r} is not of type 'integer' - '{name}'", param=name)
    if value < least:
        raise ApiError(f"{value} is less than the minimum of {least} - '{name}'", param=name)
    if value > most:
        raise ApiError(f"{value} is greater than the maximum of {most} - '{name}'", param=name)
    return value


def _size(size: object, *, strict: bool) -> int:
    if size is None or (size == "auto" and not strict):
        return SIZES[-1]
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size) if isinstance(size, str) else None
    if found:
        width, height = int(found[1]), int(found[2])
        if width == height and width in SIZES:
            return width
        if not strict and min(width, height) > 0:
            # The shapes of later models: the square nearest to the longer side.
            return min(SIZES, key=lambda side: abs(side - max(width, height)))
    names = [f"{side}x{side}" for side in SIZES]
    raise ApiError(f"{str(size)[:50]!r} is not one of {names} - 'size'", param="size")


def _response_format(value: object, model: str | None) -> ResponseFormat:
    if value is None:
        return "b64_json" if model and model.startswith(B64_MODELS) else "url"
    if value == "url":
        return "url"
    if value == "b64_json":
        return "b64_json"
    raise ApiError(
        f"{str(value)[:50]!r} is not one of ['url', 'b64_json'] - 'response_format'", param="response_format"
    )


def _options(body: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """The fields that are ours: the number of steps and the guidance of the decoder and the prior."""
    known = {
        "steps": ("decoder", "steps", 250), "prior_steps": ("prior", "steps", 250),
        "guidance_scale": ("decoder", "guidance", 50), "prior_guidance_scale": ("prior", "guidance", 50),
    }  # fmt: skip
    found: list[tuple[str, str, float]] = []
    for name, (role, field, most) in known.items():
        value = body.get(name)
        if value is None:
            continue
        whole = field == "steps"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ApiError(
                f"{str(value)[:50]!r} is not of type '{'integer' if whole else 'number'}' - '{name}'", param=name
            )
        least = 1 if whole else 0
        if not least <= value <= most:
            raise ApiError(f"{value} is not between {least} and {most} - '{name}'", param=name)
        found.append((role, field, value))
    return found
