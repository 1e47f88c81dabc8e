"""Text files of other people: encodings, byte order marks, line ends and JSON.

Imports nothing heavy: every part of the package that reads text reads it here.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from unclip.errors import RequestError, UnclipError

# UTF-32 comes first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # a file with these is binary, not Windows-1252
SURROGATES = re.compile("[\ud800-\udfff]")


def decode(data: bytes, *, legacy: bool = False) -> str:
    """Decode a text file: UTF-8, or UTF-16 and UTF-32 with a byte order mark, which is left out.

    Args:
        legacy: read anything else as Windows-1252, or as Latin-1 where that has no letter.

    Raises:
        ValueError: not text in these encodings; the message says what is wrong.
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        if not legacy or mark:
            raise ValueError(f"not {encoding[:6].rstrip('-').upper()} text") from None
        text = _legacy(data)
    if "\0" in text:
        raise ValueError("not text: it holds NUL bytes")
    return text


def _legacy(data: bytes) -> str:
    if CONTROL.search(text := data.decode("latin-1")):
        raise ValueError("not text: it holds control characters")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return text


def read_text(path: Path, error: type[UnclipError] = RequestError, *, legacy: bool = False) -> str:
    """Read a text file, decoded by `decode`.

    Raises:
        error: the file is missing, unreadable or not text.
    """
    try:
        return decode(path.read_bytes(), legacy=legacy)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read ({getattr(problem, 'strerror', None) or problem})") from None


def lines(text: str) -> list[str]:
    """Split text at line ends alone (LF, CRLF, CR).

    `str.splitlines` also splits at U+2028, U+0085, form feeds and others, which occur inside captions.
    """
    found = re.split(r"\r\n|\n|\r", text)
    return found if found[-1] else found[:-1]


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; bytes are decoded by `decode`.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(decode(text) if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def to_json(tree: object, **options: Any) -> str:
    r"""Format JSON with letters as they are, and with the bytes of names that are not UTF-8 as \udcXX."""
    return json.dumps(tree, ensure_ascii=False, **options).encode(errors="backslashreplace").decode()


def legible(text: str) -> str:
    """Replace what cannot be encoded: bytes of file names that are not UTF-8 are read as Windows-1252.

    Python holds such bytes as lone surrogates (PEP 383). Other lone surrogates become U+FFFD.
    """
    return SURROGATES.sub(lambda found: _character(found[0]), text)


def _character(surrogate: str) -> str:
    try:
        return surrogate.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    except UnicodeEncodeError:  # it stands for no byte
        return "\ufffd"
