"""Frozen encoders: our implementation agrees with open_clip and transformers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unclip.clip import Clip, Text
from unclip.clip.openclip import SimpleTokenizer, load_folder, text_states, tokenizer_with
from unclip.clip.preprocess import MEAN, STD, Preprocess
from unclip.errors import CheckpointError, ConfigError
from unclip.models.resolve import load_clip
from unclip.stages.batch import Batch
from unclip.stages.clip import ClipConfig, ClipStage

CAPTIONS = ["a red fox wearing a tall hat", "an owl", "", "a very long caption " * 3]
STRINGS = [
    "a red fox in the snow",
    "Hello,   World!",
    "it's the dog's bone",
    "100 balloons & 3 kites",
    "😀🚀 party 👩‍👩‍👧",
    "قطة على السجادة",
    "日本語のテキスト",
    "naïve café — “quoted”",
    "Ελληνικά",
    "zzzzqqqxxkj",
    "a",
    "?!…",
    "e\u0301",
    "ß ﬁ İ",
    "tab\tand\nline",
    "",
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- the shortened tokenizer ---


@pytest.fixture(scope="module")
def tokenizers() -> dict[int, SimpleTokenizer]:
    return {merges: tokenizer_with(merges, 77) for merges in (0, 1, 500, 4000, 48_894)}


@pytest.mark.parametrize("merges", [0, 1, 500, 4000, 48_894])
@pytest.mark.parametrize("string", STRINGS)
def test_tokens_decode_to_what_was_encoded(
    merges: int, string: str, tokenizers: dict[int, SimpleTokenizer]
) -> None:
    tokenizer = tokenizers[merges]
    ids = tokenizer.encode(string)
    assert all(0 <= i < 512 + merges for i in ids)
    # The tokenizer cleans and lower-cases, and does not record where words were separated by nothing.
    assert tokenizer.decode(ids).replace(" ", "") == tokenizer.clean_fn(string).replace(" ", "")


@pytest.mark.parametrize("merges", [0, 500, 48_894])
def test_vocabulary_is_bytes_merges_and_two_marks(
    merges: int, tokenizers: dict[int, SimpleTokenizer]
) -> None:
    tokenizer = tokenizers[merges]
    assert tokenizer.vocab_size == len(tokenizer.encoder) == len(tokenizer.decoder) == 512 + merges + 2
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (512 + merges, 513 + merges)


@pytest.mark.parametrize("string", STRINGS)
def test_all_merges_are_clips_own_tokenizer(string: str, tokenizers: dict[int, SimpleTokenizer]) -> None:
    assert tokenizers[48_894].encode(string) == SimpleTokenizer().encode(string)


def test_fewer_merges_cut_words_into_more_pieces(tokenizers: dict[int, SimpleTokenizer]) -> None:
    lengths = [
        len(tokenizers[m].encode("a photograph of an astronaut riding a horse"))
        for m in (0, 500, 4000, 48_894)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == len("aphotographofanastronautridingahorse")
    assert lengths[-1] == 8


# --- texts ---


def test_states_and_embedding_are_open_clips_own(tiny_clip: Any) -> None:
    ids, _ = tiny_clip.tokenize(CAPTIONS)
    tokens, embed = text_states(tiny_clip.model, ids, tiny_clip.tokenizer.eot_token_id)
    full = F.pad(ids, (0, tiny_clip.context - ids.shape[1]))
    torch.testing.assert_close(embed, tiny_clip.model.encode_text(full), rtol=1e-4, atol=1e-5)
    states: list[torch.Tensor] = []
    handle = tiny_clip.model.ln_final.register_forward_hook(
        lambda module, inputs, output: states.append(output)
    )
    tiny_clip.model.encode_text(full)
    handle.remove()
    torch.testing.assert_close(tokens, states[0][:, : ids.shape[1]], rtol=1e-4, atol=1e-5)


def test_tokens_are_open_clips_own(tiny_clip: Any) -> None:
    ids, mask = tiny_clip.tokenize(CAPTIONS)
    assert torch.equal(F.pad(ids, (0, tiny_clip.context - ids.shape[1])), tiny_clip.tokenizer(CAPTIONS))
    assert mask.sum(1).tolist() == [len(tiny_clip.tokenizer.encode(c)) + 2 for c in CAPTIONS]


def test_text_has_the_promised_shapes(tiny_clip: Clip) -> None:
    text = tiny_clip.encode_text(CAPTIONS)
    longest = text.ids.shape[1]
    assert list(text.captions) == CAPTIONS
    assert text.embed.shape == (4, tiny_clip.width)
    assert text.tokens.shape == (4, longest, tiny_clip.token_width)
    assert text.mask.shape == (4, longest)
    assert text.mask.sum(1).max() == longest <= tiny_clip.context


def test_a_caption_is_read_the_same_beside_a_longer_one(tiny_clip: Clip) -> None:
    together = tiny_clip.encode_text(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        alone = tiny_clip.encode_text([caption])
        length = alone.ids.shape[1]
        torch.testing.assert_close(together.embed[row], alone.embed[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.tokens[row, :length], alone.tokens[0], rtol=1e-4, atol=1e-5)
        assert together.mask[row].sum() == length


def test_empty_caption_is_start_and_end(tiny_clip: Any) -> None:
    tokenizer = tiny_clip.tokenizer
    assert tiny_clip.encode_text([""]).ids.tolist() == [[tokenizer.sot_token_id, tokenizer.eot_token_id]]


def test_long_caption_is_cut_at_the_context_and_still_ends(tiny_clip: Any) -> None:
    text = tiny_clip.encode_text(["word " * 500])
    assert text.ids.shape == (1, tiny_clip.context)
    assert text.ids[0, -1] == tiny_clip.tokenizer.eot_token_id
    assert text.embed.isfinite().all()


def test_short_caption_is_not_cut(tiny_clip: Clip) -> None:
    assert tiny_clip.truncate("a red fox") == ("a red fox", "")
    assert tiny_clip.truncate("") == ("", "")


def test_cut_tells_what_is_read_and_what_is_lost(tiny_clip: Any) -> None:
    caption = " ".join(f"word{i} and" for i in range(60))
    read, lost = tiny_clip.truncate(caption)
    assert read and lost
    assert (read + lost).replace(" ", "") == caption.replace(" ", "")
    # The last word may be cut inside, and then reads otherwise.
    assert torch.equal(
        tiny_clip.encode_text([read]).ids[:, :-2], tiny_clip.encode_text([caption]).ids[:, :-2]
    )


def test_cut_inside_a_character_does_not_fail(tiny_clip: Clip) -> None:
    read, lost = tiny_clip.truncate("🦊" * 100)
    assert read.startswith("🦊")
    assert lost.endswith("🦊")


def test_text_can_be_split_repeated_and_moved(tiny_clip: Clip) -> None:
    text = tiny_clip.encode_text(["a fox", "an owl"])
    twice = text.repeat(2)
    assert list(twice.captions) == ["a fox", "a fox", "an owl", "an owl"]
    assert torch.equal(twice.embed, text.embed[[0, 0, 1, 1]])
    second = text.rows(1, None)
    assert isinstance(second, Text)
    assert list(second.captions) == ["an owl"]
    assert torch.equal(second.tokens, text.tokens[1:])
    half = text.to("cpu", torch.float16)
    assert (half.embed.dtype, half.tokens.dtype, half.ids.dtype) == (
        torch.float16,
        torch.float16,
        torch.int64,
    )


# --- pictures ---


@pytest.mark.parametrize("side", [(32, 32), (64, 64), (20, 20), (48, 80), (100, 33)])
def test_pictures_of_any_size_are_read(side: tuple[int, int], tiny_clip: Clip) -> None:
    embed = tiny_clip.encode_image(torch.rand(2, 3, *side) * 2 - 1)
    assert embed.shape == (2, tiny_clip.width)
    assert embed.isfinite().all()


def test_pictures_are_normalised_by_clips_statistics() -> None:
    grey = Preprocess(8)(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(
        grey[0, :, 0, 0], torch.tensor([(0.5 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    )


def test_wide_pictures_are_cropped_to_their_middle() -> None:
    wide = torch.full((1, 3, 8, 24), -1.0)
    wide[..., 8:16] = 1
    assert torch.equal(Preprocess(8, (0.5,) * 3, (0.5,) * 3)(wide), torch.ones(1, 3, 8, 8))


def test_picture_embedding_is_open_clips_own(tiny_clip: Any) -> None:
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    theirs = tiny_clip.model.encode_image(Preprocess(32)(image))
    torch.testing.assert_close(
        F.normalize(tiny_clip.encode_image(image), dim=-1), F.normalize(theirs, dim=-1)
    )


def test_our_own_clips_give_embeddings_of_unit_mean_square(tiny_clip: Clip) -> None:
    for embed in (tiny_clip.encode_text(CAPTIONS).embed, tiny_clip.encode_image(torch.rand(4, 3, 32, 32))):
        torch.testing.assert_close(embed.square().mean(1), torch.ones(4))


def test_encoding_leaves_no_graph(tiny_clip: Clip) -> None:
    assert not tiny_clip.encode_text(["a"]).tokens.requires_grad
    assert not tiny_clip.encode_image(torch.zeros(1, 3, 32, 32)).requires_grad


# --- loading ---


POOLED = {
    "embed": 32,
    "image_size": 32,
    "vision_width": 16,
    "vision_depth": [1, 1],
    "vision_queries": 3,
    "text_width": 32,
    "text_depth": 1,
    "head": 16,
    "merges": 300,
    "context": 24,
}


def test_a_tower_that_pools_by_queries_trains_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = ClipStage(ClipConfig.model_validate({"name": "pooled", "architecture": POOLED}))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    stage(Batch(captions=("a red hat", "a cat"), image=images)).sum().backward()
    visual: Any = stage.model.visual
    assert [name for name, p in visual.named_parameters() if p.grad is None] == []
    assert visual.positions.shape == (3, 8 * 8)  # it pools a map of a quarter of the side
    stage.save(tmp_path)
    loaded = load_clip(str(tmp_path))
    assert loaded.preprocess.size == 32
    embed = visual.eval()(Preprocess(32)(images)).detach()
    found = loaded.encode_image(images)
    torch.testing.assert_close(found, F.normalize(embed, dim=1) * 32**0.5)
    assert torch.equal(found, loaded.whole.encode_image(images))  # the same with open_clip's model around it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_depth": 2}, "vision_queries needs"),
        ({"image_size": 30}, "image_size.*cannot halve"),
        ({"vision_queries": 0}, "four make CLIP's ResNet"),
    ],
)
def test_a_tower_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipConfig.model_validate({"name": "pooled", "architecture": {**POOLED, **change}})


def test_folder_and_stage_are_one_clip(tiny_clip_folder: Path, tiny_clip: Any) -> None:
    stage = ClipStage.load(tiny_clip_folder)
    assert tiny_clip.identity == stage.config.clip
    ids, _ = tiny_clip.tokenize(CAPTIONS)
    theirs = text_states(stage.model, ids, stage.tokenizer.eot_token_id)[0]
    assert torch.equal(tiny_clip.encode_text(CAPTIONS).tokens, theirs)


def test_a_run_of_the_clip_stage_is_a_reference_too(
    tiny_clip_folder: Path, tiny_clip: Clip, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "step-00000010"
    checkpoint.mkdir()
    ClipStage.load(tiny_clip_folder).save(checkpoint)
    (checkpoint / "progress.json").write_text("{}")
    assert load_clip(str(tmp_path)).identity == tiny_clip.identity


def test_half_precision_reads_nearly_the_same(tiny_clip_folder: Path, tiny_clip: Clip) -> None:
    half = load_clip(str(tiny_clip_folder)).to("cpu", torch.bfloat16)
    text, image = half.encode_text(CAPTIONS), half.encode_image(torch.ones(1, 3, 32, 32))
    assert text.embed.dtype == image.dtype == torch.bfloat16
    assert F.cosine_similarity(text.embed.float(), tiny_clip.encode_text(CAPTIONS).embed).min() > 0.99


@pytest.mark.parametrize("ref", ["", "no-such-folder", "some/where"])
def test_no_such_clip_is_an_error_that_says_what_to_give(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(CheckpointError):
        load_clip(ref)


@pytest.mark.parametrize("ref", ["nope:ViT-B-32", ":x", "a.b:x", "torchvision_schemas:x"])
def test_unknown_backend_is_an_error_that_lists_the_known_ones(ref: str) -> None:
    with pytest.raises(ConfigError, match=r"no CLIP backend .*; there are openclip, hf"):
        load_clip(ref)


def test_unknown_open_clip_model_is_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError, match="openclip:NoSuchModel: open_clip cannot load it"):
            load_clip("openclip:NoSuchModel")


def test_folder_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a saved stage nor a run"):
        load_clip(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"kind": "prior"}))
    with pytest.raises(CheckpointError, match="not the config of a clip stage"):
        load_folder(tmp_path)


# --- the transformers backend ---


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIPModel with a tokenizer of bytes and 200 merges, as transformers saves them."""
    from unclip.clip import hf

    folder = tmp_path_factory.mktemp("hf")
    source = tokenizer_with(200, 20)
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({marks.get(t, t): i for t, i in source.encoder.items()}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in source.bpe_ranks))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 20,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
            }
        )
    )
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "bos_token_id": source.sot_token_id,
        "eos_token_id": source.eot_token_id,
        "pad_token_id": source.eot_token_id,
    }
    torch.manual_seed(0)
    config = hf.transformers.CLIPConfig(
        text_config={**shared, **ids, "vocab_size": source.vocab_size, "max_position_embeddings": 20},
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    hf.transformers.CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hf_clip(hf_folder: Path) -> Any:
    return load_clip(f"hf:{hf_folder}")


def test_transformers_clip_has_the_promised_shapes(hf_clip: Any) -> None:
    assert (hf_clip.width, hf_clip.token_width, hf_clip.context) == (24, 32, 20)
    text = hf_clip.encode_text(["a red fox", "an owl"])
    assert text.embed.shape == (2, 24)
    assert text.tokens.shape == (2, text.ids.shape[1], 32)
    assert text.mask.dtype == torch.bool
    assert hf_clip.encode_image(torch.rand(2, 3, 50, 40) * 2 - 1).shape == (2, 24)
    assert hf_clip.encode_text(["word " * 100]).ids.shape == (1, 20)


def test_transformers_clip_tokenizes_as_ours(hf_clip: Any) -> None:
    ours = tokenizer_with(200, 20)
    text = hf_clip.encode_text(["a red fox"])
    assert text.ids[0].tolist() == [ours.sot_token_id, *ours.encode("a red fox"), ours.eot_token_id]


def test_transformers_clip_agrees_with_its_own_methods(hf_clip: Any) -> None:
    image, text = torch.rand(2, 3, 32, 32) * 2 - 1, hf_clip.encode_text(["a red fox", "an owl"])
    with torch.inference_mode():
        theirs = hf_clip.model(
            input_ids=text.ids, attention_mask=text.mask.long(), pixel_values=Preprocess(32)(image)
        )
    torch.testing.assert_close(F.normalize(text.embed, dim=-1), theirs.text_embeds)
    torch.testing.assert_close(F.normalize(hf_clip.encode_image(image), dim=-1), theirs.image_embeds)


def test_transformers_clip_reads_a_caption_the_same_beside_a_longer_one(hf_clip: Any) -> None:
    together, alone = hf_clip.encode_text(["an owl", "a red fox and a cat"]), hf_clip.encode_text(["an owl"])
    length = alone.ids.shape[1]
    assert together.mask[0].sum() == length
    torch.testing.assert_close(together.embed[:1], alone.embed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.tokens[:1, :length], alone.tokens, rtol=1e-4, atol=1e-5)


def test_transformers_clip_tells_what_it_cuts(hf_clip: Any) -> None:
    assert hf_clip.truncate("an owl") == ("an owl", "")
    read, lost = hf_clip.truncate("red fox and cat " * 5)
    assert (read + lost).replace(" ", "") == "redfoxandcat" * 5
    assert read and lost


def test_folder_without_a_transformers_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_clip(f"hf:{tmp_path}")
