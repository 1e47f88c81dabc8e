"""How the page looks at three widths, and how its work is stopped, in a headless browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow
from serving import PROMPT, Running  # noqa: E402
from visiting import PATIENCE, PROMPT_LABEL, Visit, api  # noqa: E402

from unclip.serve import worker  # noqa: E402

expect = api.expect
TABS = ("Draw", "Vary", "Edit", "Extend", "Interpolate", "Text diff", "Enlarge", "Verify")
# Texts that are cut off: wider than their box.
CLIPPED = """[...document.querySelectorAll('button, label, h1, h2, [role=tab], .says p, #line p, #status p')]
    .filter(one => one.offsetParent && !one.matches('.label-wrap') && one.clientWidth > 1)
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => one.innerText)"""
# Controls that a finger misses: below 44 px on the shorter side. A label's field counts with its label.
SMALL = """[...document.querySelectorAll('button, [role=tab], textarea, select, input, :is(#size, #shape) label')]
    .filter(one => one.offsetParent && !one.closest(':is(#size, #shape) label input, .tab-container[aria-hidden]'))
    .filter(one => !one.matches(':is(#size, #shape) input, input[type=file]'))
    .map(one => [one.innerText || one.ariaLabel || one.className, one.getBoundingClientRect()])
    .filter(([, box]) => box.height < 43.5 || box.width < 43.5)
    .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
# The WCAG contrast of texts against the nearest opaque background.
CONTRAST = """() => {
    const rgb = text => (text.match(/[0-9.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = one => {
        for (; one; one = one.parentElement) {
            const colour = rgb(getComputedStyle(one).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const texts = '.says p, .unknown, .chips button, .chips span, [role=tab], #line p, #line .place,' +
        '#status p, .error p, #top p, #past h2, #uses button, #chosen button, .go, label span, .findings dt';
    return [...document.querySelectorAll(texts)]
        .filter(one => one.offsetParent && one.innerText && !one.closest('button:disabled'))
        .map(one => {
            const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))];
            return [one.innerText, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        })
        .filter(([, ratio]) => ratio < 4.5).map(([text, ratio]) => `${text}: ${ratio.toFixed(1)}`);
}"""


def in_view(visit: Visit, *selectors: str) -> None:
    """Fails unless all of each element is in the window."""
    size = visit.page.viewport_size
    for selector in selectors:
        box = visit.page.locator(selector).locator("visible=true").first.bounding_box()
        assert box["x"] >= 0 and box["y"] >= 0, selector
        assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"], (
            selector
        )


def sideways(visit: Visit) -> int:
    return int(visit.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1920, 1080)])
def test_prompt_options_and_pictures_are_in_one_view(
    visitors: Callable[..., Visit], width: int, height: int
) -> None:
    visit = visitors(width, height)
    visit.few()
    visit.page.get_by_role("button", name="Advanced").click()
    for count in (1, 4, 10):
        visit.page.get_by_label("number input for Pictures").fill(str(count))
        visit.draw("a zebra on the beach, with a long prompt that takes more than one line", count)
        visit.page.evaluate("scrollTo(0, 0)")
        in_view(visit, "#prompt", "button.go", "#count", "#size", "#shape", "#negative", "#seed", "#advanced")
        in_view(visit, "#status", "#pictures", "#line", "#uses", "#json", "#uses button:last-child")
        pictures = visit.page.locator("#pictures .grid-wrap img")
        boxes = [pictures.nth(i).bounding_box() for i in range(count)]
        frame = visit.page.locator("#pictures").bounding_box()
        for box in boxes:
            assert abs(box["width"] - box["height"]) < 4 and box["width"] > (110 if count == 10 else 150)
            assert box["y"] >= frame["y"] and box["y"] + box["height"] <= frame["y"] + frame["height"]
        assert sideways(visit) <= 0 and visit.page.evaluate(CLIPPED) == []


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visitors: Callable[..., Visit]) -> None:
    phone = visitors(390, 844, has_touch=True)
    phone.set(PROMPT_LABEL, PROMPT)
    phone.press("Draw")  # as the page is when it opens, with everything under "Advanced" left alone
    expect(phone.status).to_be_in_viewport()  # the page goes there by itself
    phone.finished(4)
    frame = phone.page.locator("#pictures").bounding_box()
    assert frame["height"] < 420  # no empty space under four small pictures
    for tab in TABS:
        phone.tab(tab)
        assert sideways(phone) <= 0 and phone.page.evaluate(CLIPPED) == []
        assert phone.page.evaluate(SMALL) == []
    for use in ("Edit it", "Extend it", "Interpolate from it", "Text diff on it"):
        phone.press(use)
        phone.page.locator("[role=tabpanel] :is(img, canvas)").locator("visible=true").first.wait_for()
        expect(phone.page.get_by_role("tab", name="Draw")).to_be_in_viewport()
        assert sideways(phone) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(visitors: Callable[..., Visit], scheme: str) -> None:
    visit = visitors(color_scheme=scheme)
    visit.few(1)
    visit.draw("a zebra", 1)
    assert visit.page.evaluate(CONTRAST) == []
    visit.set("Seed", "x")
    visit.press("Draw")
    visit.page.get_by_role("alert").wait_for()
    assert visit.page.evaluate(CONTRAST) == []
    for tab in TABS:
        visit.tab(tab)
        assert visit.page.evaluate(CONTRAST) == []


def test_it_is_painted_and_little_is_loaded(visit: Visit) -> None:
    entry = "performance.getEntriesByName('first-contentful-paint')"
    visit.page.wait_for_function(f"{entry}.length > 0")
    painted = visit.page.evaluate(f"{entry}[0].startTime")
    loaded = visit.page.evaluate(
        "performance.getEntriesByType('resource').reduce((all, one) => all + one.transferSize, 0)"
    )
    print(f"first contentful paint after {painted:.0f} ms; {loaded / 1000:.0f} kB fetched")
    assert loaded < 1_000_000


class Counted:
    """Denoising steps that a server's worker takes, and how many it had taken when work was given up."""

    def __init__(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.at_end = 0, -1
        watch, cancel = worker._watch, server.worker.cancel

        def counted(*batch: Any) -> Any:
            on_step = watch(*batch)

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
    visit: Visit, page_server: Running, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    counted = Counted(page_server, monkeypatch)
    visit.page.get_by_role("button", name="Advanced").click()
    visit.set("Steps of the decoder", 250)
    visit.set(PROMPT_LABEL, PROMPT)
    visit.press("Draw")
    visit.page.locator("#progress [role=progressbar]").wait_for()
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
