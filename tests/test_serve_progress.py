"""Progress of a request: what it says, and that it learns."""

from __future__ import annotations

import pytest

from unclip.serve import progress
from unclip.serve.progress import Progress, StageTimings
from unclip.serve.requests import GenerationRequest

KIND = (GenerationRequest, 256)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def draw(timings: StageTimings, clock: list[float], images: int, decoder: int = 10) -> list[Progress]:
    """Ten steps of 1 s per image, then two of 5 s, in runs of one image each."""
    timer, seen = timings.begin(KIND, images), []
    for number in range(1, decoder + 1):
        clock[0] += images
        seen.append(timer.step("decoder", number, decoder, images))
    for _ in range(images):
        for number in (1, 2):
            clock[0] += 5
            seen.append(timer.step("upsampler", number, 2, 1))
    timer.end()
    return seen


def test_the_first_batch_is_not_guessed_and_the_next_ones_are_right(clock: list[float]) -> None:
    timings = StageTimings()
    assert all(one.seconds_left is None for one in draw(timings, clock, 2))
    for images in (2, 5):  # the second learnt from a batch of another size
        seen = draw(timings, clock, images)
        seconds = [one.seconds_left for one in seen]
        assert seconds[0] == pytest.approx(20 * images - images) and seconds[-1] == pytest.approx(0)
        assert all(a > b for a, b in zip(seconds, seconds[1:], strict=False))  # type: ignore[operator]
        assert [one.share for one in seen][-1] == pytest.approx(1)
        assert seen[4].share == pytest.approx(0.25) and seen[4][:3] == ("decoder", 5, 10)


def test_more_steps_than_the_last_time_count_from_the_first_one(clock: list[float]) -> None:
    timings = StageTimings()
    draw(timings, clock, 1)
    assert draw(timings, clock, 1, decoder=40)[0].seconds_left == pytest.approx(39 + 10)


def test_a_request_in_several_batches_counts_the_later_ones() -> None:
    half = Progress("decoder", 5, 10, 0.5, 8.0)
    assert half.of_request(8, 0, 0) == half
    first, last = half.of_request(8, 0, 2), half.of_request(2, 8, 0)
    assert first.share == 0.4 and first.seconds_left == pytest.approx(8 + 2 * 2)
    assert last.share == 0.9 and last.seconds_left == 8
    assert Progress("prior", 1, 2).of_request(8, 0, 2) == Progress("prior", 1, 2)
