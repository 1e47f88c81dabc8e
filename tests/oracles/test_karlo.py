"""Karlo in small: diffusers' modules with random weights, converted and run side by side with ours."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.clip.preprocess import MEAN, STD
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.diffusion.noise import SeededNoise
from unclip.diffusion.samplers import Step
from unclip.errors import Cancelled, CheckpointError, RequestError
from unclip.models.convert import convert
from unclip.pipeline import Pipeline
from unclip.stages import load_stage

declare_missing_schemas()
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from diffusers.schedulers import scheduling_unclip  # noqa: E402
from small_karlo import CONTEXT, HIGH, LOW, WIDTH, karlo_pipeline, variation_pipeline  # noqa: E402

PROMPTS = ["a red fox", "a hat"]  # of different lengths


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return karlo_pipeline(tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture(scope="module")
def varying(theirs: Any) -> Any:
    return variation_pipeline(theirs)


@pytest.fixture(scope="module")
def karlo(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("karlo") / "karlo"
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def converted(karlo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "small-karlo"
    convert(karlo, out, parity=True)
    return out


@pytest.fixture(scope="module")
def ours(converted: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(converted), device="cpu")


def assert_near(a: Tensor, b: Tensor) -> None:
    """Maximum error relative to the largest value."""
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.inference_mode()
def test_text_encoder(theirs: Any, ours: Pipeline) -> None:
    text = ours.clip.encode_text(PROMPTS)
    ids = theirs.tokenizer(PROMPTS, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    out = theirs.text_encoder(ids.input_ids)
    assert_near(text.embed, out.text_embeds)
    seen = text.mask
    assert_near(text.tokens[seen], out.last_hidden_state[:, : seen.shape[1]][seen])


@torch.inference_mode()
def test_prior(theirs: Any, ours: Pipeline) -> None:
    assert ours.prior is not None
    text = ours.clip.encode_text(PROMPTS)
    x = draw(2, WIDTH)
    padded = torch.zeros(2, CONTEXT, WIDTH)
    padded[:, : text.tokens.shape[1]] = text.tokens
    mask = torch.zeros(2, CONTEXT, dtype=torch.bool)
    mask[:, : text.mask.shape[1]] = text.mask
    for t in (999, 416, 0):
        out = theirs.prior(x, t, text.embed, padded, mask).predicted_image_embedding
        time = torch.full((2,), t)
        got = ours.prior.network(x, time, text_embed=text.embed, tokens=text.tokens, mask=text.mask)
        assert_near(got, out)
    assert_near(x * ours.prior.std + ours.prior.mean, theirs.prior.post_process_latents(x))


@torch.inference_mode()
def test_decoder_and_its_projection(theirs: Any, ours: Pipeline) -> None:
    text = ours.clip.encode_text(PROMPTS)
    x, z_i = draw(2, 3, LOW, LOW), draw(2, WIDTH)
    context, embed = theirs.text_proj(
        image_embeddings=z_i,
        prompt_embeds=text.embed,
        text_encoder_hidden_states=text.tokens,
        do_classifier_free_guidance=False,
    )
    mask = torch.nn.functional.pad(text.mask, (4, 0), value=True)
    for t in (999, 416, 0):
        out = theirs.decoder(x, t, context, class_labels=embed, attention_mask=mask).sample
        cond = {
            "image_embed": z_i,
            "text_embed": text.embed,
            "ids": text.ids,
            "tokens": text.tokens,
            "mask": text.mask,
        }
        assert_near(ours.decoder.network(x, torch.full((2,), t), **cond), out)


@torch.inference_mode()
def test_upsampler_and_its_expert(theirs: Any, ours: Pipeline) -> None:
    x, low = draw(2, 3, HIGH, HIGH), draw(2, 3, HIGH, HIGH) / 2
    network = ours.upsamplers[0].network
    for t, part in ((999, theirs.super_res_first), (166, theirs.super_res_first), (0, theirs.super_res_last)):
        out = part(torch.cat([x, low], dim=1), t).sample
        assert_near(network(x, torch.full((2,), t), low=low, last_step=t == 0), out)


STEPS = {"prior": 25, "decoder": 25, f"upsampler-{HIGH}": 7}  # Karlo's own
SHAPES = {"prior": (WIDTH,), "decoder": (3, LOW, LOW), f"upsampler-{HIGH}": (3, HIGH, HIGH)}


def same_noise(seeds: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What our walks from these seeds start with, by role; diffusers' schedulers are then given the rest of
    it.
    """
    noise = {role: SeededNoise(seeds, role) for role in STEPS}
    by_shape = {(len(seeds), *shape): noise[role] for role, shape in SHAPES.items()}
    monkeypatch.setattr(
        scheduling_unclip,
        "randn_tensor",
        lambda shape, **_: by_shape[tuple(shape)](torch.empty(shape)).double(),
    )
    return {role: noise[role](torch.empty(len(seeds), *shape)).double() for role, shape in SHAPES.items()}


def assert_same_pictures(got: list[Image.Image], expected: list[Image.Image]) -> None:
    for image, wanted in zip(got, expected, strict=True):
        a, b = np.asarray(image).astype(int), np.asarray(wanted).astype(int)
        assert np.ptp(b) > 25
        worst = np.abs(a - b).max()
        assert worst <= 1, f"{worst} of 255"


# Whole chains in float64: untrained networks make one rounding of float32 into several grey values.
@pytest.mark.parametrize(("prior", "decoder"), [(4.0, 8.0), (1.0, 1.0), (1.0, 8.0)])
def test_pictures_are_theirs(
    theirs: Any, converted: Path, prior: float, decoder: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = copy.deepcopy(theirs).to(dtype=torch.float64)
    ours = Pipeline.from_pretrained(str(converted), device="cpu", dtype=torch.float64)
    seeds = [3, 8]
    latents = same_noise(seeds, monkeypatch)
    expected = exact(
        PROMPTS,
        prior_latents=latents["prior"],
        decoder_latents=latents["decoder"],
        super_res_latents=latents[f"upsampler-{HIGH}"],
        prior_guidance_scale=prior,
        decoder_guidance_scale=decoder,
    ).images
    options = {"prior": {"guidance": prior}, "decoder": {"guidance": decoder}}
    made = ours.generate(PROMPTS, seeds=seeds, options=options, watermark=False)
    assert {role: used["steps"] for role, used in made.settings[0]["stages"].items()} == STEPS
    assert_same_pictures(made.images, expected)


@pytest.mark.parametrize("guidance", [8.0, 1.0])
def test_variations_are_theirs(
    varying: Any, tmp_path: Path, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    varying.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    exact = copy.deepcopy(varying).to(dtype=torch.float64)
    ours = Pipeline.from_pretrained(str(tmp_path / "ours"), device="cpu", dtype=torch.float64)
    seeds = [3, 8]
    latents = same_noise(seeds, monkeypatch)
    rows = torch.linspace(0, 255, 32).byte().numpy()
    pictures = [
        Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], k), -1)) for k in np.uint8([9, 200])
    ]
    expected = exact(
        pictures,
        decoder_latents=latents["decoder"],
        super_res_latents=latents[f"upsampler-{HIGH}"],
        decoder_guidance_scale=guidance,
    ).images
    changes = {"decoder": {"guidance": guidance}}
    made = ours.vary(pictures, fresh_noise=True, seed=seeds, options=changes, watermark=False)
    assert_same_pictures(made.images, expected)


def test_karlos_own_numbers_are_the_defaults(ours: Pipeline, karlo: Path, tmp_path: Path) -> None:
    assert ours.prior is not None
    assert [s.config.sampling.steps for s in (ours.prior, ours.decoder, *ours.upsamplers)] == [25, 25, 7]
    assert ours.prior.diffusion.config.clamp == 5.0
    assert ours.sizes == (LOW, HIGH)
    convert(karlo / "prior", tmp_path / "prior")  # by itself, and without --parity
    prior = load_stage(tmp_path / "prior")
    assert prior.diffusion.config.clamp == 10.0
    torch.testing.assert_close(prior.network.query, ours.prior.network.query)


@pytest.mark.parametrize("part", ["decoder", "super_res_first"])
def test_a_single_network_is_converted_with_what_belongs_to_it(
    ours: Pipeline, karlo: Path, tmp_path: Path, part: str
) -> None:
    expected = ours.decoder if part == "decoder" else ours.upsamplers[0]
    convert(karlo / part, tmp_path / "out")
    stage = load_stage(tmp_path / "out")
    assert stage.config.model_copy(update={"clip": expected.config.clip}) == expected.config
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(stage.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_prior_without_its_image_encoder_is_refused(karlo: Path, tmp_path: Path) -> None:
    """As Kandinsky 2.2's repository of the prior, which has one."""
    folder = copied(karlo, tmp_path)
    replaced(folder / "model_index.json", b'{"_class_name": "KandinskyV22PriorPipeline"}')
    with pytest.raises(CheckpointError, match="image_encoder/config.json: "):
        convert(folder, tmp_path / "out")


def test_another_pipelines_prior_is_pointed_out(karlo: Path, tmp_path: Path) -> None:
    """A pipeline that cannot be run here, around a prior that can."""
    folder = copied(karlo, tmp_path)
    replaced(folder / "model_index.json", b'{"_class_name": "AnotherPipeline"}')
    with pytest.raises(CheckpointError, match=f"and this one's {folder}/prior by itself"):
        convert(folder, tmp_path / "out")


def test_a_folder_of_diffusers_is_converted_once(
    karlo: Path, ours: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Pipeline.from_pretrained(str(karlo), device="cpu")
    assert first.folder.is_relative_to(tmp_path)
    written = (first.folder / "model_index.json").stat().st_mtime_ns
    again = Pipeline.from_pretrained(str(karlo), device="cpu")
    assert (again.folder / "model_index.json").stat().st_mtime_ns == written
    assert again.clip.identity == ours.clip.identity
    options = {
        role: {"steps": 1} for role in ("prior", "decoder", f"upsampler-{HIGH}")
    }  # theirs divides by zero
    assert first.generate("a hat", seed=1, options=options).images[0].size == (HIGH, HIGH)


def test_the_repository_of_variations_has_no_prior(varying: Any, tmp_path: Path) -> None:
    varying.save_pretrained(tmp_path / "variations")
    convert(tmp_path / "variations", tmp_path / "out")
    ours = Pipeline.from_pretrained(str(tmp_path / "out"), device="cpu", dtype=torch.float32)
    with pytest.raises(RequestError, match="no prior"):
        ours.generate("a hat")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = draw(2, 3, 32, 32).tanh()
    with torch.inference_mode():
        assert_near(
            ours.clip.encode_image(images),
            varying.image_encoder(((images + 1) / 2 - mean) / std).image_embeds,
        )
    ours.save_pretrained(tmp_path / "saved")
    assert Pipeline.from_pretrained(str(tmp_path / "saved"), device="cpu").prior is None


# --- what theirs cannot do ---

FEW: dict[str, dict[str, Any]] = {
    "prior": {"steps": 3},
    "decoder": {"steps": 3, "sampler": "unipc"},
    f"upsampler-{HIGH}": {"steps": 2},
}


def test_every_step_can_be_looked_at_and_be_the_last(ours: Pipeline) -> None:
    seen: dict[str, list[torch.Size]] = {}

    def look(role: str, number: int, steps: int, step: Step) -> None:
        assert steps == FEW[role]["steps"] and number == len(seen.setdefault(role, [])) + 1
        assert step.x0.isfinite().all()
        seen[role].append(step.x0.shape)
        if stop == (role, number):
            raise Cancelled("enough")

    stop = ("decoder", 2)
    with pytest.raises(Cancelled):
        ours.generate(PROMPTS, seed=1, options=FEW, on_step=look)
    assert list(seen) == ["prior", "decoder"] and seen["decoder"] == [(2, 3, LOW, LOW)] * 2
    stop = ("", 0)
    seen.clear()
    ours.generate("a hat", seed=1, options=FEW, on_step=look)
    assert {role: len(shapes) for role, shapes in seen.items()} == {
        role: used["steps"] for role, used in FEW.items()
    }
    assert seen[f"upsampler-{HIGH}"][0] == (1, 3, HIGH, HIGH)


def test_negative_prompts_lead_away(ours: Pipeline) -> None:
    plain, away = (
        ours.generate("a hat", seed=1, negative=n, options=FEW).image_embeds for n in ("", "a red fox")
    )
    assert (plain - away).abs().max() > 1e-3
    unguided = {role: {**used, "guidance": 1} for role, used in FEW.items()}
    plain, away = (ours.generate("a hat", seed=1, negative=n, options=unguided) for n in ("", "a red fox"))
    # With a longer negative prompt the caption is padded further, which is another rounding.
    torch.testing.assert_close(plain.image_embeds, away.image_embeds, rtol=1e-4, atol=1e-5)
    assert_same_pictures(plain.images, away.images)


def test_of_several_embeddings_the_nearest_to_the_caption_is_kept(ours: Pipeline) -> None:
    z_t = ours.clip.encode_text(PROMPTS).embed
    scores = []
    for n in (1, 2, 8):
        options = {**FEW, "prior": {"steps": 3, "candidates": n}}
        made = ours.generate(PROMPTS, seed=1, size=LOW, options=options)
        scores.append((made.image_embeds * z_t).sum(1))
    assert (scores[1] >= scores[0] - 1e-4).all() and (scores[2] >= scores[1] - 1e-4).all()
    assert (scores[2] > scores[0] + 1e-3).any()


def test_a_seed_is_a_pictures_own(converted: Path) -> None:
    ours = Pipeline.from_pretrained(
        str(converted), device="cpu", dtype=torch.float64
    )  # see test_pictures_are_theirs
    both = ours.generate(PROMPTS, seeds=[3, 8], options=FEW, watermark=False)
    alone = ours.generate(PROMPTS[1], seed=8, options=FEW, watermark=False)
    assert_same_pictures(alone.images, both.images[1:])


@pytest.mark.parametrize(("dtype", "levels"), [(torch.float16, 0.1), (torch.bfloat16, 1.0)])
def test_the_last_step_is_safe_in_half_precision(converted: Path, dtype: torch.dtype, levels: float) -> None:
    """At t = 0 sigma is 0.006: what is to move a pixel there must be an eps of 10 to 50, as Karlo's expert
    says.
    """
    made = []
    for precision in (torch.float32, dtype):
        stage = load_stage(converted / f"upsampler-{HIGH}")
        for name, tensor in stage.network.expert.conv_out.named_parameters():
            tensor.data *= 50 if name == "weight" else 1
        stage.network.to(precision, memory_format=torch.channels_last)
        with torch.inference_mode():
            x = torch.cat([draw(1, 3, HIGH, HIGH), draw(2, 3, HIGH, HIGH)[:1]]).tanh()
            low = stage.condition(torch.nn.functional.interpolate(x, (LOW, LOW)), HIGH)
            denoise = stage.denoiser(low, None, stage.config.sampling)
            made.append(denoise(x, 0))
    exact, half = made
    assert exact.eps.abs().max() > 10 and half.x0.dtype == torch.float32
    assert ((exact.x0 - x).abs() * 127.5).max() > 5  # it does move them
    print(
        "RMS", (half.x0 - exact.x0).square().mean().sqrt() * 127.5, (half.x0 - exact.x0).abs().max() * 127.5
    )
    assert (half.x0 - exact.x0).square().mean().sqrt() * 127.5 < levels


@pytest.mark.parametrize("native", [True, False])
def test_karlo_runs_in_bfloat16_where_that_is_quick(
    karlo: Path, converted: Path, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("unclip.pipeline.pipeline.quick_in_bf16", lambda _: native)
    pipe = Pipeline.from_pretrained(str(karlo), device="cpu")
    weight = next(pipe.decoder.network.parameters())
    assert weight.dtype == (torch.bfloat16 if native else torch.float32)
    settings = pipe.generate("a hat", seed=1, size=LOW, options=FEW).settings[0]
    assert settings.get("dtype") == ("bfloat16" if native else None)
    if native:
        for asked in ({"dtype": torch.float32}, {"revision": None}):
            exact = Pipeline.from_pretrained(
                str(karlo if "dtype" in asked else converted), device="cpu", **asked
            )
            assert next(exact.decoder.network.parameters()).dtype == torch.float32  # as asked; with --parity


def copied(karlo: Path, tmp_path: Path) -> Path:
    """Links to a model whose files a test may replace."""
    for path in karlo.rglob("*"):
        if path.is_file():
            target = tmp_path / "bad" / path.relative_to(karlo)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return tmp_path / "bad"


def replaced(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def truncated(folder: Path) -> None:
    path = folder / "decoder" / "diffusion_pytorch_model.safetensors"
    replaced(path, path.read_bytes()[:-100])


def another_class(folder: Path) -> None:
    replaced(folder / "model_index.json", b'{"_class_name": "StableDiffusionPipeline"}')


def no_text_proj(folder: Path) -> None:
    (folder / "text_proj" / "config.json").unlink()


def misshapen_mean(folder: Path) -> None:
    path = folder / "prior" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    path.unlink()
    save_file({**weights, "clip_mean": torch.zeros(1, 7)}, path)


def tensor_lost(folder: Path) -> None:
    path = folder / "super_res_last" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    path.unlink()
    save_file({name: tensor for name, tensor in weights.items() if name != "conv_in.bias"}, path)


def shards_elsewhere(folder: Path) -> None:
    (folder / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "prior" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"clip_mean": "../../secret.safetensors"}}')


class Payload:
    """What runs when a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def pickled(folder: Path) -> None:
    (folder / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"clip_mean": Payload()}, folder / "prior" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncated, "decoder/diffusion_pytorch_model.safetensors: damaged"),
        (another_class, "is a StableDiffusionPipeline"),
        (no_text_proj, "text_proj/config.json: no such file"),
        (misshapen_mean, r"prior.clip_mean has shape \(1, 7\)"),
        (tensor_lost, "super_res_last.conv_in.bias is missing"),
        (shards_elsewhere, "points outside the folder"),
        (pickled, "refused"),
    ],
)
def test_bad_folders_are_refused_whole(karlo: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    folder = copied(karlo, tmp_path)
    spoil(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        convert(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


# --- single networks ---


@pytest.fixture
def parts(karlo: Path, varying: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pipeline's folders without its index, and with the image encoder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(karlo, tmp_path / "parts"))
    (folder / "model_index.json").unlink()
    varying.image_encoder.save_pretrained(folder / "image_encoder")
    return folder


def test_diffusers_networks_run_by_themselves_and_together_draw_the_same(
    ours: Pipeline, karlo: Path, parts: Path
) -> None:
    steps = {role: {"steps": 2} for role in ours.stages}
    few = {role: {role: {"steps": 2}} for role in ours.stages}
    prior, decoder, upsampler = (
        Pipeline.from_pretrained(str(parts / part), device="cpu", dtype=torch.float32)
        for part in ("prior", "decoder", "super_res_first")
    )
    assert [list(one.stages) for one in (prior, decoder, upsampler)] == [
        ["prior"],
        ["decoder"],
        [f"upsampler-{HIGH}"],
    ]
    assert prior.clip.identity == decoder.clip.identity == ours.clip.identity
    whole = Pipeline.from_pretrained(str(karlo), device="cpu", dtype=torch.float32)
    made = whole.generate("a hat", seed=4, options=steps, keep_stages=True)
    z_i = prior.sample_prior("a hat", seed=4, options=few["prior"])
    drawn = decoder.decode(z_i, "a hat", seed=4, options=few["decoder"])
    assert torch.equal(z_i, made.image_embeds)
    assert drawn.images[0].tobytes() == made.stages[LOW][0].tobytes()
    assert decoder.vary(drawn.images[0], fresh_noise=True, seed=1, options=few["decoder"]).images[0].size == (
        LOW,
        LOW,
    )
    large = upsampler.upsample(drawn.images, seed=4, options=few[f"upsampler-{HIGH}"])
    assert large.images[0].size == (HIGH, HIGH)


def test_a_single_network_is_converted_once_and_again_when_what_it_needs_changed(parts: Path) -> None:
    first = Pipeline.from_pretrained(str(parts / "prior"), device="cpu")
    written = (first.folder / "model_index.json").stat().st_mtime_ns
    again = Pipeline.from_pretrained(str(parts / "prior"), device="cpu")
    assert (again.folder, (again.folder / "model_index.json").stat().st_mtime_ns) == (first.folder, written)
    shutil.rmtree(parts / "text_encoder")
    alone = Pipeline.from_pretrained(str(parts / "prior"), device="cpu")
    assert alone.folder != first.folder
    with pytest.raises(RequestError, match="comes without the CLIP"):
        alone.sample_prior("a hat")
