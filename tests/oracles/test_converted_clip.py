"""A converted text encoder against transformers': the same ids, states and z_t."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.clip.openclip import tokenizer_with
from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import CheckpointError
from unclip.models.convert.diffusers_stages import copy_clip
from unclip.models.resolve import load_clip

declare_missing_schemas()
transformers = pytest.importorskip("transformers")

CONTEXT, EMBED = 20, 24
CAPTIONS = [
    "a shiba inu wearing a beret and black turtleneck",
    "",
    "  Two\tCATS,\n3.5 hats -- don't they'll ",
    "é é Ünïcödé ß İ",
    "日本語 emoji 🦊🎩 👩‍👩‍👧",
    "a <|endoftext|> inside",
    "word " * 40,
    "x" * 300,
    "½ ② Ⅷ a_b-c/d 'S",
]


def written(folder: Path, activation: str, merges: int = 48_894) -> Path:
    """A random text encoder, over CLIP's whole vocabulary or the first of it, in the layout of the Hub's
    repositories.
    """
    words = folder / "tokenizer"
    words.mkdir(parents=True)
    source = tokenizer_with(merges, CONTEXT)
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (words / "vocab.json").write_text(json.dumps({marks.get(t, t): i for t, i in source.encoder.items()}))
    (words / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in source.bpe_ranks))
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": CONTEXT}))
    torch.manual_seed(0)
    model = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            hidden_size=32,
            intermediate_size=128,
            projection_dim=EMBED,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            hidden_act=activation,
            vocab_size=source.vocab_size,
            eos_token_id=2,  # as Karlo's says: the mark at the end is then the largest id
        )
    )
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder / "text_encoder")
    weights = load_file(folder / "text_encoder/model.safetensors")
    ids = {"text_model.embeddings.position_ids": torch.arange(CONTEXT)[None]}  # older versions wrote it
    save_file({**weights, **ids}, folder / "text_encoder/model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("theirs") / "model", "quick_gelu")


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "clip"
    copy_clip(folder, out, pictures=False)
    return out


@pytest.fixture(scope="module")
def clip(converted: Path) -> Any:
    return load_clip(str(converted))


def assert_as_theirs(clip: Any, folder: Path, captions: list[str]) -> None:
    """Ids to the last one; states and embeddings to 1e-6 of the largest."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = transformers.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder").eval()
    batch = tokenizer(captions, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        out = model(**batch)
    text = clip.encode_text(captions)
    assert text.ids.tolist() == batch["input_ids"].tolist()
    assert text.mask.tolist() == batch["attention_mask"].bool().tolist()

    def near(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() <= 1e-6 * b.abs().max())

    assert near(text.embed, out.text_embeds)
    assert near(text.tokens[text.mask], out.last_hidden_state[text.mask])


@pytest.mark.parametrize("captions", [CAPTIONS, ["an owl"]], ids=["many", "one"])
def test_captions_are_read_as_transformers_reads_them(clip: Any, folder: Path, captions: list[str]) -> None:
    assert (clip.width, clip.token_width, clip.context) == (EMBED, 32, CONTEXT)
    assert_as_theirs(clip, folder, captions)


def test_the_other_activation(tmp_path: Path) -> None:
    copy_clip(written(tmp_path / "model", "gelu", merges=100), tmp_path / "clip", pictures=False)
    assert_as_theirs(load_clip(str(tmp_path / "clip")), tmp_path / "model", CAPTIONS[:1])


def test_what_is_cut_is_told_in_the_captions_own_words(clip: Any) -> None:
    assert clip.truncate("An Owl") == ("An Owl", "")
    words = [f"Word{i}" for i in range(12)]
    read, lost = clip.truncate(" ".join(words))
    assert f"{read} {lost}".split() == words
    assert (
        clip.encode_text([read]).ids[0, :-1].tolist()
        == clip.encode_text([" ".join(words)]).ids[0, :-1].tolist()
    )
    assert clip.encode_text(["a"]).ids.shape == (1, 3)  # asking what is cut leaves no trace


def test_nothing_of_transformers_is_imported_to_read_a_caption(converted: Path) -> None:
    code = f"""
import sys
from unclip.models.resolve import load_clip
load_clip({str(converted)!r}).encode_text(["an owl"])
print(*sorted({{"transformers", "open_clip", "torch._dynamo"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def spoilt(converted: Path, tmp_path: Path, part: str, text: str) -> Path:
    """The converted CLIP with another text in one of its files."""
    for path in converted.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(converted)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes()) if path.suffix == ".json" else target.symlink_to(path)
    (tmp_path / part).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("part", "text", "said"),
    [
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer"),
        ("text_encoder/config.json", '{"hidden_size": 32}', "text_encoder/config.json"),
    ],
)
def test_a_damaged_part_is_named(converted: Path, tmp_path: Path, part: str, text: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        load_clip(str(spoilt(converted, tmp_path, part, text)))
    assert "\n" not in str(caught.value)


def test_a_text_encoder_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for part in ("tokenizer", "text_encoder"):
        (theirs / part).mkdir()
        for path in (folder / part).iterdir():
            (theirs / part / path.name).symlink_to(path)
    config = json.loads((folder / "text_encoder/config.json").read_text())
    (theirs / "text_encoder/config.json").unlink()
    (theirs / "text_encoder/config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match="text_encoder/config.json: hidden_act"):
        copy_clip(theirs, tmp_path / "out", pictures=False)
