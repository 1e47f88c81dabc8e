"""Tables of images and captions: CSV, TSV, JSON Lines, JSON (COCO's captions as well) and Parquet.

Rows of the same image are several captions of it. This module does not import torch.
"""

from __future__ import annotations

import ast
import csv
import io
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unclip.data.sample import caption_list
from unclip.data.tar import Sample
from unclip.errors import DataError
from unclip.text import decode, lines, parse_json, to_json

TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # Hugging Face's ImageFolder
IMAGE_COLUMNS = ("path", "file_name", "filename", "image_name", "image", "url")
CAPTION_COLUMNS = ("captions", "caption", "text", "comment")


class Entry(NamedTuple):
    """An image and its captions.

    Attributes:
        path: the image file, or the Parquet file that holds it; empty if the table names none.
        captions: None reads the text or JSON file beside the image.
        row: row of the Parquet file; None for an image file.
    """

    path: str
    captions: tuple[str, ...] | None
    row: int | None = None

    def caption_files(self) -> Sample:
        """Return the captions as a sample's text file, or its JSON file if there are several."""
        several = self.captions or ()
        if len(several) > 1:
            return {"json": to_json({"captions": several}).encode()}
        return {"txt": several[0].encode(errors="replace")} if several else {}


def read_table(table: Path, images: Path | None = None) -> list[Entry]:
    """Read a table; the images are in order of their first rows.

    The columns are `IMAGE_COLUMNS` and `CAPTION_COLUMNS`, the first of each that the table has. A JSON file
    is a list of rows, an object of captions by image, or COCO's captions.

    Args:
        images: folder that the image paths are relative to. Default: the table's folder.

    Raises:
        DataError: the table cannot be read, or lacks a column.
    """
    if table.suffix.lower() == ".parquet":
        rows: Iterable[dict[str, Any]] = _parquet_rows(table)
    else:
        try:
            rows = list(_text_rows(table))
        except (OSError, ValueError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"{table}: cannot be read as a table ({reason})") from None
    return _joined(_entry(table, images or table.parent, number, row) for number, row in enumerate(rows))


def read_rows(path: str, wanted: Sequence[int]) -> Iterator[bytes]:
    """Yield the image files in rows of a Parquet file; empty for a row without one.

    Args:
        wanted: rows in ascending order; only their row groups are read.

    Raises:
        DataError: pyarrow is missing, or the file cannot be read.
    """
    file, first, left = _open_parquet(Path(path)), 0, deque(wanted)
    for group in range(file.num_row_groups):
        stop = first + file.metadata.row_group(group).num_rows
        if left and left[0] < stop:
            names = {name.lower(): name for name in file.schema_arrow.names}
            column = names[_column(Path(path), 0, names, IMAGE_COLUMNS)]
            values = file.read_row_group(group, columns=[column]).column(column)
            while left and left[0] < stop:
                yield _image_bytes(values[left.popleft() - first].as_py()) or b""
        first = stop


def _joined(entries: Iterable[Entry]) -> list[Entry]:
    """Join the captions of entries of the same image."""
    found: dict[tuple[str, int | None], Entry] = {}
    for entry in entries:
        before = found.setdefault((entry.path, entry.row), entry)
        if before is not entry:
            several = dict.fromkeys([*(before.captions or ()), *(entry.captions or ())])
            found[entry.path, entry.row] = before._replace(captions=tuple(several))
    return list(found.values())


def _entry(table: Path, images: Path, number: int, row: dict[str, Any]) -> Entry:
    fields = {str(name).strip().lower(): value for name, value in row.items()}
    image = fields.get(_column(table, number, fields, IMAGE_COLUMNS))
    text = fields.get(_column(table, number, fields, CAPTION_COLUMNS))
    if isinstance(text, str) and text.startswith("[") and table.suffix.lower() in (".csv", ".tsv"):
        text = _listed(text)
    try:
        captions = tuple(caption_list(text))
    except ValueError:  # an object, say: the image has no caption
        captions = ()
    if isinstance(image, dict) and image.get("path") and not image.get("bytes"):
        image = image["path"]  # Hugging Face's images: bytes, a path, or both
    if _image_bytes(image):
        return Entry(str(table), captions, number)
    if not isinstance(image, str) or not image.strip():
        return Entry("", captions)
    image = image.strip().removeprefix("file://")
    if "://" in image:
        raise DataError(
            f"{table}: {' '.join(image.split())[:200]} is an address; img2dataset downloads pictures into "
            "shards that `pack` takes"
        )
    return Entry(str(images / image), captions)


def _column(table: Path, number: int, names: Collection[str], known: tuple[str, ...]) -> str:
    """Choose the column to read. Only the first row must have one: JSON rows can lack what is missing."""
    for name in known:
        if name in names:
            return name
    if number:
        return known[0]
    shown = " ".join(", ".join(names).split())[:200] or "none"
    raise DataError(f"{table}: row 1 has no {', '.join(known[:-1])} or {known[-1]}; there are {shown}")


def _image_bytes(value: Any) -> bytes | None:
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _listed(text: str) -> Any:
    """Read a list that a program wrote into a cell as Python or JSON; other text stays text."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else text


def _text_rows(table: Path) -> Iterator[dict[str, Any]]:
    text, suffix = decode(table.read_bytes(), legacy=True), table.suffix.lower()
    if suffix == ".json":
        yield from _json_rows(parse_json(text))
    elif suffix == ".jsonl":
        for number, line in enumerate(lines(text), start=1):
            if line.strip():
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                yield row
    else:
        head = (lines(text) or [""])[0]
        delimiter = "\t" if suffix == ".tsv" else max(",;\t|", key=head.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = reader.fieldnames or [""]
        for row in reader:
            more = row.pop(None, [])
            if any(more):  # a caption with commas and without quotes, if that is the last column
                if names[-1].strip().lower() not in CAPTION_COLUMNS:
                    raise ValueError(
                        f"line {reader.line_num} has more fields than the first line; put text that holds "
                        f"{'tabs' if delimiter == chr(9) else f'a {delimiter!r}'} in quotes"
                    )
                row[names[-1]] = delimiter.join([row[names[-1]], *more])
            yield row


def _json_rows(tree: Any) -> Iterator[dict[str, Any]]:
    """Rows of a list of objects, of COCO's captions, or of an object of captions by image."""
    if isinstance(tree, list) and all(isinstance(row, dict) for row in tree):
        yield from tree
    elif isinstance(tree, dict) and {"images", "annotations"} <= tree.keys():
        captions: dict[Any, list[Any]] = {}
        try:
            for one in tree["annotations"]:
                captions.setdefault(one["image_id"], []).append(one["caption"])
            for image in tree["images"]:
                yield {"file_name": image["file_name"], "captions": captions.get(image["id"])}
        except (KeyError, TypeError) as error:
            raise ValueError(f"not COCO's captions: {error} is missing or not as there") from None
    elif isinstance(tree, dict) and all(isinstance(value, str | list) for value in tree.values()):
        yield from ({"path": path, "captions": value} for path, value in tree.items())
    else:
        raise ValueError("neither a list of rows, nor COCO's captions, nor captions by picture")


def _open_parquet(table: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{table}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        return parquet.ParquetFile(table)
    except (OSError, ArrowException) as error:
        raise DataError(
            f"{table}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})"
        ) from None


def _parquet_rows(table: Path) -> Iterator[dict[str, Any]]:
    file = _open_parquet(table)
    for batch in file.iter_batches(batch_size=64):
        yield from batch.to_pylist()
