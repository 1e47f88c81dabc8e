"""Pictures: conversion between PIL and tensors in [−1, 1], resizing, contact sheets, files.

`unclip.pictures` reads them.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.errors import RequestError
from unclip.files import new_file
from unclip.pictures import LARGEST as LARGEST
from unclip.pictures import on_white as on_white
from unclip.pictures import open_picture as open_picture
from unclip.pictures import opened
from unclip.pictures import plain as plain
from unclip.provenance import metadata, watermark
from unclip.text import parse_json, to_json

Sides = int | tuple[int, int]  # (width, height) in pixels, or the side of a square


def height_width(size: Sides) -> tuple[int, int]:
    """A size in the order of a tensor's dimensions."""
    return (size, size) if isinstance(size, int) else (size[1], size[0])


def centre_square(image: Image.Image) -> Image.Image:
    """Crops the largest centred square."""
    return centre_crop(image, (1, 1))


def centre_crop(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """Crops the largest centred part with the ratio width : height of a shape."""
    width = min(image.width, max(1, round(image.height * shape[0] / shape[1])))
    height = min(image.height, max(1, round(image.width * shape[1] / shape[0])))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def to_bytes(image: Image.Image) -> Tensor:
    """A picture as uint8 [H, W, 3], transparent parts on white; a quarter of the size of float32."""
    return torch.from_numpy(np.array(on_white(image)))


def from_bytes(pixels: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] as float32 [..., 3, H, W] in [−1, 1], channels last in memory."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as float32 [3, H, W] in [−1, 1]."""
    return from_bytes(to_bytes(image))


def to_pil(image: Tensor, *, marked: bool = False, painted: Tensor | None = None) -> Image.Image:
    """float [3, H, W] in [−1, 1] (clamped) as a picture.

    Args:
        marked: embed the invisible watermark of generated pictures.
        painted: mask of the generated pixels, True there, [H, W]; the watermark changes no others. Default:
            all pixels.
    """
    pixels = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    # The watermark is added before the only rounding, so that results of any batch stay within 1/255.
    return Image.fromarray((_watermarked(pixels, painted) if marked else pixels).round().astype(np.uint8))


def mark(image: Image.Image, painted: Tensor | None = None) -> Image.Image:
    """Embeds the invisible watermark of generated pictures; `painted` as in `to_pil`."""
    return Image.fromarray(_watermarked(np.asarray(image.convert("RGB")), painted).round().astype(np.uint8))


def _watermarked(pixels: Any, painted: Tensor | None) -> Any:
    return watermark.embed(pixels, None if painted is None else painted.cpu().numpy())


def resize(images: Tensor, size: Sides) -> Tensor:
    """[B, C, H, W] → [B, C, *size], bicubic, antialiased when shrinking, clamped to [−1, 1]."""
    height, width = height_width(size)
    if images.shape[-2:] == (height, width):
        return images
    shrinks = images.shape[-1] > width or images.shape[-2] > height
    return F.interpolate(images, (height, width), mode="bicubic", antialias=shrinks).clamp(-1, 1)


def lanczos(images: Tensor, size: Sides) -> Tensor:
    """[B, 3, H, W] → [B, 3, *size] by a Lanczos-3 filter in float32, clamped to [−1, 1]."""
    height, width = height_width(size)
    channels = images.float().cpu().flatten(0, 1).numpy()
    resized = [Image.fromarray(c).resize((width, height), Image.Resampling.LANCZOS) for c in channels]
    result = torch.from_numpy(np.stack([np.asarray(c) for c in resized]))
    return result.reshape(*images.shape[:2], height, width).clamp(-1, 1).to(images.device)


def grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """A contact sheet of pictures of equal size."""
    columns = columns or _columns(len(images))
    width, height = images[0].size
    sheet = Image.new("RGB", sheet_size(len(images), images[0].size, columns, gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def sheet_size(
    count: int, size: tuple[int, int], columns: int | None = None, gap: int = 4
) -> tuple[int, int]:
    """(width, height) in pixels of `grid` of `count` pictures of a size."""
    columns = columns or _columns(count)
    rows = -(-count // columns)
    return columns * (size[0] + gap) - gap, rows * (size[1] + gap) - gap


def _columns(count: int) -> int:
    return max(1, round(math.sqrt(count)))


def check_animation(path: Path) -> None:
    """Checks whether an animation of this format can be written; MP4 needs ffmpeg.

    Raises:
        RequestError: ffmpeg is not installed.
    """
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
    """Writes a GIF, WebP or MP4, chosen by the path's suffix, atomically.

    Args:
        bounce: play the frames forwards, then backwards, so that the loop has no jump.
        rate: frames per second.
        settings, source: for the metadata, as in `save_picture`; WebP only.
    """
    check_animation(path)
    frames = [*images, *images[-2:0:-1]] if bounce else list(images)
    text = to_json(settings) if settings else None
    options: dict[str, Any] = {"append_images": frames[1:], "duration": round(1000 / rate), "loop": 0}
    if path.suffix.lower() == ".webp" and source:
        options["xmp"] = metadata.xmp_packet(source, text).encode()
    try:
        with new_file(path) as temporary:
            if path.suffix.lower() == ".mp4":
                _encode_mp4(frames, temporary, rate)
            else:
                frames[0].save(temporary, save_all=True, **options)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise RequestError(f"{path}: cannot be written ({error})") from None


def _encode_mp4(frames: Sequence[Image.Image], path: Path, rate: int) -> None:
    width, height = frames[0].size
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    pixels = b"".join(image.convert("RGB").tobytes() for image in frames)
    command = ["ffmpeg", "-v", "error", "-y", *source, "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, input=pixels, check=True, capture_output=True)


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Writes a PNG atomically, with the settings in its metadata."""
    write(path, metadata.encode(image, settings=settings))


def save_picture(
    image: Image.Image,
    path: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    source: metadata.Source | None = None,
) -> None:
    """Writes a picture atomically, in the format of the path's suffix.

    Args:
        settings: settings of the generation, for the metadata.
        source: origin of the pixels, for the metadata.
    """
    write(path, metadata.encode(image, metadata.format_of(path), settings=settings, source=source))


def write(path: Path, data: bytes) -> None:
    """Writes a file atomically, and creates its folder.

    Raises:
        RequestError: it cannot be written.
    """
    try:
        with new_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings in a picture's metadata.

    Raises:
        RequestError: not a readable picture, or without valid settings.
    """
    with opened(path) as image:
        text = metadata.settings_text(image)
    if text is None:
        raise RequestError(f"{path}: carries no unclip settings")
    try:
        settings = parse_json(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise RequestError(f"{path}: its unclip settings are damaged")
    return settings
