"""What the page's buttons do: inputs become requests, and requests become image files. No Gradio in here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image, ImageChops

from unclip import images
from unclip.errors import RequestError, UnclipError
from unclip.pipeline import check_prompt
from unclip.pipeline.options import check_negative
from unclip.pipeline.sizes import Size, parse_size
from unclip.provenance.verify import Findings, verify
from unclip.serve.page_album import PageAlbum, PagePicture
from unclip.serve.page_sizes import SQUARE, SizeMenu
from unclip.serve.pictures import KEPT_SIDE, PAGE, check_edit, check_variation, read_upload
from unclip.serve.progress import Progress
from unclip.serve.requests import (
    DiffRequest,
    EditRequest,
    EnlargeRequest,
    GenerationRequest,
    InterpolationRequest,
    OutpaintRequest,
    VariationRequest,
    common_fields,
)
from unclip.serve.schema import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, ImageBody, Rules, validate
from unclip.serve.service import ImageService, Preview

PREVIEWS: Final = 8  # previews of a request
MOST_WIDER: Final = 3  # times the width or height of an extended image

# Fields of “Advanced”: name in a request's body → label, bounds.
ADVANCED: Final = {
    "seed": ("Seed", 0, MAX_SEED),
    "steps": ("Steps of the decoder", 1, MAX_STEPS),
    "guidance_scale": ("Guidance of the decoder", 0, MAX_GUIDANCE),
    "prior_steps": ("Steps of the prior", 1, MAX_STEPS),
    "prior_guidance_scale": ("Guidance of the prior", 0, MAX_GUIDANCE),
}

Upload = str | bytes | None  # path of an uploaded file, or its bytes


class PictureSettings(NamedTuple):
    """Settings that all tabs share.

    Attributes:
        n: number of images.
        size: side of a square of about the same area, in pixels.
        advanced: the texts of `ADVANCED`.
        negative: the negative prompt; may be empty.
        shape: one of `SizeMenu.shapes`.
    """

    n: int
    size: int
    advanced: dict[str, str | None]
    negative: str | None = None
    shape: str = SQUARE


@dataclass(frozen=True)
class PageController:
    """Draws for the page.

    Attributes:
        pictures: folder of finished images.
        uploads: folder of uploads; no file from elsewhere is read.
    """

    service: ImageService
    pictures: Path
    uploads: Path

    @property
    def album(self) -> PageAlbum:
        """The files of finished images."""
        return PageAlbum(self.pictures)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the images that the model makes."""
        return self.service.worker.sizes

    @property
    def menu(self) -> SizeMenu:
        """The sizes that the page offers."""
        return SizeMenu(self.service.worker.default.grid)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.service.worker.default.name

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """Words that the model was trained on; None for an open vocabulary."""
        return self.service.worker.default.facts.vocabulary

    # --- inputs to requests ---

    def generation(self, prompt: str | None, settings: PictureSettings) -> GenerationRequest:
        """Returns a request for images of a prompt."""
        return GenerationRequest(check_prompt(prompt or ""), **self._common(settings))

    def variation(self, image: Upload, settings: PictureSettings) -> VariationRequest:
        """Returns a request for variations of an image."""
        common = self._common(settings)
        picture = self._middle(image, "the picture to vary", common)
        return VariationRequest("", **common, image=picture)

    def enlargement(self, image: Upload, settings: PictureSettings) -> EnlargeRequest:
        """Returns a request to enlarge an image to the largest size.

        The middle square, unless the image is one of the model's other shapes.
        """
        picture = images.on_white(self._read(image, "the picture to enlarge"))
        largest = self.sizes[-1]
        size = self.menu.grid.scaled(picture.size, largest) or Size(largest, largest)
        if picture.width >= size.width and picture.height >= size.height:
            raise RequestError(f"The picture already has {largest} pixels or more on each side.")
        common = {**self._common(settings), "n": 1, "size": size.plain, "negative": "", "options": ()}
        return EnlargeRequest("", **common, image=images.centre_crop(picture, size))

    def edit(
        self, drawn: Mapping[str, Any] | None, prompt: str | None, settings: PictureSettings
    ) -> EditRequest:
        """Returns a request to paint the brushed area of an image anew.

        Args:
            drawn: the editor's value: `background`, and `layers` that are opaque where the brush was.
        """
        image = images.on_white(self._read((drawn or {}).get("background"), "the picture to edit"))
        mask = Image.new("L", image.size)
        for layer in (drawn or {}).get("layers", []):
            alpha = self._read(layer, "the brushed area").convert("RGBA").getchannel("A")
            mask = ImageChops.lighter(mask, alpha.resize(image.size))
        if mask.getbbox() is None:
            raise RequestError("Brush over the area of the picture to change.")
        common, painted = self._common(settings), mask.point(lambda value: 255 if value else 0)
        picture, paint = check_edit(image, painted, strict=False, size=parse_size(common["size"]))
        return EditRequest(check_prompt(prompt or ""), **common, image=picture, mask=paint, strength=None)

    def outpainting(
        self, image: Upload, prompt: str | None, wider: float, taller: float, settings: PictureSettings
    ) -> OutpaintRequest:
        """Returns a request to extend an image.

        Args:
            wider: width of the result as a multiple of the image's; `taller` likewise.
        """
        picture = images.on_white(self._read(image, "the picture to extend"))
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE))
        if not (1 <= wider <= MOST_WIDER and 1 <= taller <= MOST_WIDER):
            raise RequestError(f"A picture is extended to 1 to {MOST_WIDER} times its width and height.")
        to = round(picture.width * wider), round(picture.height * taller)
        common = {
            **self._common(settings),
            "size": Size(*to).plain,
            "partial_images": 0,
        }  # previews are of windows only
        return OutpaintRequest(check_prompt(prompt or ""), **common, image=picture, to=to)

    def interpolation(
        self,
        first: Upload,
        first_prompt: str,
        last: Upload,
        last_prompt: str | None,
        settings: PictureSettings,
    ) -> InterpolationRequest:
        """Returns a request for the images between two ends, each an image or else a prompt."""
        if settings.n < 2:
            raise RequestError("An interpolation has at least 2 pictures.")
        common = self._common(settings)
        ends = [
            check_prompt(prompt or "") if image is None else self._middle(image, "a picture", common)
            for image, prompt in ((first, first_prompt), (last, last_prompt))
        ]
        return InterpolationRequest("", **common, keys=(ends[0], ends[1]))

    def difference(
        self, image: Upload, before: str | None, after: str | None, theta: float, settings: PictureSettings
    ) -> DiffRequest:
        """Returns a request to change an image as one caption differs from another."""
        if not 0 < theta <= 1:
            raise RequestError("How far (θ) is a number above 0, up to 1.")
        common = self._common(settings)
        picture = self._middle(image, "the picture to change", common)
        return DiffRequest(
            check_prompt(after or ""), **common, image=picture, before=before or "", theta=theta
        )

    def _common(self, settings: PictureSettings) -> dict[str, Any]:
        chosen = {name: text.strip() for name, text in settings.advanced.items() if text and text.strip()}
        for name, text in chosen.items():
            label, least, most = ADVANCED[name]
            if not re.fullmatch(r"\d{1,19}(\.\d{1,9})?", text) or not least <= float(text) <= most:
                raise RequestError(f"{label}: {text} is not a number from {least} to {most}.")
        size = self.menu.chosen(settings.size, settings.shape)
        body = validate(ImageBody, {"n": settings.n, **chosen}, Rules(form=True))
        return {
            **common_fields(body),
            "size": size.plain,
            "negative": check_negative(settings.negative or ""),
            "partial_images": PREVIEWS,
        }

    def _middle(self, upload: Upload, what: str, common: Mapping[str, Any]) -> Image.Image:
        """Decodes an upload; its middle part of the shape of the result."""
        return check_variation(self._read(upload, what), strict=False, size=parse_size(common["size"]))

    def _read(self, upload: Upload, what: str) -> Image.Image:
        """Decodes an upload with the API's reader; larger files are allowed, because the page scales
        photographs.
        """
        if upload is None:
            raise RequestError(f"Choose {what} first.")
        if isinstance(upload, str):
            upload = self._uploaded(upload).read_bytes()
        return read_upload(upload, "image", PAGE)

    def _uploaded(self, name: str) -> Path:
        """Returns the path of an upload; RequestError for any other file, or one that is too large."""
        path = Path(name).resolve()
        if not path.is_relative_to(self.uploads.resolve()) or not path.is_file():
            raise RequestError("This file was not uploaded here.")
        if path.stat().st_size >= PAGE.size:
            raise RequestError(f"The file is larger than {PAGE.size >> 20} MB.")
        return path

    # --- verification ---

    async def verify(self, upload: str | None) -> Findings:
        """Looks for the marks of an uploaded picture, in a thread of those that decode uploads.

        Raises:
            RequestError: no picture, or one beyond the limits of uploads.
        """
        return await self.service.decoders.run(self._verify, upload)

    def _verify(self, upload: str | None) -> Findings:
        self._read(upload, "the picture to verify")  # within the limits, or refused
        return verify(self._uploaded(str(upload)))

    # --- requests to images ---

    async def build(self, make: Callable[..., GenerationRequest], *values: Any) -> GenerationRequest:
        """Makes a request, in a thread of those that decode uploads."""
        return await self.service.decoders.run(make, *values)

    async def draw(
        self, wanted: GenerationRequest, client: str, inputs: dict[str, Any] | None = None
    ) -> AsyncGenerator[Progress | list[Image.Image] | list[PagePicture]]:
        """Yields the progress and the images as they form, then their files.

        Args:
            inputs: what the page asked for; goes into the pictures.

        Raises:
            UnclipError: with a message for people.
        """
        try:
            async with aclosing(self.service.follow(wanted, client, progress=True)) as course:
                async for now in course:
                    if isinstance(now, Progress):
                        yield now
                    elif isinstance(now, Preview):
                        yield now.images
                    else:
                        yield await asyncio.to_thread(self._keep, wanted, now.images, inputs or {})
        except UnclipError:
            raise
        except Exception:  # logged by the worker
            raise RequestError("The server could not draw this. Its log says why.") from None

    def _keep(
        self, wanted: GenerationRequest, made: Sequence[Image.Image], inputs: dict[str, Any]
    ) -> list[PagePicture]:
        encoded = [(self.service.encode(wanted, image), image.info["unclip"]) for image in made]
        return self.album.keep(encoded, inputs)
