"""The page for people, made with Gradio. Importing this takes seconds; only `--page` does."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.routing import Mount

from unclip.serve import page_words
from unclip.serve.access import known_key
from unclip.serve.page_album import LIFETIME, PagePicture
from unclip.serve.page_controller import ADVANCED, PageController
from unclip.serve.page_guard import LARGEST_FILE, PageGuard
from unclip.serve.page_outputs import HISTORY_KEY, QUIET, PageOptions, PageOutputs, restored, use
from unclip.serve.page_sizes import SQUARE
from unclip.serve.page_tabs import PRIVATE, Tab, make_tabs, make_verify_tab
from unclip.serve.schema import LONGEST_PROMPT, MAX_IMAGES
from unclip.serve.service import ImageService

PATH: Final = "/ui"
SWEEP: Final = 3600  # seconds between two sweeps of uploads that are a day old
FONTS: Final = ("ui-sans-serif", "system-ui", "sans-serif")  # the reader's own: nothing is fetched elsewhere
# Four squares, as the gallery; browsers ask for it at the root.
ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    '<path fill="#4f46e5" d="M0 0h4v4H0zM5 0h4v4H5zM0 5h4v4H0zM5 5h4v4H5z"/></svg>'
)
STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))


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
    controller = PageController(service, pictures, uploads)
    page = create_page(controller)

    def login(name: str, password: str) -> bool:
        return known_key(password.encode(), keys)

    icon = Response(ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})
    app.add_api_route("/favicon.ico", lambda: icon, include_in_schema=False, response_model=None)
    app.add_api_route("/", lambda: RedirectResponse(PATH), include_in_schema=False)
    gr.mount_gradio_app(
        app,
        page,
        PATH,
        allowed_paths=[str(pictures)],
        max_file_size=LARGEST_FILE,
        auth=login if keys else None,
        auth_message="The password is one of the server's keys; any name will do.",
        theme=gr.themes.Default(
            primary_hue="indigo",
            neutral_hue="slate",
            radius_size="lg",
            font=FONTS,
            font_mono=("ui-monospace", "monospace"),
        ),
        css=STYLE.read_text(encoding="utf-8"),
        head=page_words.vocabulary_script(controller.vocabulary)
        + f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=False,
    )
    page.has_launched = True  # without it Gradio does not check the paths that clients name
    [mount] = [route for route in app.routes if isinstance(route, Mount) and route.path == PATH]
    mount.app = PageGuard(mount.app, uploads, pictures)


def create_page(controller: PageController) -> gr.Blocks:
    """Builds the page."""
    with gr.Blocks(
        title="unclip", analytics_enabled=False, delete_cache=(SWEEP, LIFETIME), fill_width=True
    ) as page:
        gr.HTML(f"<h1>unclip</h1><p>{escape(controller.model)}</p>", elem_id="top")
        with gr.Row(elem_id="work"):
            with gr.Column(elem_id="controls", min_width=320):
                with gr.Tabs(elem_id="tabs") as tabs:
                    all_tabs = make_tabs(controller)
                    make_verify_tab(controller)
                options = _options(controller)
            with gr.Column(elem_id="results", min_width=320):
                outputs, uses, settings_uses = _outputs(all_tabs)
        with outputs.past.render():
            with gr.Row(elem_id="past-head"):
                gr.HTML("<h2>History</h2>")
                outputs.clear.render()
            outputs.history.render()
        running = _connect_tabs(controller, all_tabs, options, outputs, uses, tabs)
        outputs.stop.click(
            lambda: {outputs.status: "<p>Stopped.</p>", **outputs.idle()},
            None,
            [outputs.status, outputs.progress, outputs.stop],
            cancels=running,
            **QUIET,
        )
        _connect_pictures(outputs)
        _connect_settings(controller, all_tabs, options, outputs, settings_uses, tabs)
        _connect_browser(controller, page, all_tabs, options, outputs)
    return page


def _options(controller: PageController) -> PageOptions:
    """Builds the options that all tabs share."""
    with gr.Group(elem_classes=["options"]):
        with gr.Row():
            count = gr.Slider(1, MAX_IMAGES, 4, step=1, label="Pictures", elem_id="count", min_width=150)
            # The default is the first upsampler's size: quick, and large enough to look at.
            menu, usual = controller.menu, controller.sizes[:2][-1]
            sizes = [(str(side), side) for side in menu.sides]
            size = gr.Radio(sizes, value=usual, label="Size in pixels", elem_id="size", min_width=150)
        shape = gr.Radio([*menu.shapes], value=SQUARE, label="Shape", elem_id="shape", min_width=150)
        with gr.Row():
            negative = gr.Textbox(
                label="Negative prompt",
                placeholder="what to leave out",
                max_length=LONGEST_PROMPT,
                elem_id="negative",
                elem_classes=["words"],
                min_width=150,
            )
            # Text, because Gradio's number fields turn from empty to 0 when they are first shown.
            advanced = {"seed": gr.Textbox(label="Seed", placeholder="random", elem_id="seed", min_width=150)}
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        names = [name for name in ADVANCED if name != "seed"]
        for pair in (names[:2], names[2:]):
            with gr.Row():
                for name in pair:
                    advanced[name] = gr.Textbox(
                        label=ADVANCED[name][0], placeholder="the model's own", min_width=150
                    )
    return PageOptions(count, size, shape, negative, advanced)


Uses = list[tuple[gr.Button, Tab, gr.components.Component]]


def _outputs(tabs: Sequence[Tab]) -> tuple[PageOutputs, Uses, tuple[gr.Button, gr.Button]]:
    """Builds the galleries, and the buttons that act on the chosen image."""
    with gr.Row(elem_id="state"):
        with gr.Column(elem_id="now", min_width=200):
            status = gr.HTML("<p>Pictures appear here.</p>", elem_id="status")
            progress = gr.HTML("", elem_id="progress")
        stop = gr.Button("Stop", variant="stop", visible=False, min_width=80, scale=0, elem_id="stop")
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=2,
        object_fit="contain",
        format="jpeg",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
        elem_id="pictures",
    )
    with gr.Row(elem_id="chosen"):
        line = gr.HTML("", elem_id="line")
        seed = gr.Button("Use its seed", interactive=False, min_width=110, scale=0)
        again = gr.Button("Use these settings", interactive=False, min_width=110, scale=0)
    with gr.Row(elem_id="uses"):
        uses = [
            (gr.Button(label, interactive=False, min_width=110), tab, target)
            for tab in tabs
            for label, target in tab.targets.items()
        ]
    with gr.Accordion("All settings as JSON", open=False, elem_id="json"):
        settings = gr.JSON(show_label=False, elem_id="settings")
    past = gr.Column(visible=False, render=False)
    history = gr.Gallery(
        label="History",
        show_label=False,
        columns=8,
        height="auto",
        object_fit="cover",
        format="png",
        interactive=False,
        allow_preview=False,
        buttons=["download_all"],
        elem_id="history",
        render=False,
    )
    clear = gr.Button("Clear", size="sm", min_width=80, scale=0, elem_id="clear", render=False)
    stored = gr.BrowserState([], storage_key=HISTORY_KEY, secret=HISTORY_KEY)
    states = [gr.State([]), gr.State([]), gr.State(None)]
    buttons = dict.fromkeys([seed, again], math.inf) | {button: tab.most for button, tab, _ in uses}
    outputs = PageOutputs(
        gallery, status, progress, stop, buttons, line, settings, past, history, clear, stored, *states
    )
    return outputs, uses, (seed, again)


def _connect_tabs(
    controller: PageController,
    tabs: Sequence[Tab],
    options: PageOptions,
    outputs: PageOutputs,
    uses: Uses,
    shown: gr.Tabs,
) -> list[Any]:
    """Connects the buttons that draw, and those that take the chosen image to a tab; returns what draws."""
    running: list[Any] = []
    for tab in tabs:
        draws: dict[str, Any] = {
            "fn": outputs.handler(controller, tab, options),
            "inputs": [outputs.album, *tab.inputs, *options.parts],
            "outputs": outputs.parts,
            "concurrency_limit": None,
            **QUIET,
        }
        running.append(gr.on(tab.triggers, **draws))
        for button, owner, target in uses:
            if owner is not tab:
                continue
            taken = button.click(use(tab), [outputs.picked], [target, shown], **QUIET)
            if tab.at_once:
                running.append(taken.success(**draws))
            else:
                taken.success(None, None, None, js="() => unclip.show('tabs')", **PRIVATE)
    return running


def _connect_pictures(outputs: PageOutputs) -> None:
    """Connects a click on a picture with the display of its settings."""

    def pick(pictures: list[PagePicture], chosen: gr.SelectData) -> dict[Any, Any]:
        return outputs.choose(pictures, chosen.index) if chosen.index < len(pictures) else {}

    def fetch(album: list[PagePicture], chosen: gr.SelectData) -> dict[Any, Any]:
        return outputs.show(album[chosen.index : chosen.index + 1])

    chosen = [outputs.picked, outputs.line, outputs.settings, *outputs.uses]
    outputs.gallery.select(pick, [outputs.latest], chosen, **QUIET)
    outputs.history.select(
        fetch, [outputs.album], [outputs.gallery, outputs.latest, *chosen], **QUIET
    ).success(None, None, None, js="() => unclip.show('results')", **PRIVATE)


def _connect_settings(
    controller: PageController,
    tabs: Sequence[Tab],
    options: PageOptions,
    outputs: PageOutputs,
    buttons: tuple[gr.Button, gr.Button],
    shown: gr.Tabs,
) -> None:
    """Connects the buttons that bring a picture's seed or settings back."""
    texts: list[Any] = [
        part for tab in tabs for part in tab.inputs if isinstance(part, gr.Textbox | gr.Slider)
    ]
    names = [tab.name for tab in tabs]

    def bring_back(picked: PagePicture) -> dict[Any, Any]:
        updates = restored(picked, tabs, options, controller.menu)
        if picked.inputs.get("tab") in names:
            updates[shown] = gr.Tabs(selected=picked.inputs["tab"])
        return updates

    seed, again = buttons
    seed.click(
        lambda picked: str(picked.settings["seed"]), [outputs.picked], [options.advanced["seed"]], **QUIET
    )
    again.click(bring_back, [outputs.picked], [*texts, *options.parts, shown], **QUIET).success(
        None, None, None, js="() => unclip.show('tabs')", **PRIVATE
    )


def _connect_browser(
    controller: PageController,
    page: gr.Blocks,
    tabs: Sequence[Tab],
    options: PageOptions,
    outputs: PageOutputs,
) -> None:
    """Brings prompt and history back when the page is opened again."""
    prompt: Any = tabs[0].inputs[0]
    page.load(None, None, [prompt, options.negative], js="() => unclip.saved()", **PRIVATE)
    options.negative.change(None, None, None, js="() => unclip.look()", **PRIVATE)
    parts = [outputs.past, outputs.history, outputs.album, outputs.stored]

    def recall(stored: object) -> dict[Any, Any]:
        return outputs.show_history(controller, controller.album.recall(stored))

    page.load(recall, [outputs.stored], parts, **QUIET)
    outputs.clear.click(lambda: outputs.show_history(controller, []), None, parts, **QUIET)
