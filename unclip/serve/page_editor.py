"""Gradio's picture inputs without its decoder and within bounds.

Gradio decodes uploads of any size, and its editor keeps what browsers send in memory, without a limit, until
it is used. Methods are replaced on the instances: Gradio writes a stub file beside the source of every
subclass.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr
from gradio.components.base import server

MOST_BYTES: Final = 128 << 20  # of all uploads that wait; the oldest are dropped
MOST_LAYERS: Final = 4


@dataclass
class _Drawing:
    background: bytes | None = None
    layers: dict[int, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.background or b"") + sum(map(len, self.layers.values()))


class EditorUploads:
    """What browsers have sent of drawings whose button is not yet pressed, by the drawing's id."""

    def __init__(self) -> None:
        self._drawings: OrderedDict[str, _Drawing] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, drawing: str, kind: str, index: str, data: bytes) -> None:
        """Keeps a background or a layer; anything else is ignored."""
        with self._lock:
            current = self._drawings.pop(drawing, None) or _Drawing()
            if kind == "background":
                current.background = data
            elif kind == "layer" and index in map(str, range(MOST_LAYERS)):
                current.layers[int(index)] = data
            self._drawings[drawing] = current
            while sum(one.size for one in self._drawings.values()) > MOST_BYTES:
                self._drawings.popitem(last=False)

    def take(self, drawing: str) -> dict[str, Any] | None:
        """Returns a drawing and forgets it."""
        with self._lock:
            found = self._drawings.pop(drawing, None)
        if found is None:
            return None
        return {"background": found.background, "layers": [data for _, data in sorted(found.layers.items())]}


def undecoded(image: gr.Image) -> gr.Image:
    """Makes an image input hand on the path of its upload."""
    image.preprocess = lambda payload: payload and payload.path
    return image


def bound_editor(editor: gr.ImageEditor) -> gr.ImageEditor:
    """Makes an editor keep its uploads within bounds, and hand them on as files."""
    uploads = EditorUploads()

    @server  # type: ignore[untyped-decorator]
    def accept_blobs(data: Any) -> None:
        fields, files = getattr(data, "data", None), getattr(data, "files", None)
        if isinstance(fields, dict) and files:
            drawing, kind, index = (str(fields.get(key, "")) for key in ("id", "type", "index"))
            uploads.add(drawing, kind, index, files[0][1])

    def preprocess(payload: Any) -> dict[str, Any] | None:
        if payload is None:
            return None
        if payload.id is not None:
            return uploads.take(payload.id)
        background = payload.background and payload.background.path
        return {"background": background, "layers": [layer.path for layer in payload.layers if layer]}

    editor.accept_blobs, editor.preprocess = accept_blobs, preprocess
    return editor
