"""The page for people, made with Gradio. Importing this takes seconds; only `--page` does."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.routing import Mount

from unclip.errors import UnclipError
from unclip.serve.access import address, known_key
from unclip.serve.page_controller import ADVANCED, LIFETIME, PageController, PagePicture, PictureSettings
from unclip.serve.page_guard import LARGEST_FILE, PageGuard
from unclip.serve.page_tabs import Tab, make_tabs
from unclip.serve.schema import MAX_IMAGES
from unclip.serve.service import ImageService

PATH: Final = "/ui"
SWEEP: Final = 3600  # seconds between two sweeps of uploads that are a day old
FONTS: Final = (
    "ui-sans-serif",
    "system-ui",
    "sans-serif",
)  # the reader's own, so that nothing is fetched elsewhere
CSS: Final = """
#status {min-height: 2em} footer {display: none}
@media (max-width: 640px) {#pictures, #pictures .grid-wrap {height: auto !important} #pictures {min-height: 340px}}
"""


def mount_page(app: FastAPI, service: ImageService, folder: Path, keys: Sequence[str] = ()) -> None:
    """Mounts the page at /ui.

    Args:
        folder: where its images and uploads lie.
        keys: accepted passwords of the page. Empty if none is needed.
    """
    uploads, pictures = folder / "copies", folder / "page"
    for one in (uploads, pictures):
        one.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # the only way to tell Gradio
    page = create_page(PageController(service, pictures, uploads))

    def login(name: str, password: str) -> bool:
        return known_key(password.encode(), keys)

    app.add_api_route("/", lambda: RedirectResponse(PATH), include_in_schema=False)
    gr.mount_gradio_app(
        app,
        page,
        PATH,
        allowed_paths=[str(pictures)],
        max_file_size=LARGEST_FILE,
        auth=login if keys else None,
        auth_message="The password is one of the server's keys; any name will do.",
        theme=gr.themes.Soft(font=FONTS, font_mono=("ui-monospace", "monospace")),
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=False,
    )
    page.has_launched = True  # without it Gradio does not check the paths that clients name
    [mount] = [route for route in app.routes if isinstance(route, Mount) and route.path == PATH]
    mount.app = PageGuard(mount.app, uploads, pictures)


@dataclass(frozen=True)
class PageOutputs:
    """The components that drawing changes.

    Attributes:
        album: all images of this visit, newest first.
        latest: those in the gallery.
        picked: the chosen one.
    """

    gallery: gr.Gallery
    status: gr.Markdown
    stop: gr.Button
    settings: gr.JSON
    history: gr.Gallery
    album: gr.State
    latest: gr.State
    picked: gr.State

    @property
    def parts(self) -> list[gr.components.Component]:
        """All of them."""
        return list(vars(self).values())

    def handler(self, controller: PageController, tab: Tab) -> Callable[..., AsyncGenerator[dict[Any, Any]]]:
        """Returns the function that runs when the tab's button is pressed."""

        async def press(
            request: gr.Request, album: list[PagePicture], *values: Any
        ) -> AsyncGenerator[dict[Any, Any]]:
            count = len(tab.inputs)
            n, size, *advanced = values[count:]
            try:
                settings = PictureSettings(n, size, dict(zip(ADVANCED, advanced, strict=True)))
                wanted = await controller.build(tab.build, *values[:count], settings)
                waiting = controller.service.worker.waiting
                yield {
                    self.status: f"Waiting for {waiting} pictures of other requests …"
                    if waiting
                    else "Drawing …",
                    self.stop: gr.Button(visible=True),
                }
                async with aclosing(controller.draw(wanted, address(request.request))) as course:
                    async for made in course:
                        if isinstance(made[0], PagePicture):
                            yield self._done([*made, *album], made)
                        else:
                            yield {
                                self.gallery: gr.Gallery(value=made, selected_index=None),
                                self.status: "Drawing …",
                            }
            except UnclipError as error:
                gr.Warning(str(error), title="That did not work")
                yield {self.status: f"**That did not work:** {error}", self.stop: gr.Button(visible=False)}

        return press

    def _done(self, album: list[Any], made: list[Any]) -> dict[Any, Any]:
        return {
            self.gallery: gr.Gallery(value=[one.path for one in made], selected_index=None),
            self.history: [one.path for one in album],
            self.album: album,
            self.latest: made,
            self.picked: made[0],
            self.settings: made[0].settings,
            self.status: "Done.",
            self.stop: gr.Button(visible=False),
        }


def create_page(controller: PageController) -> gr.Blocks:
    """Builds the page."""
    private: dict[str, Any] = {"api_visibility": "private"}  # no API beside the one at /v1
    with gr.Blocks(title="unclip", analytics_enabled=False, delete_cache=(SWEEP, LIFETIME)) as page:
        gr.Markdown("# unclip\nPictures from words, by CLIP, a prior, a decoder and upsamplers.")
        with gr.Row():
            with gr.Column(min_width=320), gr.Tabs() as tabs:
                all_tabs = make_tabs(controller)
            with gr.Column(min_width=320):
                outputs, uses = _outputs(all_tabs)
        with gr.Accordion("Advanced", open=False):
            how = [gr.Slider(1, MAX_IMAGES, 4, step=1, label="How many pictures"), _size(controller.sizes)]
            # Text, because Gradio's number fields turn from empty to 0 when they are first shown.
            how += [
                gr.Textbox(label=label, placeholder="the model's own") for label, _, _ in ADVANCED.values()
            ]
        outputs.history.render()
        running = [
            trigger(
                outputs.handler(controller, tab),
                [outputs.album, *tab.inputs, *how],
                outputs.parts,
                concurrency_limit=None,
                show_progress="hidden",
                **private,
            )
            for tab in all_tabs
            for trigger in tab.triggers
        ]
        stopped = ("Stopped.", gr.Button(visible=False))
        outputs.stop.click(lambda: stopped, None, [outputs.status, outputs.stop], cancels=running, **private)
        for gallery, pictures in ((outputs.gallery, outputs.latest), (outputs.history, outputs.album)):
            gallery.select(
                _pick, [pictures], [outputs.picked, outputs.settings], show_progress="hidden", **private
            )
        for button, tab, target in uses:
            button.click(_use(tab), [outputs.picked], [target, tabs], show_progress="hidden", **private)
    return page


def _outputs(tabs: Sequence[Tab]) -> tuple[PageOutputs, list[tuple[gr.Button, Tab, gr.components.Component]]]:
    """Builds the galleries, and the buttons that take the chosen image to a tab."""
    gallery = gr.Gallery(
        label="Pictures",
        columns=2,
        height=620,
        object_fit="contain",
        format="jpeg",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
        elem_id="pictures",
    )
    status = gr.Markdown("", elem_id="status")
    stop = gr.Button("Stop", variant="stop", visible=False)
    with gr.Row():
        uses = [
            (gr.Button(label, size="sm", min_width=100), tab, target)
            for tab in tabs
            for label, target in tab.targets.items()
        ]
    with gr.Accordion("Settings of the chosen picture"):
        settings = gr.JSON(show_label=False, elem_id="settings")
    history = gr.Gallery(
        label="History: all pictures of this visit",
        columns=6,
        height="auto",
        format="png",
        interactive=False,
        buttons=["download", "download_all"],
        elem_id="history",
        render=False,
    )
    return PageOutputs(
        gallery, status, stop, settings, history, gr.State([]), gr.State([]), gr.State(None)
    ), uses


def _pick(pictures: list[PagePicture], chosen: gr.SelectData) -> tuple[PagePicture, dict[str, Any]]:
    picture = pictures[chosen.index]
    return picture, picture.settings


def _use(tab: Tab) -> Callable[[PagePicture | None], tuple[Any, gr.Tabs]]:
    """Returns the function that takes the chosen image to a tab."""

    def use(picked: PagePicture | None) -> tuple[Any, gr.Tabs]:
        if picked is None:
            raise gr.Error("Draw or choose a picture first.", print_exception=False)
        value: Any = picked.path
        if tab.name == "edit":
            value = {"background": picked.path, "layers": [], "composite": None}
        return value, gr.Tabs(selected=tab.name)

    return use


def _size(sizes: Sequence[int]) -> gr.Radio:
    """The default is the first upsampler's size: quick, and large enough to look at."""
    return gr.Radio(
        [(f"{side} × {side}", side) for side in sizes], value=sizes[:2][-1], label="Size in pixels"
    )
