"""Files of embeddings, and the commands that write and decode them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from unclip import Embeddings, Pipeline, read_embeddings, write_embeddings
from unclip.cli import cli
from unclip.embeddings import read_vectors
from unclip.errors import RequestError
from unclip.images import read_settings

PROMPT = "a corgi in space"


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(str(tiny_model), device="cpu")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(tiny_model: Path) -> Any:
    """Runs a command with the tiny model and returns what it prints, or its error."""

    def run(name: str, *arguments: str) -> list[str] | str:
        size = ["--size", "64"] if name not in ("embed",) else []
        given = [name, *arguments, "--model", str(tiny_model), "--device", "cpu", "-q", *size]
        done = CliRunner().invoke(cli, given)
        if isinstance(done.exception, RequestError):
            return str(done.exception)
        assert done.exit_code == 0, done.output
        return done.stdout.split()

    return run


def rows(n: int = 3, width: int = 32) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


# --- files ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors_of_every_float_are_read(dtype: torch.dtype) -> None:
    save_file({"image_embeds": rows().to(dtype), "other": rows(2)}, "z.safetensors")
    found = read_embeddings("z.safetensors")
    assert torch.equal(found.image_embeds, rows().to(dtype).float())
    assert (found.clip, found.names, found.seeds) == (None, (), ())


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_npy_of_every_float_is_read_one_embedding_or_several(dtype: str) -> None:
    np.save("z.npy", rows().numpy().astype(dtype))
    np.save("one.npy", rows(1)[0].numpy().astype(dtype))
    assert read_embeddings("z.npy").image_embeds.shape == (3, 32)
    assert torch.equal(
        read_embeddings("one.npy").image_embeds, torch.from_numpy(rows(1).numpy().astype(dtype).astype("f4"))
    )


def test_what_is_known_of_embeddings_is_kept() -> None:
    wrote = Embeddings(rows(), "a-clip@1", ("é.png", "b, c", "d"), (3, 4, 2**62))
    write_embeddings("deep/z.safetensors", wrote)
    found = read_embeddings("deep/z.safetensors")
    assert torch.equal(found.image_embeds, wrote.image_embeds)
    assert (found.clip, found.names, found.seeds) == (wrote.clip, wrote.names, wrote.seeds)
    write_embeddings("z.npy", wrote)
    assert np.array_equal(np.load("z.npy"), rows().numpy())
    with pytest.raises(RequestError, match=r"must end in \.safetensors or \.npy"):
        write_embeddings("z.pt", wrote)


def test_the_only_matrix_of_another_name_is_taken() -> None:
    save_file({"latents": rows(), "scale": torch.ones(1)}, "z.safetensors")
    assert torch.equal(read_embeddings("z.safetensors").image_embeds, rows())
    save_file({"a": rows(), "b": rows()}, "z.safetensors")
    with pytest.raises(RequestError, match=r"no tensor image_embeds; it holds a \[3, 32\], b \[3, 32\]$"):
        read_embeddings("z.safetensors")


def bad(name: str) -> Path:
    """A file that cannot be read as embeddings."""
    path = Path(f"{name}.npy")
    match name:
        case "pickle":
            path = Path("z.pt")
            torch.save(rows(), path)
        case "object":
            np.save(path, np.array([{"a": 1}, None]), allow_pickle=True)
        case "raw pickle":
            path.write_bytes(pickle.dumps([1]))
        case "nan":
            np.save(path, np.array([[0, 1], [np.nan, 1], [1, np.inf]]))
        case "overflow":
            np.save(path, np.array([[1e300, 1.0]]))
        case "three":
            np.save(path, np.zeros((2, 3, 4)))
        case "none":
            np.save(path, np.zeros((0, 32)))
        case "scalar":
            np.save(path, np.float32(3))
        case "text":
            np.save(path, np.array(["a", "b"]))
        case "complex":
            np.save(path, np.zeros((2, 2), complex))
        case "bfloat16":
            np.save(path, np.zeros((2, 2), "V2"))
        case "archive":
            with path.open("wb") as file:
                np.savez(file, a=rows().numpy())
        case "cut":
            np.save(path, rows(100).numpy())
            path.write_bytes(path.read_bytes()[:200])
        case "huge":
            np.save(path, rows(100).numpy())
            path.write_bytes(path.read_bytes().replace(b"(100, 32)", b"(9999999999999, 32)")[:300])
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "damaged":
            path = Path("z.safetensors")
            path.write_bytes(b"\x10" + bytes(40))
        case "weights":
            path = Path("z.safetensors")
            save_file({f"{i:02}.weight": torch.ones(1, 1) for i in range(20)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pickle", r"^z\.pt: pickles are never loaded; save the tensor as safetensors or \.npy$"),
        ("object", r"^object\.npy: it holds Python objects \(a pickle\), which are never loaded$"),
        ("raw pickle", "never loaded|not a readable"),
        ("nan", r"nan\.npy: 2 of 3 rows hold NaN or infinite numbers, the first is row 1$"),
        ("overflow", "1 of 1 rows hold NaN or infinite"),
        ("three", r"three\.npy: has the shape \[2, 3, 4\]; embeddings are \[D\] or \[N, D\]$"),
        ("none", r"none\.npy: has the shape \[0, 32\]: it holds no embedding$"),
        ("scalar", r"shape \[\]"),
        ("text", "no real numbers"),
        ("complex", "no real numbers"),
        ("bfloat16", "no real numbers"),
        ("archive", "an archive of several arrays"),
        ("cut", "not a readable .npy file"),
        ("huge", "not a readable .npy file"),
        ("empty", "not a readable .npy file"),
        ("folder", "folder.npy: Is a directory"),
        ("missing", "missing.npy: no such file"),
        ("damaged", "not a readable safetensors file"),
        ("weights", r"it holds 00\.weight \[1, 1\], .* and 12 more$"),
    ],
)
def test_bad_files_are_one_line_that_says_what_they_are(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read_embeddings(bad(name))
    assert "\n" not in str(caught.value)


def test_vectors_may_be_integers_and_have_three_dimensions() -> None:
    np.save("v.npy", np.arange(24).reshape(2, 3, 4))
    assert read_vectors("v.npy").shape == (2, 3, 4) and read_vectors("v.npy").dtype == torch.float32
    np.save("v.npy", np.full((2, 3), np.nan))
    with pytest.raises(RequestError, match="NaN"):
        read_vectors("v.npy")


# --- embed and decode ---


def test_embed_and_decode_are_generate(command: Any) -> None:
    prompts = ["--prompt", PROMPT, "--prompt", "a cat. A hat"]
    assert command("embed", *prompts, "-n", "2", "--seed", "5", "-o", "z.safetensors") == ["z.safetensors"]
    found = read_embeddings("z.safetensors")
    assert found.names == (PROMPT, PROMPT, "a cat. A hat", "a cat. A hat") and found.seeds == (5, 6, 5, 6)
    assert found.clip is not None and found.clip.startswith("tiny@")
    each = [value for name in found.names for value in ("--prompt", name)]
    decoded = command("decode", "z.safetensors", *each, "-o", "a/")
    whole = command("generate", PROMPT, "a cat. A hat", "-n", "2", "--seed", "5", "-o", "b/")
    assert [Path(one).name[2:] for one in decoded] == [Path(one).name for one in whole]
    for one, other in zip(decoded, whole, strict=True):
        assert Image.open(one).tobytes() == Image.open(other).tobytes()
    settings = read_settings(Path(decoded[3]))
    assert settings is not None
    assert [settings[key] for key in ("embeddings", "row", "seed", "verb")] == [
        "z.safetensors",
        3,
        6,
        "decode",
    ]


def test_pictures_folders_and_texts_are_embedded_by_the_models_clip(command: Any, pipe: Pipeline) -> None:
    Path("in/deep").mkdir(parents=True)
    pictures = [Image.effect_noise((40 + i, 50), 60 + i).convert("RGBA") for i in range(3)]
    for name, picture in zip(("in/b.png", "in/deep/a.webp", "c.png"), pictures, strict=True):
        picture.save(name, lossless=True)
    command("embed", "in", "c.png", "-o", "z.safetensors")
    found = read_embeddings("z.safetensors")
    assert found.names == ("in/b.png", "in/deep/a.webp", "c.png") and found.clip == pipe.clip.identity
    torch.testing.assert_close(found.image_embeds, pipe.encode_images(pictures), rtol=0, atol=0)
    command("embed", "--prompt", PROMPT, "--text", "-o", "t.safetensors")
    assert torch.equal(load_file("t.safetensors")["text_embeds"], pipe.encode_text(PROMPT))
    assert command("decode", "z.safetensors", "--seed", "1", "-o", "out/") == [
        "out/0-b-1.png",
        "out/1-a-2.png",
        "out/2-c-3.png",
    ]
    made = pipe.decode(found, seed=1, size=64)
    assert [Image.open(f"out/{name}").tobytes() for name in ("0-b-1.png", "1-a-2.png", "2-c-3.png")] == [
        one.tobytes() for one in made.images
    ]


def test_decoding_resumes_and_refuses_other_embeddings(command: Any) -> None:
    np.save("z.npy", rows(3).numpy())
    first = command("decode", "z.npy", "-n", "2", "-o", "out/")
    assert len(first) == 6 and first[0].startswith("out/0-z-0-")
    kept = Path(first[0]).read_bytes()
    Path(first[4]).unlink()
    assert command("decode", "z.npy", "-n", "2", "-o", "out/") == [first[4]]
    assert Path(first[0]).read_bytes() == kept
    np.save("z.npy", rows(4).numpy())
    assert "were asked for with embeddings '3: " in command("decode", "z.npy", "-n", "2", "-o", "out/")
    sheet = command("decode", "z.npy", "--grid", "-o", "sheet.png", "--negative", "a hat")
    assert sheet == ["sheet.png"] and json.dumps(read_settings(Path("sheet.png"))).count('"row"') == 4


def test_embeddings_of_another_clip_or_width_are_refused(command: Any, pipe: Pipeline) -> None:
    np.save("z.npy", rows(2, 30).numpy())
    own = pipe.clip.identity
    assert command("decode", "z.npy") == (
        f"z.npy: has 30 numbers per embedding; tiny decodes those of CLIP {own}, which have 32"
    )
    write_embeddings("z.safetensors", Embeddings(rows(2, 30), "other@1"))
    assert f"of CLIP other@1 has 30 numbers per embedding; tiny decodes those of CLIP {own}" in command(
        "decode", "z.safetensors"
    )
    write_embeddings("z.safetensors", Embeddings(rows(2), "other@1"))
    assert "holds embeddings of CLIP other@1; tiny decodes" in command("decode", "z.safetensors")
    with pytest.raises(RequestError, match="holds embeddings of CLIP other@1"):
        pipe.decode(read_embeddings("z.safetensors"))
    with pytest.raises(RequestError, match="image_embeds: 1 of 2 rows hold NaN"):
        pipe.decode(torch.tensor([[0.0] * 32, [float("nan")] * 32]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("embed -o z.npy", "one kind of them"),
        ("embed a.png --prompt hi -o z.npy", "one kind of them"),
        ("embed a.png -o z.pt", "must end in .safetensors or .npy"),
        ("embed a.png -o a.png/z.npy", "a.png is a file"),
        ("embed here -o z.npy", "no pictures"),
        ("embed words -o z.npy", "no such file or folder; a caption is given with --prompt"),
        ("embed a.png -o z.npy", "a.png: not a readable picture"),
        ("embed a.png -n 2 -o z.npy", "one embedding"),
        ("embed a.png --text -o z.npy", "--text: the text embeddings of captions"),
        ("embed --prompt hi -n 0 -o z.npy", "at least 1"),
        ("embed --prompt hi --steps 5 -o z.npy", "only the prior runs here, no decoder"),
        ("embed --vectors v.npy -o z.npy", "its prior reads captions, not vectors"),
        ("embed --vectors none.npy -o z.npy", "no such file"),
        ("decode v.npy --prompt a --prompt b", "2 prompts for the 3 embeddings of v.npy"),
        ("decode v.npy -n 0", "1 to"),
        ("decode a.png", "must end in"),
        ("mix v.npy hi", "holds 3 embeddings; a key is one"),
        ("mix gone.npy hi", "gone.npy: no such file"),
    ],
)
def test_mistakes_are_found(command: Any, arguments: str, message: str) -> None:
    Path("a.png").write_text("no picture")
    Path("here").mkdir()
    np.save("v.npy", rows().numpy())
    error = command(*arguments.split())
    assert isinstance(error, str) and message in error
    assert not Path("z.npy").exists()


# --- embeddings as keys ---


def test_embeddings_are_mixed_and_interpolated(command: Any, pipe: Pipeline) -> None:
    z_i = pipe.sample_prior(PROMPT, seed=2)
    write_embeddings("z.safetensors", Embeddings(z_i, pipe.clip.identity))
    own, same = (pipe.mix([key, "a cat"], [1, 0], seed=2, size=64) for key in (z_i, PROMPT))
    assert own.images[0].tobytes() == same.images[0].tobytes()
    assert own.settings[0]["keys"] == ["an embedding", "a cat"]
    frames = [
        pipe.interpolate(keys, 2, seed=2, size=64).images for keys in ([z_i[0], "a cat"], [PROMPT, "a cat"])
    ]
    assert frames[0][0].tobytes() == frames[1][0].tobytes()
    assert len(command("interpolate", "z.safetensors", "z.safetensors", "--frames", "2", "-o", "f/")) == 2
    assert len(command("mix", "z.safetensors", "a cat", "-o", "m.png")) == 1
    with pytest.raises(RequestError, match="2 embeddings: a key is one"):
        pipe.mix([z_i.repeat(2, 1), "a cat"])


def test_several_images_of_each_embedding(pipe: Pipeline) -> None:
    z_i = rows(2)
    many = pipe.decode(z_i, num_images=2, seed=3, size=64)
    assert many.seeds == [3, 4, 5, 6]
    alone = pipe.decode(z_i[1:], seed=5, size=64).images[0]
    difference = np.asarray(many.images[2]).astype(int) - np.asarray(alone)
    assert abs(difference).max() <= 1  # the last bits depend on the batch
