"""The pipeline on a tiny random model: determinism, options, saving and mismatched stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.errors import Cancelled, CheckpointError, RequestError
from unclip.files import read_weights
from unclip.models.assemble import assemble
from unclip.pipeline import MAX_SEED, Pipeline, check_prompt
from unclip.pipeline.model import preset_for
from unclip.provenance.watermark import detect
from unclip.stages.decoder import Decoder
from unclip.stages.diffusion import DiffusionStage
from unclip.vocabulary import prompt_words

PROMPT = "a shiba inu wearing a red beret"


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- one seed, one picture ---


def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(pipe: Pipeline) -> None:
    captions = [
        PROMPT,
        "a cat",
        "pixel art of a corgi in space wearing a yellow crown and a blue scarf, reading a book",
    ]
    batch = pipe(captions, num_images=2, seeds=[5, 6, 5, 7, 8, 2**40], size=256)
    assert batch.seeds == [5, 6, 5, 7, 8, 2**40]
    for i in (0, 1, 2, 4, 5):
        alone = pipe(captions[i // 2], seed=batch.seeds[i], size=256)
        difference = np.abs(pixels(alone.images[0]) - pixels(batch.images[i]))
        assert difference.max() <= 1, f"image {i}: {difference.max()}"
        torch.testing.assert_close(alone.image_embeds[0], batch.image_embeds[i], rtol=1e-3, atol=1e-3)


def test_the_same_call_gives_the_same_bits_and_others_do_not(pipe: Pipeline) -> None:
    made = pipe(PROMPT, seed=1, size=64).images[0].tobytes()
    assert pipe(PROMPT, seed=1, size=64).images[0].tobytes() == made
    assert pipe(PROMPT, seed=2, size=64).images[0].tobytes() != made
    assert pipe("a robot", seed=1, size=64).images[0].tobytes() != made


def test_drawing_disturbs_no_global_generator(pipe: Pipeline) -> None:
    before = torch.get_rng_state()
    pipe(PROMPT, seed=1, size=256)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_count_up_for_each_prompt(pipe: Pipeline) -> None:
    made = pipe(["a cat", "a fox"], num_images=2, seed=10, size=64)
    assert made.seeds == [10, 11, 10, 11]
    assert [s["prompt"] for s in made.settings] == ["a cat", "a cat", "a fox", "a fox"]
    assert len({image.tobytes() for image in made.images}) == 4


def test_without_a_seed_every_call_is_another(pipe: Pipeline) -> None:
    a, b = pipe("a cat", size=64), pipe("a cat", size=64)
    assert a.seeds != b.seeds
    assert pipe("a cat", seed=a.seeds[0], size=64).images[0].tobytes() == a.images[0].tobytes()


def test_the_extreme_seeds_work(pipe: Pipeline) -> None:
    made = pipe("a cat", num_images=2, seeds=[0, MAX_SEED], size=64)
    assert made.images[0].tobytes() != made.images[1].tobytes()


# --- sizes ---


@pytest.mark.parametrize("size", [64, 256, 1024, None])
def test_the_chain_stops_where_it_is_told_to(pipe: Pipeline, size: int | None) -> None:
    made = pipe(PROMPT, seed=1, size=size)
    assert made.images[0].size == (size or 1024,) * 2
    assert made.settings[0]["size"] == (size or 1024)
    assert set(made.seconds) == {"clip", *made.settings[0]["stages"]}
    assert made.stages == {}


def test_earlier_stages_are_the_pictures_of_the_smaller_sizes(pipe: Pipeline) -> None:
    made = pipe(PROMPT, num_images=2, seed=1, keep_stages=True)
    assert list(made.stages) == [64, 256] and [len(p) for p in made.stages.values()] == [2, 2]
    for side, pictures in made.stages.items():
        assert np.abs(pixels(pictures[1]) - pixels(pipe(PROMPT, seed=2, size=side).images[0])).max() <= 1


# --- options ---


def test_negative_prompts_lead_away_and_the_empty_one_is_the_default(pipe: Pipeline) -> None:
    plain = pipe(PROMPT, seed=1, size=64).images[0].tobytes()
    assert pipe(PROMPT, seed=1, size=64, negative="").images[0].tobytes() == plain
    made = pipe(
        PROMPT,
        seed=1,
        size=64,
        negative="snow, a very long description of everything that should not be there",
    )
    assert made.images[0].tobytes() != plain
    assert made.settings[0]["negative"].startswith("snow")


def test_without_guidance_a_negative_prompt_changes_nothing(pipe: Pipeline) -> None:
    options = {"prior": {"guidance": 1}, "decoder": {"guidance": 1}}
    a, b = (pipe(PROMPT, seed=1, size=64, options=options, negative=n) for n in ("", "snow"))
    assert np.abs(pixels(a.images[0]) - pixels(b.images[0])).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"prior": {"steps": 5}},
        {"prior": {"candidates": 8}},
        {"decoder": {"guidance": 6.0}},
        {"decoder": {"sampler": "ddpm"}},
        {"decoder": {"sampler": "ddim", "eta": 1.0}},
        {"decoder": {"rescale": 1.0}},
        {"upsampler-256": {"steps": 3}},
    ],
)
def test_options_reach_their_stage_and_the_settings(
    pipe: Pipeline, options: dict[str, dict[str, Any]]
) -> None:
    plain, made = pipe(PROMPT, seed=3, size=256), pipe(PROMPT, seed=3, size=256, options=options)
    assert made.images[0].tobytes() != plain.images[0].tobytes()
    ((role, changes),) = options.items()
    expected = {**plain.settings[0]["stages"], role: {**plain.settings[0]["stages"][role], **changes}}
    assert made.settings[0]["stages"] == expected


def test_a_preset_is_known_by_name_and_options_go_before_it(pipe: Pipeline) -> None:
    made = pipe("a cat", seed=1, size=64, preset="fast", options={"decoder": {"steps": 3}})
    stages = made.settings[0]["stages"]
    assert (stages["prior"]["steps"], stages["prior"]["sampler"]) == (10, "unipc")
    assert (stages["decoder"]["steps"], stages["decoder"]["sampler"]) == (3, "unipc")


def test_the_papers_preset_is_table_3_as_far_as_the_model_goes(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)

    def chosen() -> dict[str, tuple[int, str]]:
        changes = preset_for(Pipeline.from_pretrained(str(model), device="cpu"), "paper")
        return {role: (fields["steps"], fields["sampler"]) for role, fields in changes.items()}

    rest = {"decoder": (250, "ddpm"), "upsampler-256": (27, "ddim"), "upsampler-1024": (15, "ddim")}
    assert chosen() == {"prior": (64, "ddpm"), **rest}
    config = json.loads((model / "prior/config.json").read_text())
    config["diffusion"]["x0_variance"] = [0.1, 0.5, 1.0]
    (model / "prior/config.json").write_text(json.dumps(config))
    assert chosen() == {"prior": (64, "analytic_dpm"), **rest}
    made = Pipeline.from_pretrained(str(model), device="cpu")(
        "a cat", seed=1, size=256, preset="paper", options={"decoder": {"steps": 2}}
    )
    assert made.settings[0]["stages"]["prior"]["sampler"] == "analytic_dpm"
    assert made.settings[0]["stages"]["upsampler-256"]["steps"] == 27


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"size": 300}, "size 300: tiny makes pictures of 64, 256, 1024 pixels"),
        ({"num_images": 0}, "at least 1"),
        ({"num_images": -2}, "at least 1"),
        ({"seed": -1}, "a seed must be between 0"),
        ({"seed": 2**63}, "a seed must be between 0"),
        ({"seed": MAX_SEED, "num_images": 2}, "a seed must be between 0"),
        ({"seeds": [1, 2]}, "2 seeds for 1 images"),
        ({"prompt": []}, "nothing to generate"),
        ({"prompt": "  \n"}, "the prompt is empty"),
        ({"prompt": ["a cat", ""]}, "the prompt is empty"),
        ({"prompt": "a \x00cat"}, r"control character U\+0000"),
        ({"negative": "a \x1bcat"}, r"control character U\+001B"),
        (
            {"options": {"upscaler": {"steps": 2}}},
            "options for 'upscaler': the stages are prior, decoder, upsampler-256",
        ),
        ({"options": {"prior": {"stepz": 2}}}, "prior: stepz: Extra inputs"),
        ({"options": {"prior": {"steps": 0}}}, "prior: steps: .* greater than or equal to 1, not 0"),
        ({"options": {"decoder": {"steps": 100_000}}}, "decoder: steps: .* less than or equal to 1000"),
        ({"options": {"decoder": {"steps": 2.5}}}, "decoder: steps"),
        ({"options": {"decoder": {"guidance": float("nan")}}}, "decoder: guidance"),
        ({"options": {"decoder": {"guidance": float("inf")}}}, "decoder: guidance"),
        (
            {"options": {"decoder": {"sampler": "euler"}}},
            "no sampler 'euler'; there are analytic_dpm, ddim, ddpm, dpmpp_2m",
        ),
        ({"options": {"decoder": {"eta": 0.5}}}, "takes no eta; use ddim"),
        ({"preset": "slow"}, "no preset 'slow'; there are fast, balanced"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(pipe: Pipeline, call: dict[str, Any], says: str) -> None:
    arguments = {"prompt": "a cat", **call}
    with pytest.raises(RequestError, match=says) as caught:
        pipe.generate(**arguments)
    assert "\n" not in str(caught.value)


# --- steps ---


def test_on_step_sees_every_step_of_every_stage(pipe: Pipeline) -> None:
    seen: list[tuple[str, int, int]] = []
    pipe(
        PROMPT,
        seed=1,
        options={"prior": {"steps": 3}},
        on_step=lambda role, n, of, step: seen.append((role, n, of)),
    )
    assert seen == [
        *[("prior", n, 3) for n in (1, 2, 3)],
        ("decoder", 1, 2),
        ("decoder", 2, 2),
        ("upsampler-256", 1, 1),
        ("upsampler-1024", 1, 1),
    ]


def test_on_step_can_cancel(pipe: Pipeline) -> None:
    seen = []

    def stop(role: str, number: int, steps: int, step: Any) -> None:
        seen.append((role, number))
        if role == "decoder":
            assert step.x.shape == step.x0.shape == (1, 3, 64, 64)
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        pipe(PROMPT, seed=1, on_step=stop)
    assert seen == [("prior", 1), ("prior", 2), ("decoder", 1)]
    assert pipe(PROMPT, seed=1, size=64).images  # and the pipeline still works


# --- settings ---


def test_settings_travel_with_the_picture_and_draw_it_again(pipe: Pipeline) -> None:
    made = pipe(
        PROMPT,
        num_images=2,
        seed=4,
        size=256,
        negative="snow",
        options={"decoder": {"steps": 3, "interval": (0.1, 0.9)}},
    )
    how = json.loads(json.dumps(made.images[1].info["unclip"]))
    assert how == made.settings[1] and how["seed"] == 5 and how["model"] == "tiny" and how["prompt"] == PROMPT
    again = pipe(
        how["prompt"], seed=how["seed"], size=how["size"], negative=how["negative"], options=how["stages"]
    )
    assert np.abs(pixels(again.images[0]) - pixels(made.images[1])).max() <= 1


# --- marks ---


def test_pictures_are_marked_unless_told_not_to(pipe: Pipeline) -> None:
    marked, plain = (pipe(PROMPT, seed=1, size=256, watermark=w).images[0] for w in (True, False))
    assert detect(marked).found and not detect(plain).found
    assert np.abs(pixels(marked) - pixels(plain)).mean() < 3
    stages = pipe(PROMPT, seed=1, size=1024, keep_stages=True).stages
    assert detect(stages[256][0]).found


# --- precision ---


def test_bfloat16_draws_nearly_the_same_picture(tiny_model: Path, pipe: Pipeline) -> None:
    low = Pipeline.from_pretrained(str(tiny_model), device="cpu", dtype=torch.bfloat16)
    assert next(low.decoder.network.parameters()).dtype == torch.bfloat16
    made = pixels(low(PROMPT, seed=1, size=256).images[0])
    difference = np.abs(made - pixels(pipe(PROMPT, seed=1, size=256).images[0])).mean()
    assert 0 < difference < 12


def test_what_is_stored_as_it_is_used_runs_from_its_file(tiny_model: Path) -> None:
    """Memory-mapped weights may lie at odd addresses, where sums are rounded in another order."""
    whole = Pipeline.from_pretrained(str(tiny_model), device="cpu", dtype=torch.float32)
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu", dtype=torch.float32, offload=True)
    assert isinstance(pipe.prior, DiffusionStage)
    for _ in range(2):
        made = pipe(PROMPT, seed=1, size=64).images[0]
        difference = pixels(made).astype(int) - pixels(whole(PROMPT, seed=1, size=64).images[0])
        assert np.abs(difference).max() <= 1
    with pipe.prior.in_place():
        for name, tensor in read_weights(tiny_model / "prior" / "model.safetensors").items():
            assert torch.equal(pipe.prior.state_dict()[name], tensor.float())


def test_offloading_keeps_one_stage_in_place_and_draws_the_same_picture(tiny_model: Path) -> None:
    whole = Pipeline.from_pretrained(str(tiny_model), device="cpu", dtype=torch.float64)
    pipe = Pipeline.from_pretrained(str(tiny_model), device="cpu", dtype=torch.float64, offload=True)
    stages = {
        "prior": pipe.prior,
        "decoder": pipe.decoder,
        **{f"upsampler-{u.size}": u for u in pipe.upsamplers},
    }

    def placed() -> list[str]:
        return [
            role for role, stage in stages.items() if next(stage.network.parameters()).dtype == torch.float64
        ]

    seen = []
    for _ in range(2):  # what was put away comes back
        made = pipe(PROMPT, seed=1, on_step=lambda role, *_: seen.append((role, placed())))
        assert placed() == []
        assert np.array_equal(pixels(made.images[0]), pixels(whole(PROMPT, seed=1).images[0]))
    assert seen and all(names == [role] for role, names in seen)


def test_weights_stored_in_half_precision_wait_so_and_run_as_asked(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "half"
    shutil.copytree(tiny_model, model)
    Decoder.load(tiny_model / "decoder").save(model / "decoder", torch.float16)
    decoder = Pipeline.from_pretrained(str(model), device="cpu", dtype=torch.bfloat16, offload=True).decoder
    stored = read_weights(model / "decoder" / "model.safetensors")
    for _ in range(2):
        assert {p.dtype for p in decoder.parameters()} == {torch.float16}
        with decoder.in_place():
            assert {p.dtype for p in decoder.network.parameters()} == {torch.bfloat16}
            assert decoder.null_embed.dtype == torch.float32
            kernels = [p for p in decoder.network.parameters() if p.ndim == 4]
            assert kernels and all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)
            for name, tensor in decoder.network.state_dict().items():
                assert torch.equal(tensor, stored[f"network.{name}"].bfloat16())
    (model / "decoder" / "model.safetensors").unlink()
    with (
        pytest.raises(CheckpointError, match=r"decoder/model.safetensors: changed since it was loaded"),
        decoder.in_place(),
    ):
        pass


def test_an_unusable_device_is_refused(tiny_model: Path) -> None:
    for device in ("nonsense", "cuda:77" if torch.cuda.is_available() else "cuda"):
        with pytest.raises(RequestError, match=f"device {device}: cannot be used here") as caught:
            Pipeline.from_pretrained(str(tiny_model), device=device)
        assert "\n" not in str(caught.value)


# --- saving ---


def test_a_saved_copy_loads_back_to_the_same_bits(pipe: Pipeline, tiny_model: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "copy")
    files = {p.relative_to(tiny_model) for p in tiny_model.rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path / "copy") for p in (tmp_path / "copy").rglob("*") if p.is_file()} == files
    assert {p.suffix for p in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".safetensors":
            ours, theirs = read_weights(tiny_model / path), read_weights(tmp_path / "copy" / path)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        else:
            assert json.loads((tiny_model / path).read_text()) == json.loads(
                (tmp_path / "copy" / path).read_text()
            )
    copy = Pipeline.from_pretrained(str(tmp_path / "copy"), device="cpu")
    assert copy.vocabulary == pipe.vocabulary and copy.name == pipe.name
    assert (
        copy(PROMPT, seed=1, size=256).images[0].tobytes()
        == pipe(PROMPT, seed=1, size=256).images[0].tobytes()
    )


def test_saving_twice_or_over_itself_is_fine(copy: Path, pipe: Pipeline) -> None:
    model = Pipeline.from_pretrained(str(copy), device="cpu")
    model.save_pretrained(copy)
    model.save_pretrained(str(copy))
    assert (
        Pipeline.from_pretrained(str(copy))("a cat", seed=1, size=64).images[0].tobytes()
        == pipe("a cat", seed=1, size=64).images[0].tobytes()
    )
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_saving_never_replaces_what_is_not_a_model(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a model folder"):
        pipe.save_pretrained(tmp_path / "thesis")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not a model folder"):
        pipe.save_pretrained(tmp_path / "file")
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "thesis"]
    (tmp_path / "empty").mkdir()
    pipe.save_pretrained(tmp_path / "empty")
    assert (tmp_path / "empty/model_index.json").is_file()


def test_a_failed_save_keeps_the_old_model(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Pipeline.from_pretrained(str(copy), device="cpu")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model.decoder, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


# --- what does not belong together ---


def test_stages_of_another_clip_are_refused(copy: Path) -> None:
    edit(copy / "prior/config.json", clip="other@123456789abc")
    with pytest.raises(
        CheckpointError, match=r"prior: was trained for CLIP other@123456789abc, this model has tiny@\w+"
    ):
        Pipeline.from_pretrained(str(copy))


def test_a_stage_in_the_wrong_role_is_refused(copy: Path) -> None:
    edit(copy / "model_index.json", prior="decoder", decoder="prior")
    with pytest.raises(CheckpointError, match="decoder: is a decoder, not a prior"):
        Pipeline.from_pretrained(str(copy))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 99}, "format 99, this version reads 1"),
        ({"format": None}, "format None"),
        ({"prior": "nowhere"}, "nowhere/config.json: no such file"),
        ({"upsamplers": None}, "model_index.json"),
        ({"clip": "nonsense"}, "no CLIP there"),
    ],
)
def test_a_wrong_index_is_explained(copy: Path, changes: dict[str, Any], says: str) -> None:
    edit(copy / "model_index.json", **changes)
    with pytest.raises(CheckpointError, match=says):
        Pipeline.from_pretrained(str(copy))


def test_an_unknown_reference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for ref in ("nonsense", str(tmp_path / "nowhere"), "./nowhere", "../a/b/c"):
        with pytest.raises(CheckpointError, match="no such model; there is the bundled 'mini'"):
            Pipeline.from_pretrained(ref)
    with pytest.raises(CheckpointError, match="no model_index.json in it"):
        Pipeline.from_pretrained(str(tmp_path))


# --- prompts ---


def test_words_the_model_never_saw_are_known(pipe: Pipeline, copy: Path) -> None:
    assert pipe.unknown_words("A shiba inu, wearing a beret!") == []
    assert pipe.unknown_words("a dragon and a Dragon eating sushi") == ["dragon", "sushi"]
    index = json.loads((copy / "model_index.json").read_text())
    del index["vocabulary"]
    (copy / "model_index.json").write_text(json.dumps(index))
    assert Pipeline.from_pretrained(str(copy)).unknown_words("a dragon") == []


@pytest.mark.parametrize(
    "prompt",
    [
        "a corgi 🐶👑",
        "كلب يرتدي قبعة",
        "כלב עם כובע",
        "犬",
        "a cat\u200d\u202e",
        "a\ttab",
        "a\u0301 cat",
        "<end_of_text>",
        "!?",
    ],
)
def test_prompts_in_any_script_work(pipe: Pipeline, prompt: str) -> None:
    made = pipe(prompt, seed=1, size=64)
    assert made.settings[0]["prompt"] == prompt and pixels(made.images[0]).std() > 0


def test_a_prompt_longer_than_the_context_draws_what_is_read(pipe: Pipeline) -> None:
    long = "a corgi " + "wearing a red beret " * 40
    read, cut = pipe.clip.truncate(long)
    assert read and cut and len(read) + len(cut) < len(long) + 5
    a, b, c = (
        pipe(p, seed=1, size=64).images[0].tobytes() for p in (long, long + "in space", "in space " + long)
    )
    assert a == b != c
    assert pipe.clip.truncate("a corgi") == ("a corgi", "")


def test_prompts_are_stripped_and_control_characters_named() -> None:
    assert check_prompt("  a cat\n") == "a cat"
    for bad, code in (("\x07", "0007"), ("\x7f", "007F"), ("\ud800", "D800")):
        with pytest.raises(RequestError, match=rf"U\+{code}"):
            check_prompt(f"a {bad} cat")
    assert prompt_words("A Cat's hat") == ["a", "cat's", "hat"]


# --- assembling ---


def parts(model: Path) -> list[Path]:
    return [model / name for name in ("clip", "prior", "decoder", "upsampler-256", "upsampler-1024")]


def test_assembled_parts_are_the_model(tiny_model: Path, pipe: Pipeline, tmp_path: Path) -> None:
    assemble(parts(tiny_model)[::-1], tmp_path / "model", name="again")
    again = Pipeline.from_pretrained(str(tmp_path / "model"), device="cpu")
    assert again.name == "again" and again.sizes == (64, 256, 1024) and again.vocabulary is None
    assert (
        again(PROMPT, seed=1, size=256).images[0].tobytes()
        == pipe(PROMPT, seed=1, size=256).images[0].tobytes()
    )


def test_half_precision_is_half_the_size_and_still_one_family(
    tiny_model: Path, pipe: Pipeline, tmp_path: Path
) -> None:
    assemble(parts(tiny_model), tmp_path / "half", dtype=torch.float16)

    def size(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.rglob("*.safetensors"))

    assert size(tmp_path / "half") < 0.6 * size(tiny_model)
    half = Pipeline.from_pretrained(str(tmp_path / "half"), device="cpu")
    assert half.clip.identity == pipe.clip.identity
    assert (
        np.abs(
            pixels(half(PROMPT, seed=1, size=64).images[0]) - pixels(pipe(PROMPT, seed=1, size=64).images[0])
        ).mean()
        < 3
    )


def test_a_model_without_upsamplers_ends_at_64(tiny_model: Path, tmp_path: Path) -> None:
    assemble(parts(tiny_model)[:3], tmp_path / "small")
    small = Pipeline.from_pretrained(str(tmp_path / "small"))
    assert small.sizes == (64,) and small("a cat", seed=1).images[0].size == (64, 64)


def test_a_model_that_ends_at_256_is_enlarged_to_1024_by_lanczos_if_asked(
    tiny_model: Path, tmp_path: Path
) -> None:
    assemble(parts(tiny_model)[:4], tmp_path / "medium")
    medium = Pipeline.from_pretrained(str(tmp_path / "medium"))
    assert medium("a cat", seed=1).images[0].size == (256, 256)
    made = medium("a cat", seed=1, size=1024, keep_stages=True, watermark=False)
    (large,), (small,) = made.images, made.stages[256]
    rounded = pixels(
        small.resize((1024, 1024), Image.Resampling.LANCZOS)
    )  # of pixels that were rounded before
    assert np.abs(pixels(large) - rounded).mean() < 0.6
    assert (made.settings[0]["size"], made.settings[0]["lanczos_from"]) == (1024, 256)
    kept = medium.edit(small, "a cat", strength=0.5, size=1024, seed=1).images[0]
    assert kept.size == (1024, 1024)
    for size in (512, 2048):
        with pytest.raises(RequestError, match=f"size {size}: medium makes pictures of 64, 256, 1024 pixels"):
            medium("a cat", size=size)


def test_what_cannot_be_assembled_is_refused_and_leaves_nothing(
    tiny_model: Path, copy: Path, tmp_path: Path
) -> None:
    clip, prior, decoder, *_ = parts(tiny_model)
    edit(copy / "decoder/config.json", clip="other@1")
    for part in (prior, decoder):
        shutil.copytree(part, tmp_path / "lonely" / part.name)
    for runs, says in (
        ([clip, prior], "no decoder among the runs"),
        ([clip, decoder], "no prior among the runs"),
        ([tmp_path / "lonely/prior", tmp_path / "lonely/decoder"], "no clip among the runs"),
        ([clip, prior, decoder, prior], "there is a prior already"),
        (
            [clip, prior, copy / "decoder"],
            r"decoder was trained for CLIP other@1, but this model would have tiny@\w+",
        ),
        ([clip, prior, tmp_path / "nowhere"], "nowhere: no such model"),
    ):
        with pytest.raises(CheckpointError, match=says):
            assemble(runs, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "lonely"]
