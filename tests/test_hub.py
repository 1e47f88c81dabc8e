"""Models from the Hub: its client against a Hub on loopback that is slow, strict or gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import MODEL, Hub, serve
from huggingface_hub import constants

from unclip.errors import CheckpointError
from unclip.files import read_json
from unclip.models.resolve import locate
from unclip.pipeline import Pipeline


@pytest.fixture
def fake(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tiny_model, tmp_path / "cache", monkeypatch) as server:
        yield server


def refused(ref: str, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(ref, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_a_model_is_fetched_once_without_its_pickles_and_then_needs_no_network(
    fake: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = locate(MODEL)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(tiny_model)) for path in tiny_model.rglob("*") if path.is_file()}
    asked = len(fake.seen)
    assert locate(MODEL) == folder
    assert not [line for line, _ in fake.seen[asked:] if line.startswith("GET") and "/resolve/" in line]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(MODEL) == folder and locate(f"{MODEL}@main") == folder


def test_a_revision_is_named_behind_an_at_sign_or_by_itself(fake: Hub) -> None:
    named = [read_json(locate(ref) / "model_index.json")["name"] for ref in (MODEL, f"{MODEL}@v2")]
    assert named == ["tiny", "second"]
    assert locate(MODEL, revision="v2") == locate(f"{MODEL}@{'b' * 40}")
    assert refused(f"{MODEL}@v3") == f"{MODEL}: has no revision 'v3'"


def test_a_folder_has_no_revision(tiny_model: Path) -> None:
    for ref in ("mini", str(tiny_model)):
        assert "a revision is a Hub repository's" in refused(ref, revision="v2")


def test_a_token_opens_what_is_private(fake: Hub) -> None:
    fake.token = "hf_secret"
    line = refused(MODEL)
    assert line == f"{MODEL}: the Hub has no such model, or it is private (HF_TOKEN)"
    assert locate(MODEL, token="hf_secret").is_dir()
    assert {said for line, said in fake.seen if "/resolve/" in line} == {"Bearer hf_secret"}


def test_what_its_owner_gives_on_request_says_so(fake: Hub) -> None:
    fake.gated = True
    assert "accept the terms on the Hub, then give a token" in refused(MODEL)


@pytest.mark.parametrize(
    "ref", ["kakaobrain/karlo-v1-alpa", "kakaobrian/karlo-v1-alpha", "KakaoBrain/karlo-v1-alpha"]
)
@pytest.mark.parametrize("offline", [True, False])
def test_a_typo_gives_the_nearest_known_models(
    fake: Hub, ref: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    line = refused(ref)
    assert line.startswith(f"{ref}: {'not in the cache' if offline else 'the Hub has no such model'}")
    assert "did you mean kakaobrain/karlo-v1-alpha" in line


def test_what_is_in_the_cache_is_known_too(fake: Hub) -> None:
    locate(MODEL)
    assert refused("somone/tiny").endswith("; did you mean someone/tiny?")
    assert "did you mean" not in refused("nobody/nothing-of-that-name")


def test_offline_with_nothing_cached_is_one_clear_line(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (
        refused(MODEL) == f"{MODEL}: not in the cache, and the Hub cannot be reached (HF_HUB_OFFLINE is set)"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert refused(MODEL) == f"{MODEL}: not in the cache, and the Hub cannot be reached"
    assert fake.seen == []


@pytest.mark.parametrize("ref", ["a b/c", "owner/..name", "owner/name--x"])
def test_what_can_be_no_id_is_refused_without_asking(fake: Hub, ref: str) -> None:
    assert "is not a Hub id (owner/name)" in refused(ref)
    assert fake.seen == []


def test_a_download_goes_on_where_it_broke_off(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 2**16
    )  # what a break costs at most; these files are small
    fake.cuts = 1
    folder = locate(MODEL)
    half = len(fake.files["decoder/model.safetensors"]) // 2
    assert half - 2**16 <= max(fake.starts) <= half
    assert (folder / "decoder/model.safetensors").read_bytes() == fake.files["decoder/model.safetensors"]


def test_a_half_download_is_no_model_and_is_finished_the_next_time(
    fake: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.cuts = 1000
    assert "fetching it failed, and goes on if tried again" in refused(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the Hub cannot be reached" in refused(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fake.cuts, fake.starts = 0, []
    folder = locate(MODEL)
    assert fake.starts == [0]  # the one file that was missing
    assert (folder / "decoder/model.safetensors").read_bytes() == fake.files["decoder/model.safetensors"]


def test_a_repository_without_a_model_is_named(fake: Hub) -> None:
    del fake.files["model_index.json"]
    fake.content = lambda commit: fake.files  # type: ignore[method-assign]
    assert refused(MODEL) == f"{MODEL}: that Hub repository holds no unclip model (no model_index.json)"


def test_a_repository_may_hold_one_stage(fake: Hub) -> None:
    fake.files = {name: data for name, data in fake.files.items() if name.startswith("prior/")}
    fake.content = lambda commit: {  # type: ignore[method-assign]
        name.removeprefix("prior/"): data for name, data in fake.files.items()
    }
    alone = Pipeline.from_pretrained(f"{MODEL}@main", device="cpu")
    assert (list(alone.stages), alone.name) == (["prior"], MODEL.partition("/")[2])
