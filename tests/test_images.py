"""Images: conversions, resizing, contact sheets, and provenance in PNG files."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unclip.errors import RequestError
from unclip.images import grid, read_settings, resize, save_png, to_pil, to_tensor
from unclip.provenance.metadata import SETTINGS_KEY

SETTINGS = {
    "prompt": "a corgi 🐶 with a قبعة, “quoted”\nand a tab\t",
    "seed": 2**63 - 1,
    "stages": {"prior": {"steps": 2, "eta": 0.1}},
}


def picture(width: int = 16, height: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_picture_survives_the_way_to_a_tensor_and_back() -> None:
    every_value = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    tensor = to_tensor(every_value)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert to_pil(tensor).tobytes() == every_value.tobytes()


def test_height_and_width_keep_their_places() -> None:
    assert to_tensor(picture(16, 12)).shape == (3, 12, 16)
    assert to_pil(torch.zeros(3, 12, 16)).size == (16, 12)


def test_values_outside_are_clamped_and_not_wrapped() -> None:
    image = to_pil(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_other_modes_become_rgb() -> None:
    assert to_tensor(Image.new("L", (4, 4), 255)).eq(1).all()
    assert to_tensor(Image.new("P", (4, 4))).shape == (3, 4, 4)


def test_bfloat16_pictures_can_be_saved() -> None:
    assert to_pil(torch.ones(3, 4, 4, dtype=torch.bfloat16)).getpixel((0, 0)) == (255, 255, 255)


def test_resize_keeps_constants_bounds_and_its_own_size() -> None:
    flat = torch.full((2, 3, 16, 16), 0.25)
    torch.testing.assert_close(resize(flat, 64), torch.full((2, 3, 64, 64), 0.25))
    torch.testing.assert_close(resize(flat, 4), torch.full((2, 3, 4, 4), 0.25))
    assert resize(flat, 16) is flat
    edge = torch.ones(1, 3, 8, 8)
    edge[..., :4] = -1  # bicubic overshoots beside an edge
    assert resize(edge, 32).abs().max() <= 1


def test_shrinking_is_antialiased() -> None:
    stripes = torch.ones(1, 3, 64, 64)
    stripes[..., ::2] = -1
    assert resize(stripes, 16)[..., 2:-2].abs().max() < 0.1


def test_a_grid_holds_every_picture_in_reading_order() -> None:
    colours = ["red", "green", "blue", "yellow", "black"]
    sheet = grid([Image.new("RGB", (10, 8), c) for c in colours], columns=3, gap=2)
    assert sheet.size == (3 * 12 - 2, 2 * 10 - 2)
    at = [sheet.getpixel((i % 3 * 12 + 5, i // 3 * 10 + 4)) for i in range(6)]
    assert at == [Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in [*colours, "white"]]
    assert sheet.getpixel((10, 0)) == (255, 255, 255)


def test_a_grid_without_columns_is_nearly_square() -> None:
    assert grid([picture(8, 8)] * 9, gap=0).size == (24, 24)
    assert grid([picture(8, 8)], gap=0).size == (8, 8)


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    image = picture()
    save_png(image, tmp_path / "x.png", SETTINGS)
    assert read_settings(tmp_path / "x.png") == SETTINGS
    with Image.open(tmp_path / "x.png") as saved:
        assert saved.format == "PNG" and saved.tobytes() == image.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def _without_settings(path: Path) -> None:
    picture().save(path)


def _no_picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 10)


def _text(path: Path) -> None:
    path.write_text("hello")


def _settings(text: str) -> Any:
    def write(path: Path) -> None:
        info = PngInfo()
        info.add_itxt(SETTINGS_KEY, text)
        picture().save(path, pnginfo=info)

    return write


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "no such file"),
        (_without_settings, "carries no unclip settings"),
        (_no_picture, "not a readable picture"),
        (_text, "not a readable picture"),
        (_settings("{oh no"), "damaged"),
        (_settings("[1, 2]"), "damaged"),
    ],
)
def test_files_without_settings_are_named(tmp_path: Path, write: Any, says: str) -> None:
    path = tmp_path / "x.png"
    write(path)
    with pytest.raises(RequestError, match=says) as caught:
        read_settings(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    save_png(picture(), path)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> None:
        self.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RequestError, match="No space left on device"):
        save_png(picture(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, data: bytes) -> None:
        self.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_png(picture(), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
