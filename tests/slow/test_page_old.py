"""The page in a headless browser: every tab, with a tiny random model."""

from __future__ import annotations

import io
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="needs unclip[page]")
api = pytest.importorskip("playwright.sync_api", reason="needs unclip[browser]")
from serving import KEY, PROMPT, Running  # noqa: E402

from unclip.pipeline import Pipeline  # noqa: E402
from unclip.provenance.header import read_header  # noqa: E402
from unclip.provenance.watermark import detect  # noqa: E402
from unclip.serve import worker  # noqa: E402
from unclip.serve.app import Policy  # noqa: E402
from unclip.serve.page import mount_page  # noqa: E402
from unclip.serve.store import Store  # noqa: E402
from unclip.serve.worker import Worker  # noqa: E402

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    api.expect.set_options(timeout=PATIENCE)  # not the five seconds that a busy machine may take to answer
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GRADIO_TEMP_DIR", "")  # which `mount_page` sets: afterwards it is as it was
        server = serve(tiny_model, tmp_path_factory.mktemp("page"))
        yield server
        server.stop()


def serve(model: Path, folder: Path, keys: tuple[str, ...] = ()) -> Running:
    drawer, store = Worker(Pipeline.from_pretrained(str(model), device="cpu")), Store(folder / "store")
    return Running(
        drawer, store, Policy(keys=keys), lambda app: mount_page(app, app.state.service, folder, keys)
    )


class Visit:
    """Somebody at the page; nothing may appear in the console, and nothing may be fetched from elsewhere."""

    def __init__(self, browser: Any, port: int, width: int = 1280) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.complaints: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.page = page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._look(request.url))
        page.goto(self.url)
        page.get_by_label("What the picture should show").wait_for()

    def _look(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(f"fetches {url}")

    def set(self, label: str, value: object) -> None:
        self.page.get_by_label(label, exact=True).first.fill(str(value))

    def few(self, count: int = 2) -> None:
        """Fewer steps and pictures, for a test has no time."""
        self.page.get_by_role("button", name="Advanced").click()
        self.set("Steps of the decoder", 8)
        self.page.get_by_label("number input for How many pictures").fill(str(count))
        self.set("Seed", 7)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def finished(self, count: int) -> list[bytes]:
        """The pictures' files, once so many of the gallery are done."""
        self.page.locator("#status", has_text="Done.").wait_for()
        found = self.page.locator("#pictures .thumbnail-item img, #pictures .grid-wrap img")
        api.expect(found).to_have_count(count)
        return [self.context.request.get(found.nth(i).get_attribute("src")).body() for i in range(count)]

    def end(self) -> None:
        self.context.close()
        assert not self.complaints


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture
def visit(browser: Any, running: Running) -> Iterator[Visit]:
    one = Visit(browser, running.port)
    yield one
    one.end()


def test_drawing_by_keyboard_shows_pictures_as_they_form_and_what_made_them(visit: Visit) -> None:
    visit.few()
    prompt = visit.page.get_by_label("What the picture should show")
    prompt.focus()
    visit.page.keyboard.type(PROMPT)
    visit.page.keyboard.press("Enter")
    visit.page.locator("#pictures img").first.wait_for()  # a picture under way
    files = visit.finished(2)
    for file in files:
        assert detect(Image.open(io.BytesIO(file))).found and pixels(file).shape == (256, 256, 3)
        assert read_header(io.BytesIO(file)).generated and PROMPT.encode() not in file
    settings = visit.page.locator("#settings")
    api.expect(settings).to_contain_text(PROMPT)
    api.expect(settings).to_contain_text("7")
    visit.page.locator("#history .thumbnail-item").nth(1).click()
    api.expect(settings).to_contain_text("8")


def test_a_chosen_picture_is_varied_extended_and_changed(visit: Visit) -> None:
    visit.few()
    visit.set("What the picture should show", PROMPT)
    visit.press("Draw")
    visit.finished(2)
    visit.press("Vary it")
    visit.page.locator("[role=tabpanel] img").locator("visible=true").first.wait_for()
    visit.press("Vary")
    visit.page.locator("#status", has_text="Drawing").wait_for()
    assert len(visit.finished(2)) == 2
    api.expect(visit.page.locator("#settings")).to_contain_text("vary")
    visit.press("Change it")
    visit.set("What it should show instead", "a cat")
    visit.press("Change")
    visit.page.locator("#status", has_text="Drawing").wait_for()
    visit.finished(2)
    api.expect(visit.page.locator("#settings")).to_contain_text("diff")
    api.expect(visit.page.locator("#history .thumbnail-item")).to_have_count(6)


def test_what_the_brush_covers_is_painted_and_the_rest_stays(visit: Visit) -> None:
    visit.few(1)
    visit.set("What the picture should show", PROMPT)
    visit.press("Draw")
    [before] = visit.finished(1)
    visit.press("Edit it")
    canvas = visit.page.locator("#editor canvas").first
    canvas.wait_for()
    time.sleep(2)  # until the editor has put the picture onto its canvas; nothing on the page says when
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    visit.page.mouse.move(*middle)
    visit.page.mouse.down()
    visit.page.mouse.move(middle[0] + 20, middle[1], steps=5)
    visit.page.mouse.up()
    visit.set("Describe the whole picture after the edit", "a cat")
    visit.press("Edit")
    visit.page.locator("#status", has_text="Drawing").wait_for()
    [after] = visit.finished(1)
    changed = (
        np.abs(pixels(after) - pixels(before)).max(axis=-1) > 24
    )  # the watermark changes all of it a little
    assert changed[100:156, 100:180].mean() > 0.05 and changed[:60].mean() < 0.01
    assert read_header(io.BytesIO(after)).generated == (
        "xmp: compositeWithTrainedAlgorithmicMedia",
        "settings of unclip",
    )


def test_the_way_between_two_prompts_and_a_picture_extended(visit: Visit) -> None:
    visit.few(3)
    visit.page.get_by_role("tab", name="Between").click()
    visit.set("First prompt", "a red cat")
    visit.set("Last prompt", "a blue dog")
    visit.press("Interpolate")
    ends = visit.finished(3)
    assert np.abs(pixels(ends[0]) - pixels(ends[2])).mean() > 1
    visit.page.get_by_label("number input for How many pictures").fill("1")
    visit.press("Extend it")
    visit.set("Describe the larger picture", "a cat")
    visit.press("Extend")
    visit.page.locator("#status", has_text="Drawing").wait_for()
    [wide] = visit.finished(1)
    assert pixels(wide).shape == (256, 384, 3)


def test_errors_are_plain_words_and_all_pictures_are_downloaded_at_once(visit: Visit) -> None:
    visit.press("Draw")
    api.expect(visit.page.locator("#status")).to_contain_text(
        "the prompt is empty; say what the picture should show"
    )
    visit.few()
    visit.set("What the picture should show", PROMPT)
    visit.press("Draw")
    visit.finished(2)
    with visit.page.expect_download() as download:
        visit.page.locator("#pictures").get_by_label(re.compile("download all", re.I)).click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert len(bundle.namelist()) == 2


def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Any, running: Running) -> None:
    phone = Visit(browser, running.port, width=375)
    phone.set("What the picture should show", PROMPT)
    phone.press("Draw")  # as the page is when it opens, with everything under "Advanced" left alone
    phone.finished(4)
    for use in ("Vary it", "Edit it", "Extend it", "First end", "Change it", None):
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 375, use
        below = "el => el.getBoundingClientRect().top - document.querySelector('#pictures').getBoundingClientRect().top"
        assert phone.page.locator("#status").evaluate(below) < 450  # no empty space under four small pictures
        if use:
            phone.press(use)
            phone.page.locator("[role=tabpanel] :is(img, canvas)").locator("visible=true").first.wait_for()
    phone.end()


def test_it_is_painted_and_little_is_loaded(visit: Visit) -> None:
    entry = "performance.getEntriesByName('first-contentful-paint')"
    visit.page.wait_for_function(f"{entry}.length > 0")
    painted = visit.page.evaluate(f"{entry}[0].startTime")
    loaded = visit.page.evaluate(
        "performance.getEntriesByType('resource').reduce((all, one) => all + one.transferSize, 0)"
    )
    print(f"first contentful paint after {painted:.0f} ms; {loaded / 1000:.0f} kB fetched")
    assert loaded < 1_000_000


def test_the_page_offers_programs_nothing_beside_the_api(running: Running) -> None:
    assert running.ask("GET", "/ui/gradio_api/info")[2]["named_endpoints"] == {}


def test_a_server_with_keys_asks_the_page_for_one(
    browser: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    server = serve(tiny_model, tmp_path, (KEY,))
    try:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{server.port}/ui")
        page.get_by_label("password").wait_for()
        assert server.ask("GET", "/ui/config", headers={"Authorization": ""})[0] == 401
        page.get_by_label("username").fill("me")
        page.get_by_label("password").fill(KEY)
        page.get_by_role("button", name="Login").click()
        page.get_by_label("What the picture should show").wait_for()
        context.close()
    finally:
        server.stop()


class Counted:
    """Denoising steps that a server's worker takes, and how many it had taken when work was given up."""

    def __init__(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.at_end = 0, -1
        watch, cancel = worker._watch, server.worker.cancel

        def counted(jobs: Any) -> Any:
            on_step = watch(jobs)

            def count(*step: Any) -> None:
                self.steps += 1
                on_step(*step)

            return count

        def cancelled(job: Any) -> None:
            cancel(job)
            self.at_end = self.steps

        monkeypatch.setattr(worker, "_watch", counted)
        monkeypatch.setattr(server.worker, "cancel", cancelled)

    def wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE / 1000
        while not done():
            assert time.monotonic() < end
            time.sleep(0.01)

    def ended(self) -> int:
        """Steps that were taken after the work had been given up, once there are no more."""
        self.wait(lambda: self.at_end >= 0)
        time.sleep(1)
        return self.steps - self.at_end


@pytest.mark.parametrize("leaves", [False, True])
def test_work_stops_after_the_step_being_made(
    browser: Any, running: Running, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    visit, counted = Visit(browser, running.port), Counted(running, monkeypatch)
    visit.page.get_by_role("button", name="Advanced").click()
    visit.set("Steps of the decoder", 250)
    visit.set("What the picture should show", PROMPT)
    visit.press("Draw")
    visit.page.locator("#status", has_text="Drawing").wait_for()
    counted.wait(lambda: counted.steps > 20)
    if leaves:
        visit.page.close()
    else:
        visit.press("Stop")
        visit.page.locator("#status", has_text="Stopped.").wait_for()
    assert counted.ended() <= 1
    if not leaves:  # and the page draws on
        visit.set("Steps of the decoder", 8)
        visit.press("Draw")
        visit.finished(4)
    visit.end()
