"""Encode images with metadata: IPTC digital source type (as XMP) and generation settings."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unclip.errors import RequestError
from unclip.text import to_json
from unclip.version import __version__

# Made by a model, entirely or in part.
Source = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
Format = Literal["PNG", "JPEG", "WEBP"]

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SETTINGS_KEY = "unclip"  # the PNG text chunk that holds the settings
XMP_KEY = "XML:com.adobe.xmp"  # the PNG text chunk that holds XMP
FORMATS: dict[str, Format] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LONGEST_XMP = 65_000  # bytes; the limit of a JPEG segment
LARGEST_SIDE: dict[Format, int] = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}  # pixels
SHORTENED = "lists and texts are cut to fit into a JPEG; a PNG holds them whole"


def format_of(path: Path) -> Format:
    """Return the image format of a file name.

    Raises:
        RequestError: the suffix is unknown.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise RequestError(f"{path}: a picture's name ends in {', '.join(FORMATS)}") from None


def encode(
    image: Image.Image,
    format: Format = "PNG",
    *,
    settings: Mapping[str, Any] | None = None,
    source: Source | None = None,
    quality: int | None = None,
) -> bytes:
    """Encode an image as a file's bytes.

    Args:
        settings: generation settings, stored as JSON in a PNG text chunk, or in XMP for other formats.
        source: IPTC digital source type of the pixels.
        quality: of JPEG or WebP, 0 to 100. Default: 95 and 92.

    In a JPEG, whose metadata are limited to 64 KiB, long lists and texts of the settings are cut, and a note
    under `shortened` says so.

    Raises:
        RequestError: the picture is too large for the format.
    """
    check_size(format, *image.size)
    text = to_json(settings) if settings else None
    file = io.BytesIO()
    if format == "PNG":
        info = PngInfo()
        if source:
            info.add_itxt(XMP_KEY, xmp_packet(source, None))
        if text:
            info.add_itxt(SETTINGS_KEY, text)
        image.save(file, "PNG", pnginfo=info)
        return file.getvalue()
    xmp = xmp_packet(source, text).encode() if source or text else b""
    limit = 2**18
    while settings and format == "JPEG" and len(xmp) > LONGEST_XMP:
        limit //= 2
        cut = {**_shortened(dict(settings), limit), "shortened": SHORTENED} if limit else None
        xmp = xmp_packet(source, to_json(cut) if cut else None).encode()
    how: dict[str, Any] = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"quality": 92}
    if quality is not None:
        how["quality"] = max(1, quality)  # Pillow takes 0 for its default
    image.convert("RGB").save(file, format, **how, **({"xmp": xmp} if xmp else {}))
    return file.getvalue()


def check_size(format: Format, width: int, height: int, name: str = "the picture") -> None:
    """RequestError if a format cannot hold a picture of this size in pixels."""
    if max(width, height) > LARGEST_SIDE[format]:
        raise RequestError(
            f"{name}: {width} × {height} pixels are too large for a {format}, whose sides have at most "
            f"{LARGEST_SIDE[format]}; write a PNG"
        )


def _shortened(tree: Any, limit: int) -> Any:
    """A copy with texts cut to `limit` characters and lists to `limit` / 1024 items, at least 1."""
    if isinstance(tree, dict):
        return {key: _shortened(value, limit) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_shortened(value, limit) for value in tree[: max(1, limit // 1024)]]
    return tree[:limit] if isinstance(tree, str) else tree


def settings_text(image: Image.Image) -> str | None:
    """Return the settings that `encode` wrote, as JSON; None if there are none."""
    if SETTINGS_KEY in image.info:
        return str(image.info[SETTINGS_KEY])
    xmp = image.info.get("xmp", b"")
    found = re.search(rb'unclip:Settings="([^"]*)"', xmp) if isinstance(xmp, bytes) else None
    return html.unescape(found[1].decode("utf-8", "replace")) if found else None


def xmp_packet(source: Source | None, settings: str | None) -> str:
    """Build an XMP packet (ISO 16684-1)."""
    facts = {"xmp:CreatorTool": f"unclip {__version__}"}
    if source:
        facts["Iptc4xmpExt:DigitalSourceType"] = SOURCE_TYPES + source
    if settings:
        facts["unclip:Settings"] = settings
    attributes = "".join(f' {name}="{escape(value, {chr(34): "&quot;"})}"' for name, value in facts.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:unclip="urn:unclip:1"'
        f'{attributes}/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
