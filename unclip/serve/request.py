"""What a client may ask for: the letter of dall-e-2's API, or, leniently, what real programs send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from unclip.pipeline import check_prompt
from unclip.pipeline.presets import PRESETS
from unclip.serve.envelope import ApiError
from unclip.serve.pictures import check_edit, check_variation, read_upload

SIZES = (256, 512, 1024)
LONGEST_PROMPT = 1000  # characters
MOST_IMAGES = 10
MAX_SEED = 2**63 - 1
MOST_PARTIAL = 3  # pictures under way that a stream shows
FIELDS = {"prompt", "model", "n", "size", "response_format", "user"}
OPTIONS = {
    "steps": ("decoder", "steps"), "prior_steps": ("prior", "steps"),
    "guidance_scale": ("decoder", "guidance"), "prior_guidance_scale": ("prior", "guidance"),
}  # fmt: skip
MOST_STEPS, MOST_GUIDANCE = 250, 50
B64_MODELS = ("gpt-image", "chatgpt-image")  # programs that ask for these expect base64 without asking for it

WHOLE_STRENGTH = 0.7  # of an edit without any mask: the colours and the layout stay

ResponseFormat = Literal["url", "b64_json"]
Form = tuple[Mapping[str, str], Mapping[str, bytes]]  # its fields, and its files, by name


@dataclass(frozen=True)
class GenerationRequest:
    """A checked request.

    Attributes:
        n: pictures.
        size: their side in pixels.
        seed: of the first one, if the client chose it.
        options: changes to the sampling, hashable: requests with equal ones are batched.
        preset: what `options` change, by name in `PRESETS`; of prompts alone.
        partial_images: how many pictures under way the client wants to see, as events; None for one answer at the end.
    """

    prompt: str
    n: int
    size: int
    response_format: ResponseFormat
    seed: int | None = None
    options: tuple[tuple[str, str, float], ...] = ()
    preset: str = "balanced"
    partial_images: int | None = None


@dataclass(frozen=True)
class EditRequest(GenerationRequest):
    """A picture of which a part is to be painted anew.

    Attributes:
        image: square, RGB.
        mask: of its size, white where to paint; None for all of it, by `strength`.
        strength: as `Pipeline.edit` takes it.
    """

    image: Image.Image = field(kw_only=True)
    mask: Image.Image | None = field(kw_only=True)
    strength: float | None = field(kw_only=True)


@dataclass(frozen=True)
class VariationRequest(GenerationRequest):
    """A picture of which others are wanted; there is no prompt."""

    image: Image.Image = field(kw_only=True)


@dataclass(frozen=True)
class OutpaintRequest(GenerationRequest):
    """A picture to go on beyond its borders; only the page asks for it, as for the next two.

    Attributes:
        to: (width, height) of the canvas in pixels; `size` is its width.
    """

    image: Image.Image = field(kw_only=True)
    to: tuple[int, int] = field(kw_only=True)

    @property
    def mask(self) -> Image.Image:
        """White where the canvas is to be painted."""
        mask, (width, height) = Image.new("L", self.to, "white"), self.image.size
        corner = (self.to[0] - width) // 2, (self.to[1] - height) // 2
        mask.paste(0, (*corner, corner[0] + width, corner[1] + height))
        return mask


@dataclass(frozen=True)
class InterpolationRequest(GenerationRequest):
    """`n` pictures on the way from one picture or prompt to another, both included."""

    keys: tuple[Image.Image | str, Image.Image | str] = field(kw_only=True)


@dataclass(frozen=True)
class DiffRequest(GenerationRequest):
    """`n` pictures on the way from what a caption says of a picture to what the prompt says; the last one is at `theta`."""

    image: Image.Image = field(kw_only=True)
    before: str = field(kw_only=True)
    theta: float = field(kw_only=True)


def parse_generation(body: object, *, strict: bool) -> GenerationRequest:
    """The request that a JSON body makes.

    Args:
        strict: refuse everything that dall-e-2 did not know, instead of making the best of it.
    """
    if not isinstance(body, Mapping):
        raise ApiError("The body must be a JSON object.")
    _refuse_unknown(body, FIELDS, strict=strict)
    return GenerationRequest(_prompt(body.get("prompt")), **common_fields(body, strict=strict), preset=_preset(body))


def parse_edit(form: Form, *, strict: bool) -> EditRequest:
    """The request that an edit's form makes; its pictures are decoded, so this takes a while."""
    fields, files = form
    _refuse_unknown({**fields, **files}, FIELDS | {"image", "mask"}, strict=strict)
    prompt, common = _prompt(fields.get("prompt")), common_fields(fields, strict=strict)
    strength = _number(fields, "strength", 0.01, 1)
    image = read_upload(files, "image", strict=strict)
    mask = read_upload(files, "mask", strict=strict) if files.get("mask") else None
    image, paint = check_edit(image, mask, strict=strict)
    if paint is None and strength is None:
        strength = WHOLE_STRENGTH
    return EditRequest(prompt, **common, image=image, mask=paint, strength=strength)


def parse_variation(form: Form, *, strict: bool) -> VariationRequest:
    """The request that a variation's form makes; its picture is decoded, so this takes a while."""
    fields, files = form
    _refuse_unknown({**fields, **files}, FIELDS - {"prompt"} | {"image"}, strict=strict)
    common = common_fields(fields, strict=strict)
    image = check_variation(read_upload(files, "image", strict=strict), strict=strict)
    return VariationRequest("", **common, image=image)


def _refuse_unknown(body: Mapping[str, Any], known: set[str], *, strict: bool) -> None:
    if strict and (unknown := sorted(set(body) - known)):
        raise ApiError(f"Additional properties are not allowed ({unknown[0][:50]!r} was unexpected)")


def common_fields(body: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """What all requests have, checked: the arguments of `GenerationRequest` but for the prompt."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise ApiError("'model' must be a string - 'model'", param="model")
    n = _integer(body, "n", 1, 1, MOST_IMAGES)
    partial_images = None
    if body.get("stream") in (True, "true", "True"):
        partial_images = _integer(body, "partial_images", 0, 0, MOST_PARTIAL)
        if n > 1:
            raise ApiError("A stream shows one picture: n must be 1 - 'n'", param="n")
    return {
        "n": n,
        "size": _size(body.get("size"), strict=strict),
        "response_format": _response_format(body.get("response_format"), model),
        "seed": None if body.get("seed") is None else _integer(body, "seed", 0, 0, MAX_SEED - MOST_IMAGES),
        "options": tuple(_options(body)),
        "partial_images": partial_images,
    }


def _prompt(prompt: object) -> str:
    if prompt is None:
        raise ApiError("'prompt' is a required property", param="prompt")
    if not isinstance(prompt, str):
        raise ApiError(f"{str(prompt)[:100]!r} is not of type 'string' - 'prompt'", param="prompt")
    if not prompt.strip():
        raise ApiError("'' is too short - 'prompt'", param="prompt")
    if len(prompt) > LONGEST_PROMPT:
        raise ApiError(f"{prompt[:50] + '…'!r} is too long - 'prompt'", param="prompt")
    # Here and not when it is drawn: one that cannot be used must not spoil the batch for others.
    return check_prompt(prompt)


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


def _preset(body: Mapping[str, Any]) -> str:
    name = "balanced" if body.get("preset") is None else body["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise ApiError(f"{str(name)[:50]!r} is not one of {list(PRESETS)} - 'preset'", param="preset")
    return name


def _options(body: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """The fields that are ours: the number of steps and the guidance of the decoder and the prior."""
    found: list[tuple[str, str, float]] = []
    for name, (role, option) in OPTIONS.items():
        steps = option == "steps" and body.get(name) is not None
        value = _integer(body, name, 0, 1, MOST_STEPS) if steps else _number(body, name, 0, MOST_GUIDANCE)
        if value is not None:
            found.append((role, option, value))
    return found


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(f"{str(value)[:50]!r} is not of type 'number' - '{name}'", param=name)
    if not least <= value <= most:
        raise ApiError(f"{value} is not between {least} and {most} - '{name}'", param=name)
    return value
