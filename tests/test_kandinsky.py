"""Kandinsky 2.2 in small: every verb, offloaded or not, in each precision; the command line and the API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("diffusers")

from tiny_kandinsky import DECODER, INPAINT, PRIOR, SIDE, WIDTH, write

from unclip.cli import cli
from unclip.errors import CheckpointError, RequestError
from unclip.images import read_settings
from unclip.models.assemble import assemble
from unclip.models.convert import convert
from unclip.pipeline import Generation, Pipeline, SamplingOptions
from unclip.provenance.watermark import detect
from unclip.stages import decoder_latent, load_stage
from unclip.stages.decoder_latent import tiled

FEW = SamplingOptions(seed=3, stages={"prior": {"steps": 2}, "decoder": {"steps": 2}})
SMALL = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
PICTURE = Image.fromarray(SMALL).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
MASK = Image.new("L", (SIDE, SIDE))
MASK.paste(255, (22, 14, 54, 47))
Z_I = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))

VERBS: dict[str, Callable[[Pipeline], Any]] = {
    "generate": lambda p: p("a cat", num_images=2, negative="a dog", options=FEW),
    "generate the best of two": lambda p: p(
        "a cat", num_images=2, negative="a dog", options=FEW.with_stage("decoder", candidates=2)
    ),
    "decode": lambda p: p.decode(Z_I, options=FEW, size=(96, 64)),
    "vary": lambda p: p.vary(PICTURE, options=FEW),
    "vary from noise": lambda p: p.vary(PICTURE, fresh_noise=True, options=FEW),
    "interpolate": lambda p: p.interpolate([PICTURE, "a cat"], 2, options=FEW),
    "diff": lambda p: p.diff(PICTURE, "a cat", "a fox", 0.3, options=FEW),
    "mix": lambda p: p.mix(["a cat", PICTURE], options=FEW),
    "edit": lambda p: p.edit(PICTURE, "a fox", MASK, repeats=2, options=FEW),
    "outpaint": lambda p: p.outpaint(PICTURE, "a fox", (80, 64), repeats=1, options=FEW),
    "invert": lambda p: p.invert(PICTURE, options=FEW),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("kandinsky"))


@pytest.fixture(scope="module")
def folders(theirs: Path) -> dict[str, Path]:
    """Converted models of the plain decoder and of the inpainting one."""
    out = {name: theirs / f"ours-{name}" for name in (DECODER, INPAINT)}
    for name, folder in out.items():
        convert(theirs / name, folder)
    return out


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Callable[..., Pipeline]:
    @cache
    def loaded(dtype: torch.dtype, offload: bool = False, name: str = DECODER) -> Pipeline:
        return Pipeline.from_pretrained(str(folders[name]), device="cpu", dtype=dtype, offload=offload)

    return loaded


def arrays(made: Any) -> list[np.ndarray]:
    if isinstance(made, Generation):
        return [np.asarray(image).astype(int) for image in made.images]
    return [made.noise.float().numpy()]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_run_in_each_precision_offloaded_or_not(load: Callable[..., Pipeline], verb: str) -> None:
    whole, offloaded, bf16 = (
        arrays(VERBS[verb](load(*how)))
        for how in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, True))
    )
    for a, b, c in zip(whole, offloaded, bf16, strict=True):
        assert a.shape == b.shape == c.shape
        assert np.ptp(a) > 0
        np.testing.assert_allclose(a, b, atol=1 if a.dtype == int else 1e-3, rtol=1e-3)
        assert not np.array_equal(a, c)


@pytest.mark.parametrize("name", [DECODER, INPAINT])
def test_kept_pixels_stay(load: Callable[..., Pipeline], name: str) -> None:
    made = load(torch.float32, name=name).edit(PICTURE, "a fox", MASK, options=FEW)
    kept = np.asarray(MASK) == 0
    assert np.array_equal(np.asarray(PICTURE)[kept], np.asarray(made.images[0])[kept])
    assert not np.array_equal(np.asarray(PICTURE)[~kept], np.asarray(made.images[0])[~kept])


def test_a_seed_is_one_picture_in_any_batch(load: Callable[..., Pipeline]) -> None:
    pipe = load(torch.float64)  # in float32 an untrained network makes a rounding into several grey values
    both = pipe("a cat", num_images=2, seed=5, negative="a dog", options=FEW).images
    alone = pipe("a cat", seed=6, negative="a dog", options=FEW).images[0]
    assert np.abs(np.asarray(both[1]).astype(int) - np.asarray(alone)).max() <= 1
    assert not np.array_equal(np.asarray(both[0]), np.asarray(both[1]))


def test_a_negative_prompt_moves_the_null_embedding(load: Callable[..., Pipeline]) -> None:
    pipe, changes = load(torch.float32), FEW.with_stage("prior", guidance=1.0)
    plain, negative, unguided, unguided_negative = (
        pipe("a cat", negative=word, options=changes.with_stage("decoder", guidance=scale))
        for scale in (4.0, 1.0)
        for word in ("", "a dog")
    )
    assert torch.equal(plain.image_embeds, negative.image_embeds)  # a prior without guidance ignores it
    assert "negative" in negative.seconds and "negative" not in unguided_negative.seconds
    assert not np.array_equal(np.asarray(plain.images[0]), np.asarray(negative.images[0]))
    assert np.array_equal(np.asarray(unguided.images[0]), np.asarray(unguided_negative.images[0]))


def test_sizes_are_multiples_of_the_unit(load: Callable[..., Pipeline]) -> None:
    pipe = load(torch.float32)
    unit = pipe.decoder.unit
    assert unit == 8
    made = pipe("a cat", size=(SIDE + unit, SIDE - unit), options=FEW).images[0]
    assert made.size == (SIDE + unit, SIDE - unit)
    with pytest.raises(RequestError, match="in steps of 8 pixels"):
        pipe("a cat", size=(SIDE + 1, SIDE), options=FEW)


def test_pictures_carry_the_watermark(load: Callable[..., Pipeline]) -> None:
    made = load(torch.float32)("a cat", size=128, options=FEW).images[0]
    assert detect(made)


# --- latents ---


def test_tiles_show_no_seam(load: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps between neighbouring pixels are no larger at the borders of tiles than elsewhere."""
    decoder = load(torch.float32).decoder
    assert isinstance(decoder, decoder_latent.LatentDecoder)
    x = torch.nn.functional.interpolate(torch.randn(1, 4, 5, 7), (40, 56), mode="bicubic")
    with torch.inference_mode():
        whole = decoder.render(x)
        monkeypatch.setattr(decoder_latent, "TILE", 16)
        monkeypatch.setattr(decoder_latent, "OVERLAP", 8)
        made = decoder.render(x)
    assert made.shape == whole.shape
    steps = made.diff(dim=-1).abs().mean((0, 1, 2))
    starts = [cell * decoder.cell for cell in decoder_latent._starts(56)[1:]]
    borders = torch.tensor([*starts, *(start + 8 * decoder.cell for start in starts)])
    assert steps[borders - 1].mean() < 1.2 * steps.mean()


def test_tiles_of_an_even_function_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_latent, "TILE", 16)
    monkeypatch.setattr(decoder_latent, "OVERLAP", 4)
    x = torch.randn(1, 3, 33, 50)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        assert max(latents.shape[-2:]) <= 16
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)

    torch.testing.assert_close(tiled(decode, x, 2), x.repeat_interleave(2, -1).repeat_interleave(2, -2))


# --- folders ---


def test_a_decoder_without_its_prior_decodes_unguided(theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs / DECODER, tmp_path / "alone")
    convert(tmp_path / "alone", tmp_path / "model")
    pipe = Pipeline.from_pretrained(str(tmp_path / "model"), device="cpu", dtype=torch.float32)
    assert pipe.prior is None and pipe._clip is None
    few = SamplingOptions(seed=3, stages={"decoder": {"steps": 2}})
    with pytest.raises(RequestError, match="beside the decoder's, join both by `unclip assemble`, or"):
        pipe.decode(Z_I, options=few)
    unguided = few.with_stage("decoder", guidance=1)
    assert len(pipe.decode(Z_I, options=unguided).images) == 2
    with pytest.raises(RequestError, match="no prior"):
        pipe("a cat", options=unguided)
    assemble(
        [tmp_path / "model" / "decoder", theirs / PRIOR / "prior"],
        tmp_path / "both",
        clip=str(theirs / PRIOR / "prior"),
    )
    joined = Pipeline.from_pretrained(str(tmp_path / "both"), device="cpu", dtype=torch.float32)
    assert joined("a cat", options=FEW).images[0].size == (SIDE, SIDE)


def test_a_single_network_and_a_combined_folder(
    theirs: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    convert(theirs / DECODER / "unet", tmp_path / "stage")
    expected = load_stage(folders[DECODER] / "decoder").state_dict()
    for name, tensor in load_stage(tmp_path / "stage").state_dict().items():
        assert torch.equal(tensor, expected[name])
    combined = tmp_path / "combined"
    for part in ("unet", "movq", "scheduler"):
        shutil.copytree(theirs / DECODER / part, combined / part)
    for part in ("prior", "scheduler", "text_encoder", "tokenizer", "image_encoder", "image_processor"):
        shutil.copytree(theirs / PRIOR / part, combined / f"prior_{part}")
    (combined / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyV22CombinedPipeline"}))
    convert(combined, tmp_path / "model")
    made, wanted = (
        Pipeline.from_pretrained(str(folder), device="cpu", dtype=torch.float32)("a cat", options=FEW).images[
            0
        ]
        for folder in (tmp_path / "model", folders[DECODER])
    )
    assert np.array_equal(np.asarray(made), np.asarray(wanted))


def test_a_saved_pipeline_is_the_same(load: Callable[..., Pipeline], tmp_path: Path) -> None:
    pipe = load(torch.float32)
    pipe.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(str(tmp_path / "saved"), device="cpu", dtype=torch.float32)
    made, wanted = (one("a cat", options=FEW).images[0] for one in (again, pipe))
    assert np.array_equal(np.asarray(made), np.asarray(wanted))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"encoder_hid_dim_type": "text_image_proj"}, "is not conditioned on a CLIP embedding alone"),
        ("unet", {"_class_name": "Kandinsky3UNet"}, "is a Kandinsky3UNet, not a UNet2DConditionModel"),
        ("unet", {"block_out_channels": [32]}, "diffusers builds no UNet2DConditionModel from its config"),
        ("unet", {"cross_attention_dim": 32}, "tensor unet.* has shape|has shape"),
        ("movq", {"_class_name": "AutoencoderTiny"}, "is a AutoencoderTiny, not a VQModel or AutoencoderKL"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "scheduler_config.json: beta_schedule"),
    ],
)
def test_other_models_are_refused(
    theirs: Path, tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(theirs / DECODER, tmp_path / "bad")
    path = tmp_path / "bad" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(tmp_path / "bad", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_diffusers_one_line_says_what_to_install(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(CheckpointError, match=r'pip install "unclip\[latent\]"'):
        load_stage(folders[DECODER] / "decoder")


# --- the command line and the API ---


def test_the_command_line(
    theirs: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    PICTURE.save("in.png")
    MASK.save("mask.png")
    common = ("--seed", "1", "--steps", "2", "--quiet")
    plain, inpaint = (("--model", str(folders[name])) for name in (DECODER, INPAINT))
    for arguments in (
        (
            "generate",
            "a cat",
            "--negative",
            "a dog",
            "--size",
            "96x64",
            "-o",
            "made.png",
            "--model",
            str(theirs / DECODER),
        ),
        ("vary", "in.png", "-o", "varied.png", *plain),
        ("edit", "in.png", "a fox", "--mask", "mask.png", "-o", "edited.png", *inpaint),
        ("edit", "in.png", "a fox", "--strength", "0.5", "-o", "changed.png", *plain),
    ):
        result = CliRunner().invoke(cli, [*arguments, *common], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    assert Image.open("made.png").size == (96, 64)
    settings = read_settings(Path("made.png"))
    assert (settings["negative"], settings["size"], settings["stages"]["decoder"]["sampler"]) == (
        "a dog",
        "96x64",
        "dpmpp_2m",
    )
    assert Image.open("edited.png").size == (SIDE, SIDE)


@pytest.fixture(scope="module")
def server(load: Callable[..., Pipeline], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("fastapi", reason="needs unclip[serve]")
    serving = pytest.importorskip("serving", reason="needs openai and uvicorn")
    from unclip.serve.app import Policy
    from unclip.serve.store import Store
    from unclip.serve.worker import Worker

    pipe = load(torch.float32, True)  # previews are rendered amid the steps of an offloaded decoder
    running = serving.Running(
        Worker(pipe), Store(tmp_path_factory.mktemp("images")), Policy(keys=(serving.KEY,))
    )
    yield running
    running.stop()


def test_the_api(server: Any) -> None:
    import base64
    import io

    import openai
    from serving import KEY

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY)
    how: dict[str, Any] = {"seed": 1, "steps": 2, "negative_prompt": "a dog"}
    events = list(
        client.images.generate(
            prompt="a cat",
            n=1,
            size="256x256",
            stream=True,
            partial_images=2,
            model="gpt-image-1",
            extra_body=how,
        )
    )
    assert [event.type.rsplit(".", 1)[1] for event in events] == [
        "partial_image",
        "partial_image",
        "completed",
    ]
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(event.b64_json)))) for event in events]
    assert {picture.shape for picture in pictures} == {(256, 256, 3)}
    buffer = io.BytesIO()
    PICTURE.resize((256, 256)).save(buffer, "PNG")
    varied = client.images.create_variation(
        image=("in.png", buffer.getvalue()), n=1, size="256x256", extra_body={"seed": 1, "steps": 2}
    )
    assert varied.data and len(varied.data) == 1
