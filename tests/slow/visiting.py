"""A visitor of the page in a headless browser, and a server of a tiny random model for it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs unclip[page]")
api = pytest.importorskip("playwright.sync_api", reason="needs unclip[browser]")
from serving import Running  # noqa: E402

from unclip.pipeline import Pipeline  # noqa: E402
from unclip.serve.app import Policy  # noqa: E402
from unclip.serve.page import mount_page  # noqa: E402
from unclip.serve.store import Store  # noqa: E402
from unclip.serve.worker import Worker  # noqa: E402

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PATIENCE = 60_000  # milliseconds
PROMPT_LABEL = "What the picture should show"


def serve(model: Path, folder: Path, keys: tuple[str, ...] = ()) -> Running:
    drawer, store = Worker(Pipeline.from_pretrained(str(model), device="cpu")), Store(folder / "store")
    return Running(
        drawer, store, Policy(keys=keys), lambda app: mount_page(app, app.state.service, folder, keys)
    )


class Visit:
    """Somebody at the page; no error may appear in the console, and nothing may be fetched from elsewhere."""

    def __init__(self, browser: Any, port: int, width: int = 1280, height: int = 720, **more: Any) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.complaints: list[str] = []
        self.kept = 0  # pictures in the history
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, **more
        )
        self.page = page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._look(request.url))
        page.goto(self.url)
        self.prompt.wait_for()

    def _look(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(f"fetches {url}")

    @property
    def prompt(self) -> Any:
        return self.page.get_by_label(PROMPT_LABEL)

    @property
    def status(self) -> Any:
        return self.page.locator("#status")

    @property
    def line(self) -> Any:
        """Settings of the chosen picture."""
        return self.page.locator("#line")

    def set(self, label: str, value: object) -> None:
        self.page.get_by_label(label, exact=True).first.fill(str(value))

    def value(self, label: str) -> str:
        return str(self.page.get_by_label(label, exact=True).first.input_value())

    def few(self, count: int = 2) -> None:
        """Fewer steps and pictures, for a test has no time."""
        self.page.get_by_role("button", name="Advanced").click()
        self.set("Steps of the decoder", 8)
        self.page.get_by_label("number input for Pictures").fill(str(count))
        self.set("Seed", 7)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True).locator("visible=true")

    def press(self, name: str) -> None:
        api.expect(self.button(name)).to_be_enabled()
        self.button(name).click()

    def draw(self, prompt: str, count: int = 2) -> list[bytes]:
        """Draws on the first tab."""
        self.set(PROMPT_LABEL, prompt)
        self.press("Draw")
        return self.finished(count)

    def finished(self, count: int) -> list[bytes]:
        """The gallery's files, once the given number of further pictures is done."""
        self.kept += count
        api.expect(self.page.locator("#history .thumbnail-item")).to_have_count(self.kept)
        api.expect(self.status).to_contain_text(f"Done: {count} picture")
        found = self.page.locator('#pictures .grid-wrap img[src*="/unclip-"]')
        api.expect(found).to_have_count(count)
        return [self.context.request.get(found.nth(i).get_attribute("src")).body() for i in range(count)]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
