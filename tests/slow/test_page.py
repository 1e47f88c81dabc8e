"""The page in a headless browser: every tab and every button, with a tiny random model."""

from __future__ import annotations

import io
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
from serving import KEY, PROMPT, Running  # noqa: E402
from visiting import PATIENCE, PROMPT_LABEL, Visit, api, pixels, serve  # noqa: E402

from unclip.provenance.header import read_header  # noqa: E402
from unclip.provenance.watermark import detect  # noqa: E402
from unclip.vocabulary import prompt_words  # noqa: E402

expect = api.expect


def test_drawing_by_keyboard_shows_progress_and_what_made_the_pictures(visit: Visit) -> None:
    visit.few()
    visit.set("Negative prompt", "red")
    visit.prompt.focus()
    visit.page.keyboard.type(PROMPT)
    expect(visit.button("Draw")).to_be_enabled()
    visit.page.keyboard.press("Control+Enter")
    visit.page.locator("#progress [role=progressbar]").wait_for()
    visit.page.locator("#pictures img").first.wait_for()  # a picture under way
    files = visit.finished(2)
    for file in files:
        assert detect(Image.open(io.BytesIO(file))).found and pixels(file).shape == (256, 256, 3)
        assert read_header(io.BytesIO(file)).generated and PROMPT.encode() not in file
    for text in (PROMPT, "without red", "seed 7", "decoder 8 steps", "Picture 1 of 2"):
        expect(visit.line).to_contain_text(text)
    expect(visit.page.locator("#pictures")).to_contain_text("seed 8")
    expect(visit.page.locator("#settings")).to_be_hidden()
    visit.page.get_by_role("button", name="All settings as JSON").click()
    expect(visit.page.locator("#settings")).to_contain_text("candidates")
    visit.page.locator("#history .thumbnail-item").nth(1).click()
    expect(visit.line).to_contain_text("seed 8")
    assert visit.status.get_attribute("aria-live") == "polite"
    visit.prompt.focus()
    visit.page.keyboard.press("Control+Enter")
    expect(visit.page.locator("#progress")).to_contain_text("left")  # now it knows what a picture takes
    visit.finished(2)  # once, although Enter alone would draw as well


def test_a_chosen_picture_is_varied_changed_and_enlarged(visit: Visit) -> None:
    visit.few()
    for name in ("Vary it", "Edit it", "Text diff on it", "Enlarge to 1024", "Use these settings"):
        expect(visit.button(name)).to_be_disabled()
    visit.draw(PROMPT)
    visit.press("Vary it")
    visit.finished(2)
    expect(visit.line).to_contain_text("Vary:")
    visit.press("Text diff on it")
    expect(visit.button("Change")).to_be_disabled()
    visit.set("What it should show instead", "a cat")
    visit.press("Change")
    visit.finished(2)
    expect(visit.line).to_contain_text("Text diff: … → a cat")
    visit.press("Enlarge to 1024")
    [large] = visit.finished(1)
    assert pixels(large).shape == (1024, 1024, 3) and detect(Image.open(io.BytesIO(large))).found
    expect(visit.button("Enlarge to 1024")).to_be_disabled()
    expect(visit.button("Vary it")).to_be_enabled()


def test_what_the_brush_covers_is_painted_and_the_rest_stays(visit: Visit) -> None:
    visit.few(1)
    [before] = visit.draw(PROMPT, 1)
    visit.press("Edit it")
    canvas = visit.page.locator("#editor canvas").first
    canvas.wait_for()
    time.sleep(2)  # until the editor has put the picture onto its canvas; nothing on the page says when
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    clip = {"x": middle[0] - 5, "y": middle[1] - 5, "width": 10, "height": 10}
    seen = pixels(visit.page.screenshot(clip=clip)).mean(axis=(0, 1))
    visit.page.mouse.move(*middle)
    visit.page.mouse.down()
    visit.page.mouse.move(middle[0] + 20, middle[1], steps=5)
    visit.page.mouse.up()
    visit.page.mouse.move(box["x"], box["y"])
    shade = pixels(visit.page.screenshot(clip=clip)).mean(axis=(0, 1))
    brush = np.array([255, 64, 128])
    assert (
        0.2 < np.linalg.norm(shade - brush) / np.linalg.norm(seen - brush) < 0.8
    )  # one sees what lies below
    visit.set("Describe the whole picture after the edit", "a cat")
    visit.press("Edit")
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
    visit.tab("Interpolate")
    visit.set("First prompt", "a red cat")
    expect(visit.button("Interpolate")).to_be_disabled()
    visit.set("Last prompt", "a blue dog")
    visit.press("Interpolate")
    ends = visit.finished(3)
    assert np.abs(pixels(ends[0]) - pixels(ends[2])).mean() > 1
    visit.page.get_by_label("number input for Pictures").fill("1")
    visit.press("Extend it")
    visit.set("Describe the larger picture", "a cat")
    visit.press("Extend")
    [wide] = visit.finished(1)
    assert pixels(wide).shape == (256, 384, 3)


def test_errors_are_titled_and_all_pictures_are_downloaded_at_once(visit: Visit) -> None:
    expect(visit.button("Draw")).to_be_disabled()
    visit.set("Seed", "<b>seven</b>")
    visit.set(PROMPT_LABEL, PROMPT)
    visit.press("Draw")
    expect(visit.page.get_by_role("alert")).to_have_text(
        "Error Seed: <b>seven</b> is not a number from 0 to 9223372036854775797.", use_inner_text=True
    )
    visit.few()
    visit.draw(PROMPT)
    expect(visit.page.get_by_role("alert")).to_have_count(0)
    with visit.page.expect_download() as download:
        visit.page.locator("#pictures").get_by_label(re.compile("download all", re.I)).click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert len(bundle.namelist()) == 2


def test_examples_ideas_and_unknown_words(visit: Visit) -> None:
    visit.button("a panda in space").click()
    assert visit.value(PROMPT_LABEL) == "a panda in space"
    expect(visit.button("Draw")).to_be_enabled()
    visit.page.get_by_role("button", name="What this model knows").click()
    visit.page.locator("#knows").get_by_text("wizard hat", exact=True).click()
    assert visit.value(PROMPT_LABEL) == "a panda in space wizard hat"
    note = visit.page.locator(".words:has(#prompt) .unknown, #prompt .unknown").first
    expect(note).to_have_text("")
    visit.set(PROMPT_LABEL, "a zebra with a chef's hat, naïve ÉTUDE zebra")
    expect(note).to_have_text("This model does not know: zebra, naïve, étude")
    visit.set(PROMPT_LABEL, "a cat")
    expect(note).to_have_text("")
    words = "(text) => unclip.words(text)"
    for text in ("Chef's 8-bit_art—x", "  ", "it’s a 3½ ٣ ಕನ್ನಡ", "a--b 'c' d'"):
        assert visit.page.evaluate(words, text) == prompt_words(text), text


def test_prompt_and_history_survive_a_reload_until_they_are_cleared(visit: Visit) -> None:
    visit.few()
    visit.set("Negative prompt", "blue")
    visit.draw(PROMPT)
    visit.set(PROMPT_LABEL, "a cat on the beach")
    visit.page.reload()
    expect(visit.prompt).to_have_value("a cat on the beach")
    expect(visit.page.get_by_label("Negative prompt")).to_have_value("blue")
    expect(visit.button("Draw")).to_be_enabled()
    history = visit.page.locator("#history .thumbnail-item")
    expect(history).to_have_count(2)
    history.first.click()
    expect(visit.line).to_contain_text("seed 7")
    visit.press("Vary it")
    expect(visit.page.locator("#history .thumbnail-item")).to_have_count(6)
    visit.press("Clear")
    expect(history).to_have_count(0)
    visit.page.reload()
    expect(visit.prompt).to_have_value("a cat on the beach")
    time.sleep(1)
    expect(history).to_have_count(0)


def test_settings_of_a_picture_are_used_again(visit: Visit) -> None:
    visit.few()
    visit.set("Negative prompt", "red")
    files = visit.draw(PROMPT)
    for label in (PROMPT_LABEL, "Negative prompt", "Seed", "Steps of the decoder"):
        visit.set(label, "")
    visit.page.get_by_label("number input for Pictures").fill("1")
    visit.page.locator("#history .thumbnail-item").nth(1).click()
    expect(visit.line).to_contain_text("seed 8")
    visit.press("Use its seed")
    expect(visit.page.get_by_label("Seed", exact=True)).to_have_value("8")
    assert visit.value(PROMPT_LABEL) == ""
    visit.tab("Vary")
    visit.press("Use these settings")
    expect(visit.prompt).to_have_value(PROMPT)
    values = [visit.value(label) for label in ("Negative prompt", "Seed", "Steps of the decoder")]
    assert values == ["red", "8", "8"]
    visit.page.get_by_label("number input for Pictures").fill("1")
    visit.press("Draw")
    [again] = visit.finished(1)
    assert np.abs(pixels(again) - pixels(files[1])).max() <= 2


def test_a_picture_is_verified(visit: Visit, tmp_path: Path) -> None:
    visit.few(1)
    [made] = visit.draw(PROMPT, 1)
    own, plain = tmp_path / "own.png", tmp_path / "plain.png"
    own.write_bytes(made)
    Image.linear_gradient("L").save(plain)
    visit.tab("Verify")
    panel = visit.page.locator("#findings")
    for path, verdict, mark in (
        (own, "Made by a model", "trainedAlgorithmicMedia"),
        (plain, "No mark", "nothing"),
    ):
        expect(visit.button("Verify")).to_be_disabled()
        visit.page.locator("[role=tabpanel] input[type=file]").locator("visible=true").or_(
            visit.page.locator("[role=tabpanel]:not([style*=none]) input[type=file]")
        ).last.set_input_files(path)
        visit.press("Verify")
        expect(panel).to_contain_text(verdict)
        expect(panel).to_contain_text(mark)
        visit.page.get_by_label("Clear").or_(visit.page.get_by_label("Remove Image")).locator(
            "visible=true"
        ).first.click()
        expect(panel).to_have_text("")


def test_the_page_offers_programs_nothing_beside_the_api(page_server: Running) -> None:
    assert page_server.ask("GET", "/ui/gradio_api/info")[2]["named_endpoints"] == {}


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
        page.get_by_label(PROMPT_LABEL).wait_for()
        context.close()
    finally:
        server.stop()
