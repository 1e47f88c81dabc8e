"""Pictures at the edges of the program: PIL ⇄ tensors in [−1, 1], resizing, contact sheets, files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from unclip.errors import RequestError
from unclip.files import new_file
from unclip.provenance import metadata, watermark

SMALLEST = 8  # pixels of a side of a picture that is read
LARGEST = 64 * 10**6  # pixels of its area


def open_picture(source: Path | BinaryIO) -> Image.Image:
    """A picture file of any kind, read whole and made plain by `plain`.

    Raises:
        RequestError: no such file, not a picture, cut off, or too large.
    """
    name = str(source) if isinstance(source, Path) else "the picture"
    try:
        with Image.open(source) as image:
            return plain(image)
    except FileNotFoundError:
        raise RequestError(f"{name}: no such file") from None
    except (RequestError, Image.DecompressionBombError) as error:
        raise RequestError(f"{name}: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RequestError(f"{name}: not a readable picture ({error})") from None


def plain(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, or RGBA where some of it is transparent, turned as its EXIF says; of a film,
    the first frame.

    Raises:
        RequestError: smaller than 8 pixels or larger than 64 megapixels.
    """
    if min(image.size) < SMALLEST or image.width * image.height > LARGEST:
        raise RequestError(
            f"{image.width} × {image.height} pixels; pictures from {SMALLEST} × {SMALLEST} to 64 megapixels "
            "can be used"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # PIL would cut 16 bits off at 255. A float picture's range is its own affair: [0, 1] or bytes.
        array = np.asarray(image).astype(np.float64)
        full = 1.0 if image.mode == "F" and array.max() <= 1 else 255.0 if array.max() <= 255 else 65535.0
        image = Image.fromarray((array / full * 255).round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return image if image.getchannel("A").getextrema() != (255, 255) else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """An RGB picture; what is transparent becomes white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def centre_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_bytes(image: Image.Image) -> Tensor:
    """A picture as uint8 [H, W, 3]: a quarter of what its numbers take, on the way from one process to
    another.
    """
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))


def from_bytes(pixels: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] as float32 [..., 3, H, W] in [−1, 1], with the channels still last in memory."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as float32 [3, H, W] in [−1, 1]."""
    return from_bytes(to_bytes(image))


def to_pil(image: Tensor, *, marked: bool = False, painted: Tensor | None = None) -> Image.Image:
    """float [3, H, W] in [−1, 1] (clamped) as a picture.

    Args:
        marked: with the invisible watermark, for pictures that a model made.
        painted: True where the model did, [H, W], if it did not make all of it; the mark leaves the other
            pixels alone.
    """
    pixels = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    # The mark goes in before the one rounding: a picture and its twin from a batch stay within 1/255.
    return Image.fromarray((_watermarked(pixels, painted) if marked else pixels).round().astype(np.uint8))


def mark(image: Image.Image, painted: Tensor | None = None) -> Image.Image:
    """The picture with the invisible watermark that says a model made it; `painted` as in `to_pil`."""
    return Image.fromarray(_watermarked(np.asarray(image.convert("RGB")), painted).round().astype(np.uint8))


def _watermarked(pixels: Any, painted: Tensor | None) -> Any:
    return watermark.embed(pixels, None if painted is None else painted.cpu().numpy())


def resize(images: Tensor, size: int) -> Tensor:
    """[B, C, H, W] → [B, C, size, size], bicubic, antialiased when it shrinks, kept in [−1, 1]."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=images.shape[-1] > size).clamp(-1, 1)


def lanczos(images: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] → [B, 3, size, size] by Lanczos's window of three lobes, in float32, kept in [−1, 1]."""
    wide = images.float().cpu().flatten(0, 1).numpy()
    planes = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS)) for plane in wide
    ]
    return (
        torch.from_numpy(np.stack(planes))
        .reshape(*images.shape[:2], size, size)
        .clamp(-1, 1)
        .to(images.device)
    )


def grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """A contact sheet of equally large pictures."""
    columns = columns or max(1, round(len(images) ** 0.5))
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def check_animation(path: Path) -> None:
    """Finds out before the work whether such a film can be written: MP4 needs the program ffmpeg."""
    if path.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        raise RequestError(
            f"{path}: MP4 is written by ffmpeg, which is not installed; .gif and .webp need nothing"
        )


def save_animation(
    images: Sequence[Image.Image],
    path: Path,
    *,
    bounce: bool = False,
    rate: int = 12,
    settings: Mapping[str, Any] | None = None,
    source: metadata.Source | None = None,
) -> None:
    """Writes a GIF, WebP or MP4 by the path's suffix, whole or not at all.

    Args:
        bounce: play it forwards and then backwards, so that it repeats without a jump.
        rate: pictures per second.
        settings, source: for the metadata, as in `save_picture`; of WebP alone.
    """
    check_animation(path)
    film = [*images, *images[-2:0:-1]] if bounce else list(images)
    text = json.dumps(settings, ensure_ascii=False) if settings else None
    options: dict[str, Any] = {"append_images": film[1:], "duration": round(1000 / rate), "loop": 0}
    if path.suffix.lower() == ".webp" and source:
        options["xmp"] = metadata.xmp_packet(source, text).encode()
    try:
        with new_file(path) as temporary:
            if path.suffix.lower() == ".mp4":
                _encode_mp4(film, temporary, rate)
            else:
                film[0].save(temporary, save_all=True, **options)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RequestError(f"{path}: cannot be written ({error})") from None


def _encode_mp4(film: Sequence[Image.Image], path: Path, rate: int) -> None:
    width, height = film[0].size
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    pixels = b"".join(image.convert("RGB").tobytes() for image in film)
    command = ["ffmpeg", "-v", "error", "-y", *source, "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, input=pixels, check=True, capture_output=True)


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Writes a PNG whole or not at all, with the settings in its metadata."""
    write(path, metadata.encode(image, settings=settings))


def save_picture(
    image: Image.Image,
    path: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    source: metadata.Source | None = None,
) -> None:
    """Writes a picture whole or not at all, in the format that its name asks for.

    Args:
        settings: what made it, for the metadata.
        source: what its pixels are, for the metadata.
    """
    write(path, metadata.encode(image, metadata.format_of(path), settings=settings, source=source))


def write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, and its folder.

    Raises:
        RequestError: it cannot be written.
    """
    try:
        with new_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a picture's metadata."""
    try:
        with Image.open(path) as image:
            text = metadata.settings_text(image)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except OSError as error:
        raise RequestError(f"{path}: not a readable picture ({error})") from None
    if text is None:
        raise RequestError(f"{path}: carries no unclip settings")
    try:
        settings = json.loads(text)
    except json.JSONDecodeError:
        raise RequestError(f"{path}: its unclip settings are damaged") from None
    if not isinstance(settings, dict):
        raise RequestError(f"{path}: its unclip settings are damaged")
    return settings
