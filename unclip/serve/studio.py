"""What the page's buttons do: make requests of what is on the page, and pictures of the requests."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageChops

from unclip import images
from unclip.errors import RequestError, UnclipError
from unclip.pipeline import check_prompt
from unclip.serve.answers import Artist, UnderWay
from unclip.serve.pictures import KEPT_SIDE, check_edit, check_variation
from unclip.serve.request import (
    MAX_SEED,
    MOST_GUIDANCE,
    MOST_IMAGES,
    MOST_STEPS,
    DiffRequest,
    EditRequest,
    GenerationRequest,
    InterpolationRequest,
    OutpaintRequest,
    VariationRequest,
    common_fields,
)

PREVIEWS = 8  # pictures under way that are shown
LIFETIME = 24 * 3600  # seconds for which a picture can be fetched

# What “Advanced” asks for: its name among a request's fields, as people read it, and its bounds.
ADVANCED = {
    "seed": ("Seed", 0, MAX_SEED - MOST_IMAGES),
    "steps": ("Steps of the decoder", 1, MOST_STEPS),
    "guidance_scale": ("Guidance of the decoder", 0, MOST_GUIDANCE),
    "prior_steps": ("Steps of the prior", 1, MOST_STEPS),
    "prior_guidance_scale": ("Guidance of the prior", 0, MOST_GUIDANCE),
}


class How(NamedTuple):
    """How to draw: the number of pictures, their side in pixels, and what `ADVANCED` names (empty or None: as the model likes)."""

    n: int
    size: int
    advanced: dict[str, str | None]


class Shown(NamedTuple):
    """A picture on the page: its file, and what made it."""

    path: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Studio:
    """Draws for the page.

    Attributes:
        folder: where its pictures lie until their day is over.
    """

    artist: Artist
    folder: Path

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the pictures it can make."""
        return self.artist.worker.pipelines[0].sizes

    # --- from what is on the page to requests ---

    def generation(self, prompt: str, how: How) -> GenerationRequest:
        """Pictures of a prompt."""
        return GenerationRequest(check_prompt(prompt), **self._common(how))

    def variation(self, image: Image.Image | None, how: How) -> VariationRequest:
        """Pictures like a picture."""
        picture = check_variation(_given(image, "the picture to vary"), strict=False)
        return VariationRequest("", **self._common(how), image=picture)

    def edit(self, drawn: Mapping[str, Any] | None, prompt: str, how: How) -> EditRequest:
        """A picture of which what the brush covers is painted anew.

        Args:
            drawn: the editor's value: the background, and layers that are opaque where the brush was.
        """
        image = _given((drawn or {}).get("background"), "the picture to edit")
        mask = Image.new("L", image.size)
        for layer in (drawn or {}).get("layers", []):
            mask = ImageChops.lighter(mask, layer.getchannel("A").resize(image.size))
        if mask.getbbox() is None:
            raise RequestError("Paint over the part of the picture that is to change.")
        picture, paint = check_edit(image.convert("RGB"), mask.point(lambda value: 255 if value else 0), strict=False)
        return EditRequest(check_prompt(prompt), **self._common(how), image=picture, mask=paint, strength=None)

    def outpainting(
        self, image: Image.Image | None, prompt: str, wider: float, taller: float, how: How
    ) -> OutpaintRequest:
        """A picture that goes on beyond its borders, so many times as wide and as tall."""
        picture = _given(image, "the picture to extend")
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE))
        to = round(picture.width * wider), round(picture.height * taller)
        common = {**self._common(how), "size": to[0], "partial_images": 0}  # for each window would be one
        return OutpaintRequest(check_prompt(prompt), **common, image=picture, to=to)

    def interpolation(
        self, first: Image.Image | None, first_prompt: str, last: Image.Image | None, last_prompt: str, how: How
    ) -> InterpolationRequest:  # fmt: skip
        """The way between two ends, each a picture or else a prompt."""
        if how.n < 2:
            raise RequestError("Between two ends there are at least 2 pictures.")
        keys = _end(first, first_prompt), _end(last, last_prompt)
        return InterpolationRequest("", **self._common(how), keys=keys)

    def difference(self, image: Image.Image | None, before: str, after: str, theta: float, how: How) -> DiffRequest:
        """A picture on its way from one caption to another."""
        picture = check_variation(_given(image, "the picture to change"), strict=False)
        common = self._common(how)
        return DiffRequest(check_prompt(after), **common, image=picture, before=before, theta=theta)

    def _common(self, how: How) -> dict[str, Any]:
        chosen = {name: text.strip() for name, text in how.advanced.items() if text and text.strip()}
        for name, text in chosen.items():
            label, least, most = ADVANCED[name]
            if not re.fullmatch(r"\d{1,19}(\.\d{1,9})?", text) or not least <= float(text) <= most:
                raise RequestError(f"{label}: {text} is not a number from {least} to {most}.")
        fields = common_fields({"n": how.n, **chosen}, strict=False)
        return {**fields, "size": how.size, "partial_images": PREVIEWS}

    # --- from requests to pictures ---

    async def draw(self, wanted: GenerationRequest) -> AsyncGenerator[list[Image.Image] | list[Shown]]:
        """The pictures as they form, then as files.

        Raises:
            UnclipError: says in plain words why there are none.
        """
        try:
            async with aclosing(self.artist.follow(wanted)) as course:
                async for now in course:
                    if isinstance(now, UnderWay):
                        yield now.images
                    else:
                        yield await asyncio.to_thread(self._keep, wanted, now.images)
        except UnclipError:
            raise
        except Exception:  # which the worker has logged
            raise RequestError("The server could not draw this. Its log says why.") from None

    def _keep(self, wanted: GenerationRequest, made: list[Image.Image]) -> list[Shown]:
        """Writes pictures where nobody can guess their name, and forgets those whose day is over."""
        for old in self.folder.iterdir():
            if old.stat().st_mtime < time.time() - LIFETIME:
                shutil.rmtree(old, ignore_errors=True)
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        shown = []
        for number, image in enumerate(made, start=1):
            settings = image.info["unclip"]
            path = folder / f"unclip-{settings['seed']}-{number}.png"
            path.write_bytes(self.artist.file(wanted, image))
            shown.append(Shown(str(path), settings))
        return shown


def _given(image: Image.Image | None, what: str) -> Image.Image:
    if image is None:
        raise RequestError(f"Choose {what} first.")
    return images.plain(image)


def _end(image: Image.Image | None, prompt: str) -> Image.Image | str:
    """A picture, or else a prompt."""
    return check_prompt(prompt) if image is None else check_variation(images.plain(image), strict=False)
