"""What the page says: nothing that a visitor wrote becomes markup, and what is offered is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import unclip
from unclip.serve import page_words
from unclip.serve.page_album import MOST_REMEMBERED, PageAlbum, PagePicture
from unclip.serve.progress import Progress

ATTACK = '<img src=x onerror="alert(1)">'


def mini_vocabulary() -> set[str]:
    index = Path(unclip.__file__).parent / "bundled" / "mini" / "model_index.json"
    return set(json.loads(index.read_text())["vocabulary"])


def test_mini_knows_all_that_the_page_offers() -> None:
    words = mini_vocabulary()
    offered = [*page_words.EXAMPLES, *", ".join(page_words.IDEAS.values()).split(", ")]
    assert [phrase for phrase in offered if not page_words.known(phrase, words)] == []


def test_a_model_is_offered_what_it_knows_only() -> None:
    assert page_words.examples({"a", "panda", "in", "space"}).count("data-prompt") == 1
    assert page_words.examples({"dragon"}) == ""
    assert page_words.examples(None).count("data-prompt") == len(page_words.EXAMPLES)
    assert 'data-add="fox"' in page_words.ideas({"fox"}) and "corgi" not in page_words.ideas({"fox"})


@pytest.mark.parametrize(
    "html",
    [
        page_words.error(ATTACK),
        page_words.describe({"prompt": ATTACK, "negative": ATTACK, "seed": ATTACK, "size": ATTACK}),
        page_words.describe({"verb": "diff", "before": ATTACK, "after": ATTACK, "theta": ATTACK}),
        page_words.describe({"verb": "interpolate", "from": ATTACK, "to": ATTACK}),
        page_words.describe({"verb": "outpaint", "to": ATTACK, "size": 256}),
        page_words.describe({"stages": {"prior": {"steps": ATTACK, "guidance": ATTACK}}}),
        page_words.ideas({ATTACK}),
        page_words.findings(ATTACK, {ATTACK: ATTACK}),
        page_words.bar(Progress(ATTACK, 1, 2)),
        page_words.vocabulary_script({"</script>" + ATTACK}).removesuffix("</script>"),
    ],
)
def test_no_word_becomes_markup(html: str) -> None:
    assert "<img" not in html and "</script>" not in html


def test_settings_are_a_line_to_read() -> None:
    settings = {
        "prompt": "a cat",
        "negative": "red",
        "seed": 3,
        "size": 256,
        "stages": {"prior": {"steps": 16, "guidance": 1.5}, "decoder": {"steps": 25, "guidance": 2.5}},
    }
    line = page_words.describe(settings, "Picture 1 of 4")
    for part in ("Picture 1 of 4", "Draw: ", "<b>a cat</b>", "without red", "seed 3", "256 px"):
        assert part in line
    assert "prior 16 steps, guidance 1.5" in line and "decoder 25 steps, guidance 2.5" in line
    assert "384x256 px" in page_words.describe(
        {"verb": "outpaint", "prompt": "a", "to": "384x256", "size": 256}
    )
    assert "a cat</b> → <b>a dog" in page_words.describe(
        {"verb": "diff", "before": "a cat", "after": "a dog"}
    )


def test_progress_says_the_stage_and_the_time_that_is_left() -> None:
    assert "Decoder, step 5 of 25<" in page_words.bar(Progress("decoder", 5, 25))
    assert "about 12 s left" in page_words.bar(Progress("upsampler-256", 1, 4, 0.4, 12.2))
    assert "Upsampler to 256 pixels" in page_words.bar(Progress("upsampler-256", 1, 4, 0.4, 12.2))
    assert "about 3 min left" in page_words.bar(Progress("prior", 1, 4, 0.01, 170))
    assert 'aria-valuenow="40"' in page_words.bar(Progress("upsampler-256", 1, 4, 0.4, 12.2))


def test_an_album_remembers_and_recalls_its_newest_pictures(tmp_path: Path) -> None:
    album = PageAlbum(tmp_path)
    kept = album.keep([(b"one", {"seed": 7}), (b"two", {"seed": 8})], {"tab": "draw"})
    assert [Path(one.path).read_bytes() for one in kept] == [b"one", b"two"]
    stored = json.loads(json.dumps(album.remember(kept)))
    assert str(tmp_path) not in json.dumps(stored)
    assert album.recall(stored) == kept
    assert len(album.remember([PagePicture("a/b", {}, {})] * 200)) == MOST_REMEMBERED
    assert len(album.remember([PagePicture("a/b", {"prompt": "é" * 1000}, {})] * 100)) == 66
    Path(kept[0].path).unlink()
    assert album.recall(stored) == kept[1:]
