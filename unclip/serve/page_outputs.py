"""The page's right side: pictures, status, what to do with the chosen picture, and the history."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from unclip.errors import RequestError, UnclipError
from unclip.pipeline.sizes import parse_size
from unclip.serve import page_words
from unclip.serve.access import address
from unclip.serve.page_album import PagePicture
from unclip.serve.page_controller import PageController, PictureSettings
from unclip.serve.page_sizes import SQUARE, SizeMenu
from unclip.serve.page_tabs import PRIVATE, Tab
from unclip.serve.progress import Progress

HISTORY_KEY: Final = "unclip-history"  # in the browser's storage
QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", **PRIVATE}


@dataclass(frozen=True)
class PageOptions:
    """The inputs that all tabs share.

    Attributes:
        advanced: text fields by the names of `page_controller.ADVANCED`.
    """

    n: gr.Slider
    size: gr.Radio
    shape: gr.Radio
    negative: gr.Textbox
    advanced: dict[str, gr.Textbox]

    @property
    def parts(self) -> list[gr.components.Component]:
        """All of them, in the order that `settings` takes."""
        return [self.n, self.size, self.shape, self.negative, *self.advanced.values()]

    def settings(
        self, n: int, size: int, shape: str, negative: str | None, *advanced: str | None
    ) -> PictureSettings:
        """Returns their values."""
        return PictureSettings(n, size, dict(zip(self.advanced, advanced, strict=True)), negative, shape)

    def restored(self, inputs: dict[str, Any], seed: object, menu: SizeMenu) -> dict[Any, Any]:
        """Returns the updates that bring back an earlier request's settings.

        Args:
            inputs: as `Handler` wrote them; from a browser's storage they may be anything.
        """
        advanced = inputs.get("advanced")
        texts = {**(advanced if isinstance(advanced, dict) else {}), "seed": seed}
        updates: dict[Any, Any] = {part: _text(texts.get(name)) for name, part in self.advanced.items()}
        updates[self.negative] = _text(inputs.get("negative"))
        if inputs.get("n") in range(1, 11):
            updates[self.n] = inputs["n"]
        if inputs.get("size") in menu.sides:
            updates[self.size] = inputs["size"]
            updates[self.shape] = inputs["shape"] if inputs.get("shape") in [*menu.shapes] else SQUARE
        return updates


@dataclass(frozen=True)
class PageOutputs:
    """The components that drawing changes.

    Attributes:
        uses: buttons that act on the chosen image; the side in pixels from which there is nothing to do.
        past: what surrounds the history.
        line, settings: settings of the chosen image, to read and as JSON.
        stored: the history as the browser keeps it.
        album: all images of the history, newest first.
        latest: those in the gallery.
        picked: the chosen one.
    """

    gallery: gr.Gallery
    status: gr.HTML
    progress: gr.HTML
    stop: gr.Button
    uses: dict[gr.Button, float]
    line: gr.HTML
    settings: gr.JSON
    past: gr.Column
    history: gr.Gallery
    clear: gr.Button
    stored: gr.BrowserState
    album: gr.State
    latest: gr.State
    picked: gr.State

    @property
    def parts(self) -> list[Any]:
        """All of them."""
        return [*(part for name, part in vars(self).items() if name != "uses"), *self.uses]

    def handler(
        self, controller: PageController, tab: Tab, options: PageOptions
    ) -> Callable[..., AsyncGenerator[dict[Any, Any]]]:
        """Returns the function that runs when the tab's button is pressed."""
        count = len(tab.inputs)

        async def press(
            request: gr.Request, album: list[PagePicture], *values: Any
        ) -> AsyncGenerator[dict[Any, Any]]:
            started = time.monotonic()
            try:
                settings = options.settings(*values[count:])
                wanted = await controller.build(tab.build, *values[:count], settings)
                yield {
                    self.status: page_words.waiting(controller.service.worker.waiting),
                    self.progress: page_words.bar(None),
                    self.stop: gr.Button(visible=True),
                }
                inputs = _written(tab, values[:count], settings)
                async with aclosing(controller.draw(wanted, address(request.request), inputs)) as course:
                    async for now in course:
                        if isinstance(now, Progress):
                            yield {self.status: page_words.waiting(0), self.progress: page_words.bar(now)}
                        elif isinstance(now[0], PagePicture):
                            made: list[Any] = now
                            seconds = time.monotonic() - started
                            yield self._done(controller, [*made, *album], made, seconds)
                        else:
                            yield {self.gallery: _gallery(now)}
            except UnclipError as error:
                yield {self.status: page_words.error(str(error)), **self.idle()}

        return press

    def idle(self) -> dict[Any, Any]:
        """Returns the updates that end the display of work."""
        return {self.progress: "", self.stop: gr.Button(visible=False)}

    def _done(
        self, controller: PageController, album: list[Any], made: list[PagePicture], seconds: float
    ) -> dict[Any, Any]:
        return {
            self.status: page_words.done(len(made), seconds),
            **self.show_history(controller, album),
            **self.show(made),
            **self.idle(),
        }

    def show(self, pictures: list[PagePicture]) -> dict[Any, Any]:
        """Returns the updates that show finished pictures and choose the first one."""
        captioned = [(one.path, f"seed {one.settings.get('seed')}") for one in pictures]
        return {self.gallery: _gallery(captioned), self.latest: pictures, **self.choose(pictures, 0)}

    def show_history(self, controller: PageController, album: list[PagePicture]) -> dict[Any, Any]:
        """Returns the updates that show a history, and that make the browser keep it."""
        return {
            self.past: gr.Column(visible=bool(album)),
            self.history: gr.Gallery(value=[one.path for one in album], selected_index=None),
            self.album: album,
            self.stored: controller.album.remember(album),
        }

    def choose(self, pictures: Sequence[PagePicture], index: int) -> dict[Any, Any]:
        """Returns the updates that choose one of the pictures."""
        picture = pictures[index]
        side = _longer_side(picture.settings.get("size"))
        place = f"Picture {index + 1} of {len(pictures)}" if len(pictures) > 1 else ""
        return {
            self.picked: picture,
            self.line: page_words.describe(picture.settings, place),
            self.settings: picture.settings,
            **{button: gr.Button(interactive=side < most) for button, most in self.uses.items()},
        }


def _gallery(value: list[Any]) -> gr.Gallery:
    """Columns so that all pictures are in view."""
    columns = (1, 1, 2, 3, 2, 3, 3, 4, 4, 5, 5)[min(len(value), 10)]
    return gr.Gallery(value=value, columns=columns, selected_index=None)


def _written(tab: Tab, values: Sequence[Any], settings: PictureSettings) -> dict[str, Any]:
    """What a person wrote and set in a tab, without pictures."""
    texts = zip(tab.inputs, values, strict=True)
    fields = [value if isinstance(part, gr.Textbox | gr.Slider) else None for part, value in texts]
    return {"tab": tab.name, "fields": fields, **settings._asdict()}


def restored(
    picture: PagePicture, tabs: Sequence[Tab], options: PageOptions, menu: SizeMenu
) -> dict[Any, Any]:
    """Returns the updates that bring back the settings of a picture, with its seed."""
    updates = options.restored(picture.inputs, picture.settings.get("seed"), menu)
    for tab in tabs:
        fields = picture.inputs.get("fields")
        if tab.name == picture.inputs.get("tab") and isinstance(fields, list):
            for part, value in zip(tab.inputs, fields, strict=False):
                if isinstance(part, gr.Textbox):
                    updates[part] = _text(value)
                elif isinstance(part, gr.Slider) and isinstance(value, int | float):
                    updates[part] = min(max(value, part.minimum), part.maximum)
    return updates


def use(tab: Tab) -> Callable[[PagePicture | None], tuple[Any, gr.Tabs]]:
    """Returns the function that takes the chosen image to a tab."""

    def take(picked: PagePicture | None) -> tuple[Any, gr.Tabs]:
        if picked is None or not Path(picked.path).is_file():
            raise gr.Error("This picture is no longer on the server. Draw it again.", print_exception=False)
        value: Any = picked.path
        if tab.name == "edit":
            value = {"background": picked.path, "layers": [], "composite": None}
        return value, gr.Tabs(selected=tab.name)

    return take


def _longer_side(size: object) -> int:
    """Of a size as settings have it; from a browser's storage they may be anything."""
    try:
        return max(parse_size(size))  # type: ignore[arg-type]
    except RequestError:
        return 0


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""
