"""The page: what people see of the server, made with Gradio. Importing this takes seconds; only `--page` does."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from unclip.errors import UnclipError
from unclip.serve.answers import Artist
from unclip.serve.request import MOST_IMAGES, GenerationRequest
from unclip.serve.studio import ADVANCED, LIFETIME, How, Shown, Studio

PATH = "/ui"
LARGEST_FILE = "4mb"
SWEEP = 3600  # seconds between two looks for copies of pictures whose day is over
FONTS = ("ui-sans-serif", "system-ui", "sans-serif")  # the reader's own: nothing is fetched from elsewhere
CSS = """
#status {min-height: 2em} footer {display: none}
@media (max-width: 640px) {#pictures, #pictures .grid-wrap {height: auto !important} #pictures {min-height: 340px}}
"""  # a phone has no room for the height that four pictures take beside the prompt
EXAMPLE = "a shiba inu wearing a red beret"


def mount_page(app: FastAPI, artist: Artist, folder: Path, keys: Sequence[str] = ()) -> None:
    """Puts the page onto the server, at /ui.

    Args:
        folder: where its pictures lie.
        keys: of which it asks for one; for none if there are none.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "copies")  # what people upload goes when the server goes
    pictures = folder / "page"
    pictures.mkdir()
    page = create_page(Studio(artist, pictures))

    def known(name: str, password: str) -> bool:
        return any([hmac.compare_digest(password.encode(), key.encode()) for key in keys])

    app.add_api_route("/", lambda: RedirectResponse(PATH), include_in_schema=False)
    gr.mount_gradio_app(
        app, page, PATH, allowed_paths=[str(pictures)], max_file_size=LARGEST_FILE,
        auth=known if keys else None, auth_message="The password is one of the server's keys; any name will do.",
        theme=gr.themes.Soft(font=FONTS, font_mono=("ui-monospace", "monospace")), css=CSS, footer_links=[],
        run_history=False, ssr_mode=False, enable_monitoring=False, show_error=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """A tab: what it makes of its inputs, and what starts it.

    Attributes:
        build: takes the inputs' values, and how to draw.
        targets: label → the input that takes a chosen picture.
    """

    name: str
    build: Callable[..., GenerationRequest]
    inputs: Sequence[gr.components.Component]
    triggers: Sequence[Callable[..., Any]]
    targets: dict[str, gr.components.Component]


@dataclass(frozen=True)
class Easel:
    """Where pictures appear, and what is known of them.

    Attributes:
        album: all pictures of this visit, newest first.
        latest: those in the gallery.
        picked: the one that was chosen.
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
        """All that drawing changes."""
        return list(vars(self).values())

    def act(self, studio: Studio, verb: Verb) -> Callable[..., AsyncGenerator[dict[Any, Any]]]:
        """What a press of the verb's button does."""

        async def act(album: list[Shown], *values: Any) -> AsyncGenerator[dict[Any, Any]]:
            count = len(verb.inputs)
            n, size, *advanced = values[count:]
            try:
                how = How(n, size, dict(zip(ADVANCED, advanced, strict=True)))
                wanted = await asyncio.to_thread(verb.build, *values[:count], how)
                waiting = studio.artist.worker.waiting
                yield {
                    self.status: f"Waiting for {waiting} pictures that others asked for …" if waiting else "Drawing …",
                    self.stop: gr.Button(visible=True),
                }
                async with aclosing(studio.draw(wanted)) as course:
                    async for made in course:
                        if isinstance(made[0], Shown):
                            yield self._done([*made, *album], made)
                        else:
                            yield {self.gallery: gr.Gallery(value=made, selected_index=None), self.status: "Drawing …"}
            except UnclipError as error:
                gr.Warning(str(error), title="That did not work")
                yield {self.status: f"**That did not work:** {error}", self.stop: gr.Button(visible=False)}

        return act

    def _done(self, album: list[Any], made: list[Any]) -> dict[Any, Any]:
        return {
            self.gallery: gr.Gallery(value=[one.path for one in made], selected_index=None),
            self.history: [one.path for one in album], self.album: album, self.latest: made, self.picked: made[0],
            self.settings: made[0].settings, self.status: "Done.", self.stop: gr.Button(visible=False),
        }  # fmt: skip


def create_page(studio: Studio) -> gr.Blocks:
    """The page, which draws in the studio."""
    with gr.Blocks(title="unclip", analytics_enabled=False, delete_cache=(SWEEP, LIFETIME)) as page:
        gr.Markdown("# unclip\nPictures from words, by CLIP, a prior, a decoder and upsamplers.")
        with gr.Row():
            with gr.Column(min_width=320), gr.Tabs() as tabs:
                verbs = [make(studio) for make in (_draw, _vary, _edit, _extend, _between, _change)]
            with gr.Column(min_width=320):
                easel, uses = _easel(verbs)
        with gr.Accordion("Advanced", open=False):
            how = [gr.Slider(1, MOST_IMAGES, 4, step=1, label="How many pictures"), _size(studio.sizes)]
            # Text, for Gradio's numbers turn from empty to 0 when they are first shown.
            how += [gr.Textbox(label=label, placeholder="as the model likes it") for label, _, _ in ADVANCED.values()]
        easel.history.render()

        running = [
            trigger(
                easel.act(studio, verb), [easel.album, *verb.inputs, *how], easel.parts, concurrency_limit=None,
                show_progress="hidden", api_visibility="private",
            )
            for verb in verbs for trigger in verb.triggers
        ]  # fmt: skip
        easel.stop.click(
            lambda: ("Stopped.", gr.Button(visible=False)), None, [easel.status, easel.stop], cancels=running,
            api_visibility="private",
        )  # fmt: skip
        for gallery, pictures in ((easel.gallery, easel.latest), (easel.history, easel.album)):
            gallery.select(
                _pick, [pictures], [easel.picked, easel.settings], show_progress="hidden", api_visibility="private"
            )
        for button, verb, target in uses:
            button.click(_use(verb), [easel.picked], [target, tabs], show_progress="hidden", api_visibility="private")
    return page


def _easel(verbs: Sequence[Verb]) -> tuple[Easel, list[tuple[gr.Button, Verb, gr.components.Component]]]:
    """Where pictures appear, and the buttons that take the chosen one to a verb."""
    gallery = gr.Gallery(
        label="Pictures", columns=2, height=620, object_fit="contain", format="jpeg", interactive=False,
        buttons=["download", "download_all", "fullscreen"], elem_id="pictures",
    )  # fmt: skip
    status = gr.Markdown("", elem_id="status")
    stop = gr.Button("Stop", variant="stop", visible=False)
    with gr.Row():
        uses = [
            (gr.Button(label, size="sm", min_width=100), verb, target)
            for verb in verbs
            for label, target in verb.targets.items()
        ]
    with gr.Accordion("Settings of the chosen picture"):
        settings = gr.JSON(show_label=False, elem_id="settings")
    history = gr.Gallery(
        label="History: all pictures of this visit", columns=6, height="auto", format="png", interactive=False,
        buttons=["download", "download_all"], elem_id="history", render=False,
    )  # fmt: skip
    easel = Easel(gallery, status, stop, settings, history, gr.State([]), gr.State([]), gr.State(None))
    return easel, uses


def _pick(pictures: list[Shown], chosen: gr.SelectData) -> tuple[Shown, dict[str, Any]]:
    picture = pictures[chosen.index]
    return picture, picture.settings


def _use(verb: Verb) -> Callable[[Shown | None], tuple[Any, gr.Tabs]]:
    """Takes the chosen picture to the verb's tab."""

    def use(picked: Shown | None) -> tuple[Any, gr.Tabs]:
        if picked is None:
            raise gr.Error("Draw or choose a picture first.", print_exception=False)
        value: Any = picked.path
        if verb.build.__name__ == Studio.edit.__name__:
            value = {"background": picked.path, "layers": [], "composite": None}
        return value, gr.Tabs(selected=verb.name)

    return use


def _size(sizes: Sequence[int]) -> gr.Radio:
    """Of the sizes the model makes, that of the first upsampler is drawn soonest and still worth looking at."""
    return gr.Radio([(f"{side} × {side}", side) for side in sizes], value=sizes[:2][-1], label="Size in pixels")


# --- the tabs ---


def _draw(studio: Studio) -> Verb:
    with gr.Tab("Draw", id="draw"):
        prompt = gr.Textbox(label="What the picture should show", placeholder=EXAMPLE, autofocus=True, max_length=1000)
        go = gr.Button("Draw", variant="primary")
    return Verb("draw", studio.generation, [prompt], [go.click, prompt.submit], {})


def _vary(studio: Studio) -> Verb:
    with gr.Tab("Vary", id="vary"):
        image = _picture("Picture to vary")
        go = gr.Button("Vary", variant="primary")
    return Verb("vary", studio.variation, [image], [go.click], {"Vary it": image})


def _edit(studio: Studio) -> Verb:
    with gr.Tab("Edit", id="edit"):
        gr.Markdown("Paint over what is to change.")  # the editor's own label lies under its tools on a phone
        editor = gr.ImageEditor(
            show_label=False, type="pil", sources=["upload", "clipboard"], transforms=(),
            brush=gr.Brush(default_size=40, colors=["#ffffff"], color_mode="fixed"), layers=False, format="png",
            elem_id="editor",
        )  # fmt: skip
        prompt = gr.Textbox(label="What the whole picture should show then", max_length=1000)
        go = gr.Button("Edit", variant="primary")
    return Verb("edit", studio.edit, [editor, prompt], [go.click, prompt.submit], {"Edit it": editor})


def _extend(studio: Studio) -> Verb:
    with gr.Tab("Extend", id="extend"):
        image = _picture("Picture to extend")
        prompt = gr.Textbox(label="What the larger picture should show", max_length=1000)
        wider = gr.Slider(1, 3, 1.5, step=0.25, label="Times as wide")
        taller = gr.Slider(1, 3, 1, step=0.25, label="Times as tall")
        go = gr.Button("Extend", variant="primary")
    inputs = [image, prompt, wider, taller]
    return Verb("extend", studio.outpainting, inputs, [go.click, prompt.submit], {"Extend it": image})


def _between(studio: Studio) -> Verb:
    with gr.Tab("Between", id="between"):
        gr.Markdown("The way from one end to the other; each is a picture or, without one, a prompt.")
        with gr.Row():
            ends = []
            for which in ("First", "Last"):
                with gr.Column(min_width=140):
                    ends += [_picture(f"{which} picture"), gr.Textbox(label=f"{which} prompt", max_length=1000)]
        go = gr.Button("Interpolate", variant="primary")
    targets = {"First end": ends[0], "Last end": ends[2]}
    return Verb("between", studio.interpolation, ends, [go.click], targets)


def _change(studio: Studio) -> Verb:
    with gr.Tab("Change", id="change"):
        image = _picture("Picture to change")
        before = gr.Textbox(label="What it shows (may be empty)", max_length=1000)
        after = gr.Textbox(label="What it should show instead", max_length=1000)
        theta = gr.Slider(0.05, 1, 0.5, step=0.05, label="How far (θ)")
        go = gr.Button("Change", variant="primary")
    inputs = [image, before, after, theta]
    return Verb("change", studio.difference, inputs, [go.click, after.submit], {"Change it": image})


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, type="pil", image_mode=None, sources=["upload", "clipboard"], height=240)
