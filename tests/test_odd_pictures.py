"""Pictures of other people: every mode and format, damaged metadata, mutated files, and odd shapes."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from odd_files import BASE, GREY, deep, encoded, png_chunk, trained
from PIL import Image

from unclip.data.labelled import write_labelled
from unclip.data.pack import Limits, PackJob, pack
from unclip.data.sample import BadSample, picture
from unclip.data.source import find_pictures, find_units
from unclip.data.tar import read_shard
from unclip.errors import RequestError
from unclip.evaluate.pictures import PictureFiles
from unclip.images import to_bytes
from unclip.pictures import on_white, open_picture, plain
from unclip.provenance.watermark import detect, embed
from unclip.serve.pictures import check_edit

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's; pytest undoes our own filter


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encoded(deep(GREY * 257.0, "I;16")), 0),
        (encoded(deep(GREY * 257.0, "I;16"), "TIFF"), 0),
        (encoded(deep(GREY * 257.0, "I;16B"), "TIFF"), 0),
        (encoded(deep(GREY * 257.0, "I;16"), "PPM"), 0),
        (encoded(deep(GREY * 257.0, "I;16"), "JPEG2000"), 0),
        (encoded(deep(GREY * 257.0, "I"), "TIFF"), 0),
        (encoded(deep(GREY * 1.0, "F"), "TIFF"), 0),
        (encoded(deep(GREY / 255, "F"), "TIFF"), 0),
        (encoded(deep(GREY / 255, "F"), "PPM"), 0),
        (encoded(BASE.convert("L")), 0),
        (encoded(BASE.convert("LA")), 0),
        (encoded(BASE.convert("L"), "WEBP", quality=95), 6),
    ],
)
def test_grey_of_every_depth_is_the_same_everywhere(data: bytes, tolerance: float, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    for seen in (
        open_picture(tmp_path / "a.png"),
        trained(data),
        trained(data, 8),
        next(PictureFiles.at(str(tmp_path)).read(0, 1)),
        Image.fromarray(to_bytes(Image.open(io.BytesIO(data))).numpy()),
    ):
        assert seen.mode == "RGB"
        assert np.abs(np.asarray(seen).astype(int) - GREY[..., None]).mean() <= tolerance


def test_a_dark_picture_of_16_bits_stays_dark() -> None:
    dark = np.array([[0, 100], [200, 255]]).repeat(8, 0).repeat(8, 1)
    for mode in ("I;16", "I;16B", "I"):
        assert np.asarray(plain(deep(dark, mode))).max() == 1
    assert np.asarray(plain(deep(np.full((8, 8), 1e38), "F"))).min() == 255
    assert np.asarray(plain(deep(np.full((8, 8), np.nan), "F"))).max() == 0


@pytest.mark.parametrize("mode", ["P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa", "RGBX"])
def test_every_mode_becomes_8_bit_rgb(mode: str) -> None:
    if mode == "LAB":
        image = Image.merge("LAB", [BASE.convert("L"), *[Image.new("L", BASE.size, 128)] * 2])
    else:
        steps = {"PA": "P", "La": "LA", "RGBa": "RGBA"}
        image = BASE.convert(steps.get(mode, mode)).convert(mode)
    seen = plain(image)
    assert (seen.mode, seen.size) == ("RGB", BASE.size)
    assert np.corrcoef(np.asarray(seen.convert("L")).ravel(), GREY.ravel())[0, 1] > 0.5


def test_the_watermark_is_found_in_16_bits() -> None:
    levels = embed(np.full((256, 256, 3), 128.0)).mean(-1)
    assert detect(deep((levels * 257).round(), "I;16")).found
    assert not detect(deep(np.full((256, 256), 30000.0), "I;16")).found


def clear(mode: str) -> Image.Image:
    """Black, hidden by full transparency."""
    if mode == "I;16":
        return Image.open(io.BytesIO(encoded(deep(np.full((64, 64), 7), "I;16"), transparency=7)))
    if mode == "P":
        return Image.open(io.BytesIO(encoded(Image.new("RGB", (64, 64)).quantize(2), transparency=0)))
    if mode in ("L", "RGB"):
        value = 9 if mode == "L" else (9, 9, 9)
        return Image.open(io.BytesIO(encoded(Image.new(mode, (64, 64), value), transparency=value)))
    return Image.new({"La": "LA", "RGBa": "RGBA"}.get(mode, mode), (64, 64)).convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa", "P", "L", "RGB", "I;16"])
def test_transparent_pixels_are_white_everywhere(mode: str) -> None:
    image = clear(mode)
    assert plain(image).getextrema()[-1] == (0, 0)
    assert np.asarray(on_white(image)).min() == 255
    assert on_white(plain(image)).getextrema() == ((255, 255),) * 3
    assert to_bytes(image).min() == 255
    if mode not in ("La", "RGBa", "PA"):
        assert np.asarray(trained(encoded(image))).min() == 255
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, 32, 32))
    kept, _ = check_edit(plain(image), mask, strict=False)
    assert np.asarray(kept).min() == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_the_orientation_is_read_in_every_format(kind: str) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    data = encoded(BASE, kind, exif=exif)
    upright = np.asarray(BASE.transpose(Image.Transpose.ROTATE_270))
    for seen in (open_picture(io.BytesIO(data)), trained(data), trained(data, 16)):
        assert seen.size == (32, 48)
        assert np.corrcoef(np.asarray(seen).ravel(), upright.ravel())[0, 1] > 0.95


def test_formats_that_run_other_programs_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="EPS is not read"):
        open_picture(io.BytesIO(encoded(BASE, "EPS")))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 4_000_000), "too small"),
        ((8, 8 * 33), "extreme aspect ratio"),
        ((100_000, 8), "extreme aspect ratio"),
        ((8001, 8000), "decompression bomb"),
        ((30_000, 30_000), "decompression bomb"),
    ],
)
def test_limits_of_size_are_the_same_everywhere(size: tuple[int, int], reason: str, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(9)))
    for side in (None, 64, 1024):
        with pytest.raises(BadSample) as caught:
            trained(data, side)
        assert caught.value.reason == reason
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(RequestError, match="a.png: .*64 megapixels"):
        open_picture(tmp_path / "a.png")
    assert plain(Image.new("RGB", (8, 8 * 32))).size == (8, 256)


def test_pictures_of_every_format_are_found_also_behind_links(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (source / "sub", elsewhere):
        folder.mkdir(parents=True)
    for number, name in enumerate(["a.gif", "b.BMP", "c.tif", "d.avif", "e.jp2", "f.ppm"]):
        kind = Image.registered_extensions()[Path(name).suffix.lower()]
        (source / "sub" / name).write_bytes(encoded(BASE.rotate(number), kind))
    (elsewhere / "z.png").write_bytes(encoded(BASE.rotate(9)))
    (source / "linked").symlink_to(elsewhere)
    (source / "again").symlink_to(source)  # a loop
    (elsewhere / "broken.png").symlink_to(elsewhere / "nowhere")
    (source / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (source / "drawing.svg").write_text("<svg/>")
    for path in (*find_pictures(source), elsewhere / "z.png"):
        path.with_suffix(".txt").write_text("a caption")
    assert [path.name for path in find_pictures(source)] == [
        *("drawing.svg", "z.png", "phone.HEIC"),
        *("a.gif", "b.BMP", "c.tif", "d.avif", "e.jp2", "f.ppm"),
    ]
    packed = pack(PackJob(str(source), Limits(min_side=8), 100), tmp_path / "out")
    assert packed.samples == 7
    assert packed.left_out == {"HEIC needs pillow-heif": 1, "svg is not read": 1}
    assert [picture(one, 16).size for one in read_shard(str(tmp_path / "out/000000.tar"))] == [(48, 32)] * 7


def test_folders_with_names_that_are_not_utf_8_are_packed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (folder := tmp_path / name).mkdir()
    BASE.save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text("a cat")
    assert pack(PackJob(str(folder), Limits(min_side=8), 100), tmp_path / "out").samples == 1
    assert find_units(str(folder), 9)[0].entries[0].path == str(folder / f"{name}.png")
    assert write_labelled(str(tmp_path), tmp_path / "labelled") == 1
    (sample, *_) = read_shard(str(tmp_path / "labelled/000000.tar"))
    assert json.loads(sample["json"])["captions"] == ["café"]
