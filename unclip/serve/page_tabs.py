"""The page's tabs: what each asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from unclip.serve.page_controller import MOST_WIDER, PageController
from unclip.serve.page_editor import bound_editor, undecoded
from unclip.serve.requests import GenerationRequest
from unclip.serve.schema import LONGEST_PROMPT

EXAMPLE: Final = "a shiba inu wearing a red beret"


@dataclass(frozen=True)
class Tab:
    """A tab: its inputs, and the request that is made of them.

    Attributes:
        build: takes the inputs' values, then `PictureSettings`.
        triggers: events that start it.
        targets: label of a button → the input that takes the chosen image.
    """

    name: str
    build: Callable[..., GenerationRequest]
    inputs: Sequence[gr.components.Component]
    triggers: Sequence[Callable[..., Any]]
    targets: dict[str, gr.components.Component]


def make_tabs(controller: PageController) -> list[Tab]:
    """Builds all tabs, inside of `gr.Tabs`."""
    return [make(controller) for make in (_draw, _vary, _edit, _extend, _between, _change)]


def _draw(controller: PageController) -> Tab:
    with gr.Tab("Draw", id="draw"):
        prompt = gr.Textbox(
            label="What the picture should show",
            placeholder=EXAMPLE,
            autofocus=True,
            max_length=LONGEST_PROMPT,
        )
        go = gr.Button("Draw", variant="primary")
    return Tab("draw", controller.generation, [prompt], [go.click, prompt.submit], {})


def _vary(controller: PageController) -> Tab:
    with gr.Tab("Vary", id="vary"):
        image = _picture("Picture to vary")
        go = gr.Button("Vary", variant="primary")
    return Tab("vary", controller.variation, [image], [go.click], {"Vary it": image})


def _edit(controller: PageController) -> Tab:
    with gr.Tab("Edit", id="edit"):
        gr.Markdown(
            "Brush over the area to change."
        )  # the editor's own label lies under its tools on a phone
        editor = gr.ImageEditor(
            show_label=False,
            type="filepath",
            sources=["upload", "clipboard"],
            transforms=(),
            brush=gr.Brush(default_size=40, colors=["#ffffff"], color_mode="fixed"),
            layers=False,
            format="png",
            elem_id="editor",
        )
        prompt = gr.Textbox(label="Describe the whole picture after the edit", max_length=LONGEST_PROMPT)
        go = gr.Button("Edit", variant="primary")
    return Tab(
        "edit",
        controller.edit,
        [bound_editor(editor), prompt],
        [go.click, prompt.submit],
        {"Edit it": editor},
    )


def _extend(controller: PageController) -> Tab:
    with gr.Tab("Extend", id="extend"):
        image = _picture("Picture to extend")
        prompt = gr.Textbox(label="Describe the larger picture", max_length=LONGEST_PROMPT)
        wider = gr.Slider(1, MOST_WIDER, 1.5, step=0.25, label="Times as wide")
        taller = gr.Slider(1, MOST_WIDER, 1, step=0.25, label="Times as tall")
        go = gr.Button("Extend", variant="primary")
    inputs = [image, prompt, wider, taller]
    return Tab("extend", controller.outpainting, inputs, [go.click, prompt.submit], {"Extend it": image})


def _between(controller: PageController) -> Tab:
    with gr.Tab("Between", id="between"):
        gr.Markdown("Pictures between two ends. Each end is a picture or, without one, a prompt.")
        with gr.Row():
            ends = []
            for which in ("First", "Last"):
                with gr.Column(min_width=140):
                    ends += [
                        _picture(f"{which} picture"),
                        gr.Textbox(label=f"{which} prompt", max_length=LONGEST_PROMPT),
                    ]
        go = gr.Button("Interpolate", variant="primary")
    targets = {"First end": ends[0], "Last end": ends[2]}
    return Tab("between", controller.interpolation, ends, [go.click], targets)


def _change(controller: PageController) -> Tab:
    with gr.Tab("Change", id="change"):
        image = _picture("Picture to change")
        before = gr.Textbox(label="What it shows (may be empty)", max_length=LONGEST_PROMPT)
        after = gr.Textbox(label="What it should show instead", max_length=LONGEST_PROMPT)
        theta = gr.Slider(0.05, 1, 0.5, step=0.05, label="How far (θ)")
        go = gr.Button("Change", variant="primary")
    inputs = [image, before, after, theta]
    return Tab("change", controller.difference, inputs, [go.click, after.submit], {"Change it": image})


def _picture(label: str) -> gr.Image:
    """An upload that is handed on as a file, for the API's reader to decode."""
    sources = ["upload", "clipboard"]
    return undecoded(gr.Image(label=label, type="filepath", image_mode=None, sources=sources, height=240))
