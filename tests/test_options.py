"""Sampling options of all methods: as keywords, as an object, and unsupported ones."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unclip import Pipeline, SamplingOptions
from unclip.errors import Cancelled, RequestError
from unclip.pipeline.options import OptionKeywords, collect


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


PICTURE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")


def test_keywords_are_the_fields() -> None:
    names = {one.name for one in fields(SamplingOptions)} - {"stages"}  # which is `options`
    assert set(OptionKeywords.__annotations__) == names | {"options", "seeds"}
    with pytest.raises(FrozenInstanceError):
        SamplingOptions().seed = 3  # type: ignore[misc]


def test_keywords_objects_and_both_make_the_same_options() -> None:
    stages = {"decoder": {"steps": 2}}
    whole = SamplingOptions(seed=3, size=64, stages=stages)
    assert collect({"seed": 3, "size": 64, "options": stages}) == whole
    assert collect({"options": whole}) == whole
    assert collect({"options": SamplingOptions(seed=9, size=64, stages=stages), "seed": 3}) == whole
    assert collect({"seeds": [1, 2]}) == collect({"seed": [1, 2]}) == SamplingOptions(seed=[1, 2])
    assert collect({"options": None}) == SamplingOptions()
    with pytest.raises(RequestError, match="seed and seeds: give one"):
        collect({"seed": 1, "seeds": [1]})
    with pytest.raises(TypeError, match="sede"):
        collect({"sede": 1})  # type: ignore[typeddict-unknown-key]


def test_one_object_serves_every_verb(pipe: Pipeline) -> None:
    few = {"steps": 2}
    options = SamplingOptions(
        seed=5, size=64, stages={"decoder": few, "prior": few}, negative="a hat", keep_stages=True
    )
    z_i = pipe.sample_prior("a cat", options=options)
    made = [
        pipe("a cat", options=options),
        pipe.decode(z_i, options=options),
        pipe.vary(PICTURE, options=options),
        pipe.interpolate(["a cat", PICTURE], 2, options=options),
        pipe.diff(PICTURE, "", "a fox", options=options),
        pipe.mix(["a cat", PICTURE], options=options),
        pipe.edit(PICTURE, "a fox", strength=0.5, options=options),
        pipe.outpaint(PICTURE, "a fox", (80, 64), repeats=1, options=options),
    ]
    assert all(
        one.settings[0]["seed"] == 5 and one.settings[0]["stages"]["decoder"]["steps"] == 2 for one in made
    )
    assert pipe.invert(PICTURE, options=options).noise.shape == (1, 3, 64, 64)
    large = pipe.upsample(PICTURE, options=options, size=1024)
    assert sorted(large.stages) == [64, 256] and large.images[0].size == (1024, 1024)


def test_a_verb_refuses_the_keywords_that_it_has_no_use_for(pipe: Pipeline) -> None:
    refused: list[tuple[Any, str]] = [
        (lambda: pipe.outpaint(PICTURE, "a fox", (80, 64), size=64), "outpaint has no use for size"),
        (lambda: pipe.invert(PICTURE, seed=1), "invert has no use for seed"),
        (lambda: pipe.sample_prior("a cat", watermark=False), "sample_prior has no use for watermark"),
        (lambda: pipe.upsample(PICTURE, negative="a hat"), "upsample has no use for negative"),
        (lambda: pipe.diff(PICTURE, "", "a fox", seeds=[1, 2]), "2 seeds for 1 images"),
        (lambda: pipe.vary(PICTURE, preset="slow"), "no preset 'slow'"),
        (
            lambda: pipe.vary(PICTURE, options={"painter": {}}),
            "options for 'painter': the stages are prior, decoder",
        ),
        (
            lambda: pipe.invert(PICTURE, options={"decoder": {"sampler": "unipc"}}),
            "only ddim can be run backwards, not unipc",
        ),
        (
            lambda: pipe.edit(PICTURE, "a fox", size=100, strength=0.5),
            "size 100: tiny makes pictures of 64, 256",
        ),
    ]
    for call, says in refused:
        with pytest.raises(RequestError, match=says):
            call()


def test_presets_reach_the_verbs_whose_sampler_is_their_own(pipe: Pipeline) -> None:
    def decoder(made: Any) -> tuple[str, int, float]:
        used = made.settings[0]["stages"]["decoder"]
        return used["sampler"], used["steps"], used["guidance"]

    few = {"size": 64, "seed": 1}
    totals: list[int] = []

    def stop(role: str, number: int, total: int, step: object) -> None:
        totals.append(total)
        raise Cancelled

    with pytest.raises(Cancelled):
        pipe.vary(PICTURE, on_step=stop, **few)
    assert totals == [50]
    assert decoder(pipe.vary(PICTURE, preset="fast", **few)) == ("ddim", 12, 1.0)
    assert decoder(
        pipe.vary(PICTURE, preset="fast", options={"decoder": {"steps": 3, "guidance": 2}}, **few)
    ) == ("ddim", 3, 2)
    assert decoder(pipe.vary(PICTURE, fresh_noise=True, preset="fast", **few)) == ("unipc", 12, 2.0)
    assert decoder(pipe.edit(PICTURE, "a fox", strength=0.5, repeats=1, preset="fast", **few)) == (
        "ddpm",
        12,
        2.0,
    )


def test_a_negative_caption_reaches_every_guided_decoder(pipe: Pipeline) -> None:
    def bits(negative: str, **options: Any) -> bytes:
        return pipe.vary(PICTURE, seed=1, size=64, negative=negative, **options).images[0].tobytes()

    guided = {"decoder": {"steps": 3, "guidance": 3}}
    assert bits("", options=guided) != bits("a hat", options=guided)


def test_edits_keep_the_pictures_of_earlier_stages(pipe: Pipeline) -> None:
    mask = Image.new("L", (256, 256))
    mask.paste(255, (128, 0, 256, 256))
    made = pipe.edit(PICTURE.resize((256, 256)), "a fox", mask, seed=1, repeats=1, keep_stages=True)
    assert [one.size for one in (made.images[0], made.stages[64][0])] == [(256, 256), (64, 64)]


def test_the_negative_prompt_is_among_the_settings_of_every_verb(pipe: Pipeline) -> None:
    few = {"prior": {"steps": 1}, "decoder": {"steps": 1}}
    how: dict[str, Any] = {"negative": "a dog", "seed": 1, "size": pipe.sizes[0], "options": few}
    made = [
        pipe.generate("a cat", **how),
        pipe.vary(PICTURE, fresh_noise=True, **how),
        pipe.mix(["a cat", PICTURE], **how),
        pipe.interpolate(["a cat", PICTURE], 2, **how),
        pipe.diff(PICTURE, "a cat", "a fox", 0.2, **how),
    ]
    for generation in made:
        assert {image.info["unclip"]["negative"] for image in generation.images} == {"a dog"}
