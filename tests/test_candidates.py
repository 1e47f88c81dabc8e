"""Several candidates of a decoder; CLIP chooses one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unclip.errors import RequestError
from unclip.pipeline import Pipeline

CAPTION = "a shiba inu wearing a red beret"


@pytest.fixture
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


@pytest.fixture
def judged(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes CLIP see the given candidate of each picture as the caption, or as z_i; the others as their opposite."""

    def choose(target: Tensor, numbers: list[int]) -> None:
        def encode(images: Tensor) -> Tensor:
            n = len(images) // len(numbers)
            right = torch.tensor([row % n == numbers[row // n] for row in range(len(images))])
            found = target.repeat_interleave(n, dim=0)
            return torch.where(right[:, None], found, -found)

        monkeypatch.setattr(pipe.clip, "encode_image", encode)

    yield choose


def draw(pipe: Pipeline, candidates: int, **more: Any) -> Any:
    return pipe(CAPTION, size=64, options={"decoder": {"candidates": candidates}}, **more)


def test_the_candidate_nearest_to_the_caption_is_drawn(pipe: Pipeline, judged: Any) -> None:
    plain = draw(pipe, 1, num_images=2, seeds=[1, 2]).images
    z_t = pipe.clip.encode_text([CAPTION]).embed
    judged(z_t.repeat(2, 1), [0, 0])
    assert [image.tobytes() for image in draw(pipe, 3, num_images=2, seeds=[1, 2]).images] == [
        image.tobytes() for image in plain
    ]
    judged(z_t.repeat(2, 1), [2, 0])
    found = draw(pipe, 3, num_images=2, seeds=[1, 2]).images
    assert found[0].tobytes() != plain[0].tobytes() and found[1].tobytes() == plain[1].tobytes()


def test_without_a_caption_the_nearest_to_the_embedding_is_drawn(pipe: Pipeline, judged: Any) -> None:
    z_i = torch.randn(1, pipe.clip.width)
    plain = pipe.decode(z_i, size=64, seed=1).images[0]
    judged(z_i, [1])
    again = pipe.decode(z_i, size=64, seed=1, options={"decoder": {"candidates": 2}}).images[0]
    assert again.tobytes() != plain.tobytes()


def test_the_choice_does_not_depend_on_the_batch(pipe: Pipeline) -> None:
    batch = draw(pipe, 3, num_images=3, seeds=[5, 6, 7])
    for seed, image in zip(batch.seeds, batch.images, strict=True):
        alone = draw(pipe, 3, seed=seed).images[0]
        assert np.abs(np.asarray(alone).astype(int) - np.asarray(image).astype(int)).max() <= 1


def test_progress_counts_the_steps_of_the_picture_only(pipe: Pipeline) -> None:
    seen: list[tuple[int, int, int]] = []

    def on_step(role: str, number: int, total: int, step: Any) -> None:
        if role == "decoder":
            seen.append((number, total, len(step.x)))

    options = {"decoder": {"candidates": 3, "steps": 4}}
    pipe(CAPTION, size=64, num_images=2, seed=1, options=options, on_step=on_step)
    assert seen == [(number, 4, 2) for number in (1, 2, 3, 4)]


def test_inversion_takes_the_given_noise(pipe: Pipeline) -> None:
    image = draw(pipe, 1, seed=1).images[0]
    one, three = (
        pipe.diff(image, "a cat", "a dog", size=64, options={"decoder": {"candidates": n}}) for n in (1, 3)
    )
    assert [i.tobytes() for i in one.images] == [i.tobytes() for i in three.images]


def test_a_clip_that_reads_no_pictures_is_refused_first(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(clip: Any) -> None:
        raise RequestError("tiny: has no image encoder")

    monkeypatch.setattr(type(pipe.clip), "preprocess", property(blind), raising=False)
    begun: list[str] = []
    with pytest.raises(RequestError, match="has no image encoder"):
        draw(pipe, 2, on_step=lambda role, *step: begun.append(role))
    assert not begun
    draw(pipe, 1)


@pytest.mark.parametrize("offload", ["stages", None])
def test_settings_tell_the_candidates(tiny_model: Path, offload: Any) -> None:
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu", offload=offload)
    made = draw(pipe, 2, seed=3)
    assert made.settings[0]["stages"]["decoder"]["candidates"] == 2
