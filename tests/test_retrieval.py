"""Retrieval of captions by images and images by captions: closed forms and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from unclip.cli import cli
from unclip.clip import Text
from unclip.errors import RequestError
from unclip.evaluate.quality import Settings
from unclip.evaluate.recall import chance_of_recall, recall
from unclip.evaluate.retrieval import retrieval

WORDS = ["ant", "bee", "cow", "Flat", "3D"]
EACH = torch.arange(6)


def test_orthogonal_embeddings_find_their_own_whatever_their_lengths() -> None:
    x = torch.eye(6) * torch.arange(1, 7)[:, None]
    found = recall(x, torch.eye(6), (EACH, EACH), (1, 5), resamples=9)
    assert found == {1: (1, 1, 1), 5: (1, 1, 1)}


def test_strangers_are_found_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    rights = torch.arange(400)
    x, y = (torch.randn(400, 16, generator=generator) for _ in range(2))
    found = recall(x, y, (rights, rights), (1, 5, 10, 100))
    for k, figure in found.items():
        p = k / 400
        assert abs(figure.value - p) < 4 * (p * (1 - p) / 400) ** 0.5, k


def test_a_wrong_one_that_is_as_near_goes_first() -> None:
    collapsed = torch.ones(6, 3)
    assert recall(collapsed, collapsed, (EACH, EACH), (1, 5, 6)) == {
        1: (0, None, None),
        5: (0, None, None),
        6: (1, None, None),
    }
    candidates = torch.tensor([[1.0, 0], [1, 0], [0, 1]])  # the first two cannot be told apart
    found = recall(candidates, candidates, (EACH[:3], EACH[:3]), (1, 2))
    assert found[1].value == pytest.approx(1 / 3) and found[2].value == 1


def test_the_place_is_that_of_the_best_right_one() -> None:
    candidates = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]])
    queries = torch.tensor([[1.0, 0.1], [0.1, 1]])
    found = recall(queries, candidates, (torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])), (1, 2))
    assert (
        found[1].value == 0.5 and found[2].value == 1
    )  # the first query's nearest is wrong, the second's right


def test_an_interval_holds_its_share() -> None:
    """Half of the queries are right: the 95 % interval is the binomial's, 1.96 · √(¼ / n) either way."""
    n = 400
    x = torch.eye(2).repeat(n // 2, 1)
    found = recall(
        x, torch.eye(2), (torch.arange(n), torch.zeros(n, dtype=torch.long)), (1,), resamples=2000
    )[1]
    assert found.value == 0.5 and found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.25 / n) ** 0.5, rel=0.1)


class Words:
    """A CLIP whose texts are the sum of their words' axes, and whose pictures hold their embedding in their
    pixels.
    """

    identity = "words"
    preprocess: Any = SimpleNamespace(view=lambda picture: picture)

    def encode_text(self, captions: Sequence[str]) -> Text:
        embed = torch.tensor([[float(word in said.split()) for word in WORDS] for said in captions])
        ids = torch.zeros(len(captions), 1)
        return Text(list(captions), ids, ids.bool(), embed, embed[:, None])

    def encode_image(self, images: Tensor) -> Tensor:
        return (images[:, 0, 0, : len(WORDS)] + 1) / 2


class Told:
    """Pictures that show the words of the first text, and are captioned with the second, at | with several."""

    name = "told"

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def content(self) -> None:
        return None

    def captions(self) -> list[list[str]]:
        return [caption.split("|") for _, caption in self.pairs]

    def read(self, start: int, step: int) -> Iterator[Image.Image]:
        for shown, _ in self.pairs[start::step]:
            picture = Image.new("RGB", (len(WORDS), 1))
            for x, word in enumerate(WORDS):
                picture.putpixel((x, 0), (255 * (word in shown.split()), 0, 0))
            yield picture


def measured(pictures: Told) -> dict[str, float]:
    clip: Any = Words()
    found = retrieval(pictures, clip, Settings(resamples=0))
    return {name: figure.value for name, figure in found.figures.items()}


def test_concept_and_style_are_read_apart() -> None:
    wrong_style = measured(
        Told(
            ("ant 3D", "ant in Flat style"), ("bee Flat", "bee in 3D style"), ("cow 3D", "cow in Flat style")
        )
    )
    assert wrong_style["concept of picture @1"] == 1 and wrong_style["style of picture @1"] == 0
    wrong_concept = measured(
        Told(("bee Flat", "ant in Flat style"), ("cow 3D", "bee in 3D style"), ("ant 3D", "cow in 3D style"))
    )
    assert wrong_concept["concept of picture @1"] == 0 and wrong_concept["style of picture @1"] == 1
    assert wrong_concept["caption of picture @1"] == 0


def test_a_concept_may_hold_the_word_that_parts_it_and_other_captions_have_no_parts() -> None:
    odd = measured(Told(("ant", "ant in cow in Flat style"), ("bee", "bee in 3D style"), ("cow 3D", "a cow")))
    assert (
        odd["concept of picture @1"] == 1
    )  # "ant in cow" and "bee"; the third picture is asked for neither part
    one_style = measured(Told(("ant", "ant in 3D style"), ("bee", "bee in 3D style")))
    assert not any(name.startswith("style") for name in one_style)
    plain = measured(Told(("ant", "an ant"), ("ant", "ant"), ("bee", "bee")))
    assert not any("concept" in name or "style" in name for name in plain)


def test_pictures_of_one_caption_are_right_for_each_other() -> None:
    found = measured(Told(("ant", "ant"), ("ant Flat", "ant"), ("bee", "bee")))
    assert found == {"caption of picture @1": 1, "picture of caption @1": 1}


def test_all_captions_of_a_picture_count() -> None:
    found = measured(Told(("ant", "Flat|ant"), ("bee", "bee|3D"), ("cow", "cow")))
    assert found == {"caption of picture @1": 1, "picture of caption @1": 3 / 5}  # Flat and 3D find none


def test_the_share_by_chance_is_that_of_random_embeddings() -> None:
    right = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 3])
    assert chance_of_recall(right, 5, 1) == pytest.approx((3 / 5 + 1 / 5) / 2)
    assert chance_of_recall(right, 5, 2) == pytest.approx((1 - 2 / 5 * 1 / 4 + 2 / 5) / 2)
    assert chance_of_recall(right, 5, 4) == pytest.approx((1 + 4 / 5) / 2)


def test_pictures_of_one_caption_only_are_refused() -> None:
    with pytest.raises(RequestError, match="told: 2 pictures of one caption; there is nothing to tell apart"):
        measured(Told(("ant", "ant"), ("bee", "ant")))


def test_the_command_finds_what_the_clip_knows(train_shards: str) -> None:
    arguments = ["evaluate", "retrieval", train_shards, "--json", "--no-cache", "--device", "cpu"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    found = json.loads(done.stdout)
    chance = 10 / found["settings"]["captions"]
    for name in ("caption of picture @10", "picture of caption @10"):
        assert found["figures"][name]["low"] > 2 * chance  # mini's CLIP knows the menagerie
        # About six captions for each of 40 pictures; any of them counts.
        assert found["figures"][name]["chance"] == pytest.approx(0.24, abs=0.02)
        assert found["figures"][name]["low"] > 2 * found["figures"][name]["chance"]
    assert found["warnings"] == ["retrieval: 40 pictures; below 100 chance is high"]
    assert done.stderr == f"warning: {found['warnings'][0]}\n"
