"""Pictures at the edges of the program: PIL ⇄ tensors in [−1, 1], resizing, contact sheets, PNG metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from unclip.errors import RequestError

METADATA_KEY = "unclip"  # the PNG text chunk that holds the settings


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as float32 [3, H, W] in [−1, 1]."""
    array = np.asarray(image.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1


def to_pil(image: Tensor) -> Image.Image:
    """float [3, H, W] in [−1, 1] (clamped) as a picture."""
    array = ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy())


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


def save_png(image: Image.Image, path: Path, settings: dict[str, Any] | None = None) -> None:
    """Writes a PNG whole or not at all, with the settings in its metadata."""
    info = PngInfo()
    if settings:
        info.add_itxt(METADATA_KEY, json.dumps(settings, ensure_ascii=False))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(temporary, "PNG", pnginfo=info)
        temporary.replace(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_png` wrote."""
    try:
        with Image.open(path) as image:
            text = image.info.get(METADATA_KEY)
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
