"""Mutated pictures: damage to metadata costs nothing, and no error of Pillow leaves the reader."""

from __future__ import annotations

import io
import random

import pytest
from odd_files import BASE, GREY, deep, encoded, trained
from picture_cases import mutated
from PIL import Image

from unclip.errors import RequestError
from unclip.pictures import on_white, open_picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's; pytest undoes our own filter


TURNED = Image.Exif()
TURNED[0x112] = 6
TURNED[0x10E] = "a description"
TURNED.get_ifd(0x8769)[0x9204] = -1.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_damage_to_exif_costs_the_picture(kind: str) -> None:
    rng, good = random.Random(0), TURNED.tobytes()
    turned = 0
    for _ in range(150):
        exif = mutated(good, rng, 3)
        seen = trained(encoded(BASE, kind, exif=exif))
        turned += seen.size == (32, 48)
    assert turned > 30


def test_a_damaged_index_of_further_pictures_costs_nothing() -> None:
    sound = encoded(BASE, "MPO", save_all=True, append_images=[BASE])
    start, rng = sound.index(b"MPF\0") + 4, random.Random(0)
    for _ in range(100):
        data = bytearray(sound)
        for _ in range(3):
            data[start + rng.randrange(82)] = rng.randrange(256)
        assert open_picture(io.BytesIO(data)).size == BASE.size


def seeds() -> list[bytes]:
    """A file of every format and mode that Pillow writes, with and without EXIF."""
    found = []
    for kind in sorted(Image.SAVE.keys() - {"ICNS"}):  # of a million pixels at least
        for mode in ("RGB", "L", "1", "P", "RGBA", "I;16"):
            image = deep(GREY * 257.0, "I;16") if mode == "I;16" else BASE.convert(mode)
            try:
                found += [encoded(image, kind), encoded(image, kind, exif=TURNED)]
            except Exception:  # a format without this mode
                continue
    return found


def test_no_error_of_pillow_leaves_the_reader(capfd: pytest.CaptureFixture[str]) -> None:
    rng, files = random.Random(0), seeds()
    read = refused = 0
    for data in [*files, *(mutated(rng.choice(files), rng) for _ in range(500))]:
        try:
            assert on_white(open_picture(io.BytesIO(data))).mode == "RGB"
            read += 1
        except RequestError as error:
            assert "\n" not in str(error)
            refused += 1
    assert read > 150 and refused > 100
    capfd.readouterr()  # libtiff writes to standard error
