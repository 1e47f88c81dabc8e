"""The page's tabs: what each asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from unclip.errors import UnclipError
from unclip.serve import page_words
from unclip.serve.page_controller import MOST_WIDER, PageController
from unclip.serve.page_editor import bound_editor, undecoded
from unclip.serve.requests import GenerationRequest
from unclip.serve.schema import LONGEST_PROMPT

PRIVATE: Final[dict[str, Any]] = {"api_visibility": "private"}  # no API beside the one at /v1
BRUSH: Final = "rgba(255, 64, 128, 0.5)"  # translucent, so that one sees what lies below


@dataclass(frozen=True)
class Tab:
    """A tab: its inputs, and the request that is made of them.

    Attributes:
        build: takes the inputs' values, then `PictureSettings`.
        ready: the inputs that must not be empty, by their places; of a tuple, one of them.
        submits: text fields in which Enter starts it.
        targets: label of a button → the input that takes the chosen image.
        at_once: whether such a button also starts it.
        most: side in pixels of an image from which the tab has nothing to do.
    """

    name: str
    build: Callable[..., GenerationRequest]
    inputs: Sequence[gr.components.Component]
    go: gr.Button
    ready: Sequence[int | tuple[int, ...]] = (0,)
    submits: Sequence[gr.Textbox] = ()
    targets: dict[str, gr.components.Component] = field(default_factory=dict)
    at_once: bool = False
    most: float = math.inf

    @property
    def triggers(self) -> list[Callable[..., Any]]:
        """The events that start it."""
        return [self.go.click, *(text.submit for text in self.submits)]

    def switch(self) -> None:
        """Turns the button on when there is something to act on, in the browser."""
        needed = [one if isinstance(one, tuple) else (one,) for one in self.ready]
        ready = " && ".join(f"({' || '.join(f'unclip.has(v[{i}])' for i in one)})" for one in needed)
        gr.on(
            [part.change for part in self.inputs if isinstance(part, gr.Textbox | gr.Image | gr.ImageEditor)],
            None,
            list(self.inputs),
            [self.go],
            js=f"(...v) => unclip.changed({ready})",
            **PRIVATE,
        )


def make_tabs(controller: PageController) -> list[Tab]:
    """Builds all tabs that draw, inside of `gr.Tabs`."""
    makers = [_draw, _vary, _edit, _extend, _interpolate, _diff]
    if len(controller.sizes) > 1:
        makers.append(_enlarge)
    tabs = [make(controller) for make in makers]
    for tab in tabs:
        tab.switch()
    return tabs


def _draw(controller: PageController) -> Tab:
    with gr.Tab("Draw", id="draw"):
        prompt = prompt_box("What the picture should show", page_words.EXAMPLES[0], elem_id="prompt")
        go = _go("Draw")
        gr.HTML(page_words.examples(controller.vocabulary), elem_classes=["ideas"])
        if controller.vocabulary is not None:
            with gr.Accordion("What this model knows", open=False, elem_id="knows"):
                gr.HTML(page_words.ideas(controller.vocabulary), elem_classes=["ideas"])
    return Tab("draw", controller.generation, [prompt], go, submits=[prompt])


def _vary(controller: PageController) -> Tab:
    with gr.Tab("Vary", id="vary"):
        _says("Pictures with the same content and style, and other details.")
        image = picture("Picture to vary")
        go = _go("Vary")
    return Tab("vary", controller.variation, [image], go, targets={"Vary it": image}, at_once=True)


def _edit(controller: PageController) -> Tab:
    with gr.Tab("Edit", id="edit"):
        _says("Brush over the area to change. Everything else stays as it is.")
        editor = gr.ImageEditor(
            show_label=False,  # it would lie under the tools on a phone
            type="filepath",
            sources=["upload", "clipboard"],
            transforms=(),
            brush=gr.Brush(default_size=40, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
            layers=False,
            format="png",
            height=400,
            elem_id="editor",
        )
        prompt = prompt_box("Describe the whole picture after the edit")
        go = _go("Edit")
    inputs = [bound_editor(editor), prompt]
    return Tab("edit", controller.edit, inputs, go, (0, 1), [prompt], {"Edit it": editor})


def _extend(controller: PageController) -> Tab:
    with gr.Tab("Extend", id="extend"):
        _says("A larger picture: new surroundings are painted around yours.")
        image = picture("Picture to extend")
        prompt = prompt_box("Describe the larger picture")
        with gr.Row():
            wider = gr.Slider(1, MOST_WIDER, 1.5, step=0.25, label="Times as wide", min_width=150)
            taller = gr.Slider(1, MOST_WIDER, 1, step=0.25, label="Times as tall", min_width=150)
        go = _go("Extend")
    inputs = [image, prompt, wider, taller]
    return Tab("extend", controller.outpainting, inputs, go, (0, 1), [prompt], {"Extend it": image})


def _interpolate(controller: PageController) -> Tab:
    with gr.Tab("Interpolate", id="interpolate"):
        _says("A series of pictures from the first end to the last. Each end is a picture or a prompt.")
        with gr.Row():
            ends: list[Any] = []
            for which in ("First", "Last"):
                with gr.Column(min_width=140):
                    ends += [picture(f"{which} picture", height=200), prompt_box(f"{which} prompt")]
        go = _go("Interpolate")
    targets = {"Interpolate from it": ends[0], "Interpolate to it": ends[2]}
    ready = ((0, 1), (2, 3))
    return Tab("interpolate", controller.interpolation, ends, go, ready, [ends[1], ends[3]], targets)


def _diff(controller: PageController) -> Tab:
    with gr.Tab("Text diff", id="diff"):
        _says("Pictures that turn step by step from one caption to another.")
        image = picture("Picture to change")
        before = prompt_box("What it shows (may be empty)")
        after = prompt_box("What it should show instead")
        theta = gr.Slider(0.05, 1, 0.5, step=0.05, label="How far (θ)")
        go = _go("Change")
    inputs = [image, before, after, theta]
    return Tab("diff", controller.difference, inputs, go, (0, 2), [before, after], {"Text diff on it": image})


def _enlarge(controller: PageController) -> Tab:
    side = controller.sizes[-1]
    with gr.Tab("Enlarge", id="enlarge"):
        _says(f"The middle square of a picture at {side} × {side} pixels, with new detail.")
        image = picture("Picture to enlarge")
        go = _go("Enlarge")
    targets = {f"Enlarge to {side}": image}
    return Tab("enlarge", controller.enlargement, [image], go, targets=targets, at_once=True, most=side)


def make_verify_tab(controller: PageController) -> None:
    """Builds the tab that looks for a picture's marks, inside of `gr.Tabs`."""
    with gr.Tab("Verify", id="verify"):
        _says("Was a picture made by a model? Looks for the marks in its file and in its pixels.")
        image = picture("Picture to verify")
        go = _go("Verify")
        found = gr.HTML(elem_id="findings")

    async def verify(upload: str | None) -> str:
        try:
            findings = await controller.verify(upload)
        except UnclipError as error:
            return page_words.error(str(error))
        return page_words.findings(findings.verdict, findings.marks)

    go.click(verify, [image], [found], **PRIVATE)
    image.change(None, [image], [go], js="v => unclip.changed(unclip.has(v))", **PRIVATE)
    image.clear(lambda: "", None, [found], show_progress="hidden", **PRIVATE)


def prompt_box(label: str, placeholder: str = "", **more: Any) -> gr.Textbox:
    """A text field that says which words the model does not know. Enter starts the tab."""
    return gr.Textbox(
        label=label,
        placeholder=placeholder,
        max_lines=6,
        max_length=LONGEST_PROMPT,
        elem_classes=["words"],
        **more,
    )


def picture(label: str, height: int = 240) -> gr.Image:
    """An upload that is handed on as a file, for the API's reader to decode."""
    sources = ["upload", "clipboard"]
    image = gr.Image(label=label, type="filepath", image_mode=None, sources=sources, height=height)
    return undecoded(image)


def _says(text: str) -> None:
    gr.HTML(f"<p>{text}</p>", elem_classes=["says"])


def _go(label: str) -> gr.Button:
    return gr.Button(label, variant="primary", interactive=False, elem_classes=["go"])
