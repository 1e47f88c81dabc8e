"""Attacks on the page through Gradio's own routes: foreign files, foreign URLs, memory and disk."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs unclip[page]")
from page_attacker import Attacker, data_url, file_data, stroke

from unclip.errors import RequestError
from unclip.serve.envelope import ApiError
from unclip.serve.page_controller import PageController, PictureSettings
from unclip.serve.page_editor import EditorUploads


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacker]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GRADIO_TEMP_DIR", "")
        attacker = Attacker(tmp_path_factory.mktemp("page"))
        yield attacker
        attacker.server.stop()


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that is the server's own affair."""
    path = tmp_path_factory.mktemp("home") / "secret.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(path)
    return path


def test_no_component_reads_a_foreign_file(attacker: Attacker, secret: Path) -> None:
    before = attacker.files()
    sneaky = f"{attacker.folder}/copies/../../{secret.parent.name}/{secret.name}"
    tried = 0
    for path in (secret, Path("/etc/hostname"), sneaky, "http://127.0.0.1:1/x.png"):
        for value in (
            file_data(path),
            file_data(None, url=data_url(stroke())),
            {"value": [{"x": file_data(path)}]},
        ):
            for kind, payload in (
                ("image", value),
                ("imageeditor", {"background": value, "layers": [value], "composite": None}),
            ):
                for function in attacker.functions(kind)[: None if path == secret else 1]:
                    events = attacker.call(function, kind, payload)
                    assert "refused" in events[0], events
                    tried += 1
    assert tried > 30
    assert not attacker.model.seen and attacker.files() == before


def test_a_browsers_history_names_no_foreign_file(attacker: Attacker, secret: Path) -> None:
    [recall] = attacker.functions("browserstate")
    album = attacker.guard.pictures
    folder = album / ("0" * 32)
    folder.mkdir()
    (folder / "unclip-7-1.png").write_bytes(stroke())
    (folder / "other.png").write_bytes(stroke())
    own = f"{folder.name}/unclip-7-1.png"
    hostile = [
        {"file": file, "settings": {}, "inputs": {}}
        for file in (
            str(secret),
            f"../../{secret.parent.name}/{secret.name}",
            f"{folder.name}/../{own}",
            f"{folder.name}/other.png",
            f"{own}\n",
            "/etc/hostname",
        )
    ]
    hostile += [{"file": own}, {"file": own, "settings": [], "inputs": {}}, own, None]  # type: ignore[list-item]
    right = {"file": own, "settings": {"seed": 7}, "inputs": {"tab": "draw"}}
    for stored, shown in (
        (hostile, []),
        ([*hostile, right], ["unclip-7-1.png"]),
        ({"file": own}, []),
        ("x", []),
    ):
        events = attacker.call(recall, "browserstate", stored)
        [made] = [one["output"] for one in events if one.get("msg") == "process_completed"]
        text = json.dumps(made)
        assert "secret" not in text and "hostname" not in text and "other.png" not in text
        assert [name for name in ("unclip-7-1.png",) if name in text] == shown
        assert "error" not in text


def test_gradios_own_check_is_active_behind_ours(attacker: Attacker, secret: Path) -> None:
    before, guard = attacker.files(), attacker.guard._check_file
    attacker.guard._check_file = lambda path, folders: None  # type: ignore[method-assign]
    try:
        for function in attacker.functions("image"):
            events = attacker.call(function, "image", file_data(secret))
            assert [one["success"] for one in events if "success" in one] == [False]
    finally:
        attacker.guard._check_file = guard  # type: ignore[method-assign]
    assert not attacker.model.seen and attacker.files() == before


def test_the_controller_reads_no_foreign_file_either(attacker: Attacker, secret: Path) -> None:
    controller = PageController(
        attacker.server.app.state.service, attacker.folder / "page", attacker.folder / "copies"
    )
    settings = PictureSettings(1, 256, {})
    for path in (str(secret), f"{attacker.folder}/copies/../../{secret.parent.name}/{secret.name}"):
        with pytest.raises(RequestError, match="was not uploaded here"):
            controller.variation(path, settings)
        with pytest.raises(RequestError, match="was not uploaded here"):
            controller.enlargement(path, settings)
        with pytest.raises(RequestError, match="was not uploaded here"):
            asyncio.run(controller.verify(path))
        with pytest.raises(RequestError, match="was not uploaded here"):
            controller.edit({"background": path, "layers": []}, "a cat", settings)


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/passwd",
        "file=http://example.org/x.png",
        "file=../store/.key",
        "proxy=https://example.org/x",
    ],
)
def test_no_route_of_gradio_serves_foreign_files_or_urls(attacker: Attacker, path: str) -> None:
    for method in ("GET", "HEAD"):
        assert attacker.server.ask(method, f"/ui/gradio_api/{path}")[0] in (403, 404)


def test_gradios_tools_beside_the_page_are_closed(attacker: Attacker) -> None:
    for method, path in (
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/monitoring"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/predict"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/runs"),
        ("PUT", "/config"),
        ("GET", "/dev/reload"),
    ):
        assert attacker.server.ask(method, f"/ui{path}", None if method == "GET" else {})[0] == 404, path


def test_an_upload_is_decoded_by_the_apis_reader_within_its_limits(attacker: Attacker) -> None:
    function = attacker.functions("image", "Picture to vary")[0]
    bomb = io.BytesIO()
    Image.new("L", (8000, 8000)).save(bomb, "PNG")
    photo = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2600, 3400, 3), np.uint8)
    Image.fromarray(noise).save(photo, "JPEG", quality=80)
    assert len(photo.getvalue()) > 4 << 20
    for data, drawn in ((bomb.getvalue(), False), (photo.getvalue(), True)):
        before = len(attacker.model.seen)
        [path] = attacker.upload(data)
        events = attacker.call(function, "image", file_data(path))
        if drawn:
            assert attacker.model.seen[before][0].size == (1024, 1024)
        else:
            assert (
                "at most 4096x4096 pixels, got 8000x8000" in json.dumps(events)
                and len(attacker.model.seen) == before
            )


def test_a_picture_to_verify_keeps_the_limits_of_uploads(attacker: Attacker) -> None:
    [verify] = attacker.functions("image", "Picture to verify")
    bomb = io.BytesIO()
    Image.new("L", (8000, 8000)).save(bomb, "PNG")
    for data, says in (
        (bomb.getvalue(), "at most 4096x4096 pixels, got 8000x8000"),
        (b"<svg/>", "must be a PNG"),
        (stroke(), "No mark found"),
    ):
        [path] = attacker.upload(data)
        assert says in json.dumps(attacker.call(verify, "image", file_data(path)))


def test_the_editor_keeps_uploads_within_bounds(attacker: Attacker) -> None:
    [editor] = [number for number, kind in attacker.kinds.items() if kind == "imageeditor"]
    function = attacker.functions("imageeditor")[0]
    for kind, index, data in (
        ("background", "", stroke()),
        ("layer", "0", stroke()),
        ("layer", "999999999", b"x"),
        ("composite", "", b"x"),
    ):
        fields = {
            "type": kind,
            "index": index,
            "id": "one",
            "fn_name": "accept_blobs",
            "component_id": str(editor),
            "session_hash": "s",
        }
        assert attacker.post_form("/ui/gradio_api/component_server", fields, data)[0] == 200
    before = len(attacker.model.seen)
    events = attacker.call(
        function, "imageeditor", {"id": "one", "background": None, "layers": [], "composite": None}
    )
    assert attacker.model.seen[before].size == (256, 256), events
    uploads = EditorUploads()
    for number in range(20):
        uploads.add(str(number), "background", "", bytes(20 << 20))
    assert uploads.take("0") is None and uploads.take("19") is not None
    body = {"data": {}, "fn_name": "accept_blobs", "component_id": editor, "session_hash": "s"}
    assert attacker.server.ask("POST", "/ui/gradio_api/component_server", body)[0] == 415


def test_uploads_cannot_fill_the_disk(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    from unclip.serve import page_guard

    monkeypatch.setattr(page_guard, "LARGEST_FILE", 1 << 20)
    assert attacker.post_form("/ui/gradio_api/upload", {}, bytes(3 << 20), "files")[0] == 413
    monkeypatch.setattr(page_guard, "QUOTA", 1)
    assert attacker.post_form("/ui/gradio_api/upload", {}, bytes(1000), "files")[0] == 507


@pytest.mark.parametrize(
    ("wider", "taller", "theta"), [(1e9, 1, 1), (1, 3.01, 1), (float("nan"), 1, 1), (1, 1, 1e9), (1, 1, 0)]
)
def test_sliders_bounds_hold_for_hostile_clients(
    attacker: Attacker, wider: float, taller: float, theta: float
) -> None:
    controller = PageController(
        attacker.server.app.state.service, attacker.folder / "page", attacker.folder / "copies"
    )
    settings = PictureSettings(1, 256, {})
    with pytest.raises(RequestError, match="times its width|How far"):
        controller.outpainting(stroke(), "a cat", wider, taller, settings)
        controller.difference(stroke(), "", "a cat", theta, settings)
    for hostile in (
        PictureSettings(11, 256, {}),
        PictureSettings(1, 10**6, {}),
        PictureSettings(1, 256, {"steps": "9999"}),
    ):
        with pytest.raises((RequestError, ApiError)):
            controller.generation("a cat", hostile)
