"""Picture files of other people: one decoder with one set of limits, for every part of the package.

Importing this module does not import torch, so that packing data starts at once in many processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from unclip.errors import RequestError

try:
    from pillow_heif import register_heif_opener
except ImportError:
    pass  # HEIC files are then refused
else:
    register_heif_opener()

SMALLEST = 8  # shortest side of a readable picture, in pixels
LARGEST = 64 * 10**6  # largest area of a readable picture, in pixels
MAX_ASPECT = (
    32  # largest ratio of the sides: the shorter side is scaled up to a stage's size, the longer with it
)

RUNS_PROGRAMS = ("EPS", "WMF")  # formats that Pillow hands to Ghostscript or to Windows
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of damaged metadata and of many pixels; here a picture is read, or an error says why it is not.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")


class WrongSize(RequestError):
    """A picture that is too small, too large or too long; `fault` says which in a few words."""

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@contextmanager
def opened(source: Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """Open a picture file; every error of Pillow, in the body too, becomes a RequestError of one line.

    Args:
        formats: Pillow's names of the formats that may be read. Default: all.

    Raises:
        WrongSize: more pixels than Pillow opens.
        RequestError: no such file, not a picture, or damaged.
    """
    name = f"{source}: " if isinstance(source, Path) else ""
    try:
        with _open(source, formats) as image:
            if image.format in RUNS_PROGRAMS:
                raise RequestError(f"{image.format} is not read; save the picture as PNG")
            yield image
    except FileNotFoundError:
        raise RequestError(f"{name}no such file") from None
    except WrongSize as error:
        raise WrongSize(error.fault, f"{name}{error}") from None
    except Image.DecompressionBombError:
        raise WrongSize(
            "decompression bomb", f"{name}far over 64 megapixels, the most that can be used"
        ) from None
    except RequestError as error:
        raise RequestError(f"{name}{error}") from None
    except UnidentifiedImageError:
        raise RequestError(f"{name}not a readable picture (unknown format)") from None
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error, KeyError …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{name}not a readable picture ({reason})") from None


def _open(source: Path | BinaryIO, formats: tuple[str, ...] | None) -> Image.Image:
    try:
        return Image.open(source, formats=formats)
    except UnidentifiedImageError:
        # Also raised for a sound JPEG whose index of further pictures (MPO) is damaged.
        if formats is not None and "JPEG" not in formats:
            raise
        if not isinstance(source, Path):
            source.seek(0)
        try:
            return JpegImageFile(source)
        except SyntaxError:
            raise UnidentifiedImageError from None


def open_picture(source: Path | BinaryIO, *, side: int | None = None) -> Image.Image:
    """Read a picture file of any format and convert it by `plain`.

    Args:
        side: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is faster, as long as both sides stay
            at least this long. None decodes all.

    Raises:
        WrongSize: see `check_size`.
        RequestError: no such file, not a picture, or cut off.
    """
    with opened(source) as image:
        check_size(image.size)  # of the file, so that the answer does not depend on `side`
        if side is not None:
            image.draft(image.mode, (side, side))
        return plain(image)


def check_size(size: tuple[int, int]) -> None:
    """Check the size of a picture in pixels.

    Raises:
        WrongSize: a side below 8 pixels, over 64 megapixels, or more than 32 times as long as wide.
    """
    short, long = sorted(size)
    if short < SMALLEST:
        fault = "too small"
    elif short * long > LARGEST:
        fault = "decompression bomb"
    elif long > MAX_ASPECT * short:
        fault = "extreme aspect ratio"
    else:
        return
    raise WrongSize(
        fault,
        f"{size[0]} × {size[1]} pixels; pictures from {SMALLEST} × {SMALLEST} to 64 megapixels, at most "
        f"{MAX_ASPECT} times as long as wide, can be used",
    )


def plain(image: Image.Image) -> Image.Image:
    """Convert a picture to 8-bit RGB, or RGBA if parts are transparent, rotated by its EXIF orientation.

    For animations, the first frame.

    Raises:
        WrongSize: see `check_size`.
    """
    check_size(image.size)
    image.load()  # a PNG may have its EXIF behind the pixels
    turn = _turn(image)
    image = eight_bit(image)
    return image if turn is None else image.transpose(turn)


def eight_bit(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB, or RGBA if parts are transparent."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _from_deep_grey(image)
    elif image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # only with inPlace
        return converted
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert(PREMULTIPLIED.get(image.mode, image.mode)).convert("RGBA")
    image = image if image.getchannel("A").getextrema() != (255, 255) else image.convert("RGB")
    image.info.pop("transparency", None)  # it named a value of the old mode
    return image


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Convert grey levels of more than 8 bits, which Pillow would clip at 255.

    16 bits have a range of 65535, however dark the picture. Mode "I" holds 16 bits too, in wider numbers.
    Floats name no range: it is 1 if none is larger, as in scientific files, else 255, as in Pillow.
    """
    levels = np.nan_to_num(np.asarray(image).astype(np.float32))
    if image.mode == "F":
        full = 1.0 if levels.max() <= 1 else 255.0
    else:
        full = 4095.0 if getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample) == (12,) else 65535.0
    grey = Image.fromarray((levels.clip(0, full) * (255 / full)).round().astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that the EXIF orientation asks for; None for damaged EXIF."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's parser raises many kinds; the pixels are sound
        return None


def on_white(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB, with transparent parts on white."""
    image = eight_bit(image)
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
