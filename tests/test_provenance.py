"""Marks of generated images: robustness of the watermark, metadata and their detection."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from unclip.cli import cli
from unclip.errors import RequestError
from unclip.images import mark, read_settings, save_picture
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import sample
from unclip.provenance import header, watermark
from unclip.provenance.header import read_header
from unclip.provenance.metadata import Format, encode
from unclip.provenance.verify import generated, verify

SETTINGS = {
    "prompt": 'a "corgi" <in> a & b’s ✨ hat\nand more',
    "seed": 2**63 - 1,
    "stages": {"prior": {"steps": 2}},
}


def through(image: Image.Image, format: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, quality=quality)
    return Image.open(file).convert("RGB")


def brighter(image: Image.Image, factor: float) -> Image.Image:
    return image.point(lambda value: min(255, round(value * factor)))


def halved_and_back(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC).resize(image.size)


def cropped(image: Image.Image, left: float, top: float, kept: float = 0.9) -> Image.Image:
    x, y = round(image.width * left), round(image.height * top)
    return image.crop((x, y, x + round(image.width * kept), y + round(image.height * kept)))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "nothing": lambda image: image,
    "JPEG 75": lambda image: through(image, "JPEG", 75),
    "WebP 80": lambda image: through(image, "WEBP", 80),
    "half size and back": halved_and_back,
    "brighter": lambda image: brighter(image, 1.2),
    "darker": lambda image: brighter(image, 0.8),
    "crop": lambda image: cropped(image, 0.04, 0.1),
    "crop, then enlarged": lambda image: cropped(image, 0.1, 0.0).resize(
        image.size, Image.Resampling.BICUBIC
    ),
}


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Noise with the spectrum of photographs, 1/f, in colours that go together."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    shape = (3, *frequency.shape)
    layers = np.fft.irfft2(
        (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency, s=(height, width)
    )
    layers = layers[0] + 0.3 * layers
    values = 120 + 45 * layers / layers.std()
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0).copy())


PICTURES = [*(draw(sample(0, i), 256) for i in range(3)), photograph(0, 256, 256), photograph(1, 640, 400)]


# --- the watermark ---


def test_the_pattern_is_the_one_that_marked_all_earlier_pictures() -> None:
    pattern = watermark._pattern(256, 256)
    np.testing.assert_allclose(pattern[100, 100:104], [0.27320, 1.01440, 1.54608, 1.11809], atol=1e-4)
    assert np.sum(pattern[::7, ::7] > 0) == 701
    np.testing.assert_allclose(watermark._pattern(1024, 1024)[::4, ::4], pattern, atol=1e-3)


@pytest.mark.parametrize("number", range(len(PICTURES)))
@pytest.mark.parametrize("change", CHANGES)
def test_the_watermark_survives(change: str, number: int) -> None:
    found = watermark.detect(CHANGES[change](mark(PICTURES[number])), search="crop" in change)
    assert found.found, found


def screenshot(image: Image.Image) -> Image.Image:
    """A window with a title, a column of text and the image at 0.8 of its size, saved as a JPEG."""
    shown = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.BICUBIC)
    window = Image.new("RGB", (shown.width + 217, shown.height + 143), (247, 247, 250))
    window.paste((60, 64, 72), (0, 0, window.width, 33))
    for line in range(8, window.height, 15):
        ImageDraw.Draw(window).text((6, line), f"Line {line} of this text", fill="black")
    window.paste(shown, (171, 71))
    return through(window, "JPEG", 80)


def with_caption(image: Image.Image) -> Image.Image:
    framed = Image.new("RGB", (image.width, image.height + 61), "white")
    framed.paste(image, (0, 37))
    ImageDraw.Draw(framed).text((10, 10), "What a picture", fill="black")
    return framed


MOVED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "screenshot": screenshot,
    "a fifth of each side": lambda image: cropped(image, 0.2, 0.2, 0.6),
    "16:9": lambda image: image.crop((0, 50, image.width, 50 + image.width * 9 // 16)),
    "caption": with_caption,
    "mirror": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "rotation to the left": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "rotation to the right": lambda image: cropped(image.rotate(-1.9, Image.Resampling.BICUBIC), 0.05, 0.05),
}


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("change", MOVED)
def test_the_watermark_is_found_wherever_the_picture_lies(change: str, number: int) -> None:
    picture = PICTURES[number]
    assert watermark.detect(MOVED[change](mark(picture))).found
    assert not watermark.detect(MOVED[change](picture)).found


def test_pictures_that_an_earlier_version_marked_are_found() -> None:
    """It stretched the pattern to the picture; the fixture has 384 × 256 pixels."""
    with Image.open(Path(__file__).parent / "fixtures/marked-stretched.webp") as image:
        marked = image.convert("RGB")
    assert watermark.detect(marked, search=False).found
    assert watermark.detect(cropped(marked, 0.05, 0.05)).found


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_the_watermark_cannot_be_seen(number: int) -> None:
    plain = np.asarray(PICTURES[number]).astype(float)
    marked = np.asarray(mark(PICTURES[number])).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean((plain - marked) ** 2))
    assert 38 <= psnr < 45
    assert np.abs(plain - marked).max() < 25


def test_only_what_a_model_painted_is_marked() -> None:
    picture = PICTURES[0]
    painted = torch.zeros(256, 256, dtype=torch.bool)
    painted[40:232, 30:240] = True
    marked = mark(picture, painted)
    differs = (np.asarray(marked) != np.asarray(picture)).any(axis=2)
    assert not differs[~painted].any() and differs[painted].mean() > 0.5
    assert watermark.detect(marked).found
    assert np.array_equal(np.asarray(mark(picture, torch.ones_like(painted))), np.asarray(mark(picture)))


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_pictures_without_it_are_left_in_peace(number: int) -> None:
    for search in (False, True):
        assert not watermark.detect(PICTURES[number], search=search).found


def test_chance_gives_a_normal_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the threshold's false positives are what the normal distribution says they are."""
    assert watermark.detect(PICTURES[0], search=False).threshold == pytest.approx(4.7534, abs=1e-3)
    pictures, scores = [picture.convert("L") for picture in PICTURES], []
    try:
        for key in range(60):
            watermark._spectrum.cache_clear()
            monkeypatch.setattr(watermark, "KEY", key)
            scores += [watermark._score(picture) for picture in pictures]
    finally:
        watermark._spectrum.cache_clear()
    assert abs(np.mean(scores)) < 0.2 and 0.85 < np.std(scores) < 1.15 and max(scores) < 4


def test_chance_gives_no_more_anywhere_in_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail of all looks is at most the normal distribution's, so the threshold counts looks rightly."""
    looks, beyond = 0, 0
    canvases = [
        np.stack([canvas for canvas in watermark._placements(PICTURES[number].convert("L"))][::40])
        for number in (0, 4)
    ]
    caches = (watermark._spectrum, watermark._pattern, watermark._searched_spectra)
    try:
        for key in range(12):
            for cache in caches:
                cache.cache_clear()
            monkeypatch.setattr(watermark, "KEY", key)
            for some in canvases:
                fits = watermark._fits(some)
                looks, beyond = looks + fits.size, beyond + int((fits > 4).sum())
                assert fits.max() < 6.5
    finally:
        for cache in caches:
            cache.cache_clear()
    assert 0.3 < beyond / looks / 3.17e-5 < 1.2


def test_a_long_search_has_bounded_work() -> None:
    for size in ((8, 60_000), (3000, 64), (4000, 4000)):
        canvases = sum(1 for _ in watermark._placements(Image.new("L", size)))
        assert canvases < 520, size


@pytest.mark.parametrize("size", [(64, 64), (63, 200), (300, 256), (1024, 1024), (2000, 128)])
def test_pictures_of_every_size_carry_it(size: tuple[int, int]) -> None:
    marked = mark(draw(sample(0, 3), 1024).resize(size))
    assert marked.size == size
    assert watermark.detect(marked).found


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (9, 9)])
def test_pictures_too_small_for_it_are_not_harmed(size: tuple[int, int]) -> None:
    assert mark(Image.new("RGB", size, "teal")).size == size
    assert not watermark.detect(Image.new("RGB", size, "teal")).found


@pytest.mark.parametrize("colour", ["black", "white", "teal"])
def test_one_colour_is_not_a_watermark_and_can_hold_one(colour: str) -> None:
    plain = Image.new("RGB", (256, 256), colour)
    assert watermark.detect(plain).score == 0
    assert watermark.detect(mark(plain)).found


def test_marking_twice_still_tells() -> None:
    assert watermark.detect(mark(mark(PICTURES[0]))).found


# --- metadata ---


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp"])
def test_a_picture_says_what_it_is_and_how_it_was_made(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    save_picture(PICTURES[0], path, settings=SETTINGS, source="trainedAlgorithmicMedia")
    assert read_settings(path) == SETTINGS
    with path.open("rb") as file:
        assert set(read_header(file).generated) == {"settings of unclip", "xmp: trainedAlgorithmicMedia"}
    with Image.open(path) as image:
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    (description,) = ElementTree.fromstring(xmp)[0]
    source = description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert source == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert str(description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool")).startswith("unclip ")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_source_can_be_told_without_the_settings_and_nothing_without_both(format: Format) -> None:
    said = encode(PICTURES[0], format, source="compositeWithTrainedAlgorithmicMedia")
    assert read_header(io.BytesIO(said)).generated == ("xmp: compositeWithTrainedAlgorithmicMedia",)
    silent = encode(PICTURES[0], format)
    assert read_header(io.BytesIO(silent)) == ((), False)
    assert b"unclip" not in silent


def test_settings_too_long_for_a_jpeg_are_cut_with_a_note(tmp_path: Path) -> None:
    settings = {"prompt": "x" * 70_000}
    for name in ("x.jpg", "x.png"):
        save_picture(PICTURES[0], tmp_path / name, settings=settings, source="trainedAlgorithmicMedia")
        assert verify(tmp_path / name).generated
    cut = read_settings(tmp_path / "x.jpg")
    assert settings["prompt"].startswith(cut["prompt"]) and "a PNG holds them whole" in cut["shortened"]
    assert read_settings(tmp_path / "x.png") == settings


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"x.bmp: a picture's name ends in .png, .jpg"):
        save_picture(PICTURES[0], tmp_path / "x.bmp")


# --- headers of other programs ---


def png(**texts: str) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        info.add_text(keyword.replace("_space_", " "), text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def with_chunk(kind: bytes, data: bytes) -> bytes:
    plain = png()
    return plain[:33] + chunk(kind, data) + plain[33:]


def with_exif(format: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a cat\nSteps: 25, Sampler: DDIM".encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(file, format, exif=exif.tobytes())
    return file.getvalue()


def jpeg_with(marker: int, data: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    segment = bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data
    return file.getvalue()[:2] + segment + file.getvalue()[2:]


XMP = b'<x Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
MANIFEST = b"jumb....c2pa....digitalSourceType http://c2pa.org/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (png(parameters="a cat\nSteps: 25"), "parameters of a Stable Diffusion web UI"),
        (png(workflow="{}"), "workflow of ComfyUI"),
        (png(invokeai_metadata="{}"), "metadata of InvokeAI"),
        (with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), "xmp: trainedAlgorithmicMedia"),
        (
            with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
            "xmp: trainedAlgorithmicMedia",
        ),
        (with_chunk(b"caBX", MANIFEST), "c2pa: trainedAlgorithmicMedia"),
        (jpeg_with(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), "xmp: trainedAlgorithmicMedia"),
        (jpeg_with(0xEB, MANIFEST), "c2pa: trainedAlgorithmicMedia"),
        *((with_exif(f), "parameters of a Stable Diffusion web UI") for f in ("PNG", "JPEG", "WEBP")),
    ],
)
def test_marks_of_other_programs_are_read(data: bytes, says: str) -> None:
    assert read_header(io.BytesIO(data)).generated == (says,)
    assert generated(data) == says


def test_a_cameras_credentials_are_no_mark_of_a_model() -> None:
    found = read_header(io.BytesIO(jpeg_with(0xEB, b"jumb....c2pa....digitalCapture")))
    assert found == ((), True)


@pytest.mark.parametrize(
    "data", [png(), png(Software="GIMP", Comment="Steps: to the beach"), jpeg_with(0xFE, b"hello")]
)
def test_ordinary_metadata_is_no_mark(data: bytes) -> None:
    assert read_header(io.BytesIO(data)) == ((), False)
    assert generated(data) is None


def test_the_header_is_read_without_the_pixels() -> None:
    class Counting(io.BytesIO):
        amount = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.amount += len(data)
            return data

    file = Counting(encode(photograph(3, 512, 512), settings=SETTINGS, source="trainedAlgorithmicMedia"))
    assert read_header(file).generated
    assert file.amount < 3000 < len(file.getvalue()) / 50


@pytest.mark.parametrize("number", range(4))
def test_hostile_files_say_nothing_and_raise_nothing(number: int) -> None:
    bomb = with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * (64 << 20)))
    assert len(header._inflated(zlib.compress(b" " * (64 << 20)))) <= header.LARGEST
    whole = [bomb, png(parameters="x"), jpeg_with(0xE1, XMP), with_exif("WEBP")][number]
    rng = np.random.default_rng(number)
    for cut in rng.integers(0, len(whole), 40):
        read_header(io.BytesIO(whole[:cut]))
        damaged = bytearray(whole)
        damaged[int(cut) : int(cut) + 4] = rng.bytes(4)
        read_header(io.BytesIO(damaged))
        generated(bytes(damaged[: int(cut)]))


# --- both together ---


def test_a_marked_picture_is_left_out_of_training_even_without_its_metadata() -> None:
    file = io.BytesIO()
    through(mark(PICTURES[0]), "WEBP", 80).save(file, "JPEG")
    assert generated(file.getvalue()) == "watermark of unclip"
    assert generated(file.getvalue(), watermark=False) is None


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["verify", *arguments])


def test_verify_tells_people_and_programs(tmp_path: Path) -> None:
    marked, plain = tmp_path / "marked.png", tmp_path / "plain.jpg"
    save_picture(mark(PICTURES[0]), marked, settings=SETTINGS, source="trainedAlgorithmicMedia")
    save_picture(PICTURES[0], plain)
    said = run(str(marked), str(plain))
    assert said.exit_code == 0
    assert f"{marked}: made by a model\n" in said.stdout and "watermark:   found" in said.stdout
    assert f"{plain}: no mark found\n" in said.stdout and "not found" in said.stdout
    lines = [json.loads(line) for line in run("--json", str(marked), str(plain)).stdout.splitlines()]
    assert [line["generated"] for line in lines] == [True, False]
    found, not_found = (line["watermark"] for line in lines)
    assert found["score"] > found["threshold"] and not_found["score"] < not_found["threshold"]
    assert "settings of unclip" in lines[0]["metadata"] and lines[1]["metadata"] == []


def test_verify_goes_on_after_a_file_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    save_picture(PICTURES[0], tmp_path / "plain.png")
    said = run(str(tmp_path / "none.png"), str(tmp_path / "text.png"), str(tmp_path / "plain.png"))
    assert isinstance(said.exception, RequestError) and "2 of 3 files cannot be read" in str(said.exception)
    assert "none.png: no such file" in said.stderr and "text.png: not a readable picture" in said.stderr
    assert "plain.png: no mark found" in said.stdout
    with pytest.raises(RequestError, match="no such file"):
        verify(tmp_path / "none.png")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory from /proc")
def test_a_huge_picture_is_verified_with_bounded_memory(tmp_path: Path) -> None:
    flat = Image.new("L", (13_000, 13_000), 128)
    code = (
        "import re, sys; from pathlib import Path; from unclip.provenance.verify import verify;"
        "found = verify(Path(sys.argv[1])); assert not found.generated;"
        r"print(found.watermark is not None, re.search(r'VmHWM:\s+(\d+)', "
        r"Path('/proc/self/status').read_text())[1])"
    )
    for name, expected in (
        ("flat.png", "False"),
        ("flat.jpg", "True"),
    ):  # a JPEG is decoded at a quarter of its size
        flat.save(tmp_path / name)
        command = [sys.executable, "-W", "error", "-c", code, tmp_path / name]
        ran = subprocess.run(command, capture_output=True, text=True)
        looked, kilobytes = ran.stdout.split()
        assert looked == expected and int(kilobytes) < 150_000, ran.stderr  # the pixels alone are 169 MB
    assert "not looked for" in CliRunner().invoke(cli, ["verify", str(tmp_path / "flat.png")]).output


def test_the_watermark_of_a_large_picture_is_found() -> None:
    assert watermark.detect(mark(photograph(1, 2600, 2400))).found
    assert not watermark.detect(photograph(2, 2600, 2400)).found
