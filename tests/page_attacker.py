"""A hostile client of the page, and a model that shows which picture the server read."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image
from serving import Running
from starlette.routing import Mount

from unclip.pipeline.sizes import SizeGrid
from unclip.serve.app import Policy
from unclip.serve.page import mount_page
from unclip.serve.store import Store
from unclip.serve.worker import Worker


class EchoModel:
    """A model whose edits keep every pixel, so that a test can see which picture the server read."""

    name, sizes, vocabulary = "echo", (64, 256), None
    grid = SizeGrid("echo", {64: 8, 256: 32}, (64, 256))
    clip = SimpleNamespace(identity="a clip", width=1)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _made(self, image: Any, seeds: list[int]) -> Any:
        self.seen.append(image)
        out = Image.new("RGB", (256, 256))
        out.info["unclip"] = {"seed": seeds[0]}
        return SimpleNamespace(images=[out.copy() for _ in seeds], seeds=seeds, seconds={"decoder": 0.1})

    def generate(self, prompts: list[str], *, seeds: list[int], **how: Any) -> Any:
        return self._made(prompts, seeds)

    def edit(self, image: Image.Image, *args: Any, seed: list[int], **how: Any) -> Any:
        return self._made(image, seed)

    def vary(self, images: list[Image.Image], *, seed: list[int], **how: Any) -> Any:
        return self._made(images, seed)

    def upsample(self, image: Image.Image, *, seed: list[int], **how: Any) -> Any:
        return self._made(image, seed)

    def outpaint(self, image: Image.Image, *args: Any, seed: list[int], **how: Any) -> Any:
        return self._made(image, seed)

    def interpolate(self, keys: Any, n: int, *, seed: int, **how: Any) -> Any:
        return self._made(keys, [seed])

    def diff(self, image: Image.Image, *args: Any, seed: int, **how: Any) -> Any:
        return self._made(image, [seed])


class Attacker:
    """Speaks Gradio's protocol to a page."""

    def __init__(self, folder: Path) -> None:
        self.model = EchoModel()
        pipeline: Any = self.model
        worker, store = Worker(pipeline), Store(folder / "store")
        self.folder = folder
        self.server = Running(worker, store, Policy(), lambda app: mount_page(app, app.state.service, folder))
        [mount] = [one for one in self.server.app.routes if isinstance(one, Mount)]
        self.guard: Any = mount.app
        self.config = self.server.ask("GET", "/ui/config")[2]
        self.kinds = {one["id"]: one["type"] for one in self.config["components"]}

    def functions(self, kind: str, label: str = "") -> list[dict[str, Any]]:
        """The page's functions on the server that take a component of that kind, with that label."""
        return [
            one
            for one in self.config["dependencies"]
            if one["backend_fn"]
            and any(self.kinds[i] == kind and label in self._label(i) for i in one["inputs"])
        ]

    def call(self, function: dict[str, Any], kind: str, value: Any) -> list[dict[str, Any]]:
        """Runs the function with `value` for every component of that kind; returns the events."""
        defaults = {one["id"]: one["props"].get("value") for one in self.config["components"]}
        data = [value if self.kinds[i] == kind else defaults[i] for i in function["inputs"]]
        data = [
            "a cat"
            if self.kinds[i] == "textbox" and self._label(i).startswith(("What", "Describe", "First", "Last"))
            else d
            for i, d in zip(function["inputs"], data, strict=True)
        ]
        session = f"s{time.monotonic_ns()}"
        body = {"data": data, "fn_index": function["id"], "session_hash": session}
        status, _, answer = self.server.ask(
            "POST", "/ui/gradio_api/queue/join", body, {"Content-Type": "application/json"}
        )
        if status != 200:
            return [{"refused": status, "answer": answer}]
        events = self.server.ask("GET", f"/ui/gradio_api/queue/data?session_hash={session}")[2]
        return [json.loads(line[6:]) for line in events.decode().splitlines() if line.startswith("data: ")]

    def _label(self, number: int) -> str:
        [found] = [one for one in self.config["components"] if one["id"] == number]
        return str(found["props"].get("label", ""))

    def files(self) -> set[str]:
        """All files of the page's folder."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def post_form(
        self, path: str, fields: dict[str, str], data: bytes, name: str = "file"
    ) -> tuple[int, Any]:
        parts = [
            f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n'
            for key, text in fields.items()
        ]
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
        body = "".join([*parts, head]).encode() + data + b"\r\n--x--\r\n"
        status, _, answer = self.server.ask(
            "POST", path, body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        return status, answer

    def upload(self, data: bytes) -> list[str]:
        status, paths = self.post_form("/ui/gradio_api/upload", {}, data, "files")
        assert status == 200
        return list(paths)


def file_data(path: object, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def stroke() -> bytes:
    """A layer of the editor: opaque in one corner."""
    file = io.BytesIO()
    layer = Image.new("RGBA", (256, 256))
    layer.paste((255, 255, 255, 255), (0, 0, 40, 40))
    layer.save(file, "PNG")
    return file.getvalue()
