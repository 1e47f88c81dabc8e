"""Pictures at the edges of the program: PIL ⇄ tensors in [−1, 1], resizing, contact sheets, files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unclip.errors import RequestError
from unclip.provenance import metadata, watermark


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as float32 [3, H, W] in [−1, 1]."""
    array = np.asarray(image.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1


def to_pil(image: Tensor, *, marked: bool = False) -> Image.Image:
    """float [3, H, W] in [−1, 1] (clamped) as a picture.

    Args:
        marked: with the invisible watermark, for pictures that a model made.
    """
    pixels = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    # The mark goes in before the one rounding: a picture and its twin from a batch stay within 1/255.
    return Image.fromarray((watermark.embed(pixels) if marked else pixels).round().astype(np.uint8))


def mark(image: Image.Image) -> Image.Image:
    """The picture with the invisible watermark that says a model made it."""
    return to_pil(to_tensor(image), marked=True)


def resize(images: Tensor, size: int) -> Tensor:
    """[B, C, H, W] → [B, C, size, size], bicubic, antialiased when it shrinks, kept in [−1, 1]."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=images.shape[-1] > size).clamp(-1, 1)


def grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """A contact sheet of equally large pictures."""
    columns = columns or max(1, round(len(images) ** 0.5))
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Writes a PNG whole or not at all, with the settings in its metadata."""
    _write(path, metadata.encode(image, settings=settings))


def save_picture(
    image: Image.Image, path: Path, *, settings: Mapping[str, Any] | None = None, source: metadata.Source | None = None
) -> None:
    """Writes a picture whole or not at all, in the format that its name asks for.

    Args:
        settings: what made it, for the metadata.
        source: what its pixels are, for the metadata.
    """
    _write(path, metadata.encode(image, metadata.format_of(path), settings=settings, source=source))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


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
