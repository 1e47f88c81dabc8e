"""Odd captions, tables, tars and configs for `fuzz_files.py`: one function per area.

Each function makes one random case in an empty folder and reads it as the package does. It returns what
happened in a word; an exception that is not the package's own is a fault.
"""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from picture_cases import PIXELS, chunks, encoded, exif, mutated, one_line, pictures

from unclip.data.check import check
from unclip.data.examine import Limits
from unclip.data.pack import PackJob, pack
from unclip.data.sample import BadSample, captions, label
from unclip.data.tables import read_table
from unclip.errors import UnclipError
from unclip.stages import stage_class
from unclip.train.config import read_run

ODD_TEXT = (
    *("", " ", "\0", "\ufeff", "\u2028", "\x85", "\r", "\n", "\udcff", "\ud800", "é", "日本語", "👩‍🎨", "‮"),
    *('"', "'", ",", ";", "\t", "|", "[", "{", "[1,", "{}", "null", "NaN", "-1", "1e999", "a" * 5000),
    *("../a.png", "/dev/null", "a.png", "file://a.png", "http://x/a.png", "con", "%s%n", "=1+1", "<b>"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 10**30, 0.5, -0.5, float("nan"), float("inf"), "", "x", "1", [], {}, [[]]),
    *([None], {"a": 1}, [0], ["x"], [1, 2, 3], 2, 7, 64, 1000, "é", "null", 1e-30, [1e30]),
)
CONFIGS = sorted(Path(__file__).parents[2].glob("configs/**/*.yaml"))


def text_captions(rng: random.Random, folder: Path) -> str:
    """Caption files of a sample: text in any encoding, JSON of any shape."""
    text = "".join(rng.choice(ODD_TEXT) for _ in range(rng.randrange(1, 5)))
    tree = rng.choice(
        ({"caption": _value(rng)}, {"captions": _value(rng), "label": _value(rng)}, _value(rng))
    )
    encoding = rng.choice(("utf-8", "utf-16", "utf-32", "latin-1", "cp1252", "utf-8-sig", "shift-jis"))
    content = rng.choice((text, json.dumps(tree))).encode(encoding, "replace")
    content = mutated(content, rng, 2) if rng.random() < 0.5 else content
    sample = {"__key__": "a", rng.choice(("txt", "json")): content}
    outcome = "read"
    try:
        found = captions(sample)
        assert found and all(isinstance(one, str) and one.encode() for one in found)
    except BadSample as error:
        outcome = one_line(error)
    try:
        label(sample)
    except BadSample as error:
        one_line(error)
    return outcome


def _value(rng: random.Random, depth: int = 2) -> Any:
    if depth and rng.random() < 0.3:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    return rng.choice((*ODD_VALUES, *ODD_TEXT))


def tables(rng: random.Random, folder: Path) -> str:
    """Tables of every kind with odd columns, values and bytes; packed, with nothing half-written."""
    columns = [
        rng.choice(("path", "file_name", "image", "url", "Path ")),
        rng.choice(("caption", "text", "captions")),
    ]
    columns = columns + rng.sample(["x", "", "text", "path"], rng.randrange(3))
    rows = [
        {
            name: rng.choice(("a.png", _value(rng))) if i == 0 else _value(rng)
            for i, name in enumerate(columns)
        }
        for _ in range(rng.randrange(5))
    ]
    suffix = rng.choice(("csv", "tsv", "txt", "json", "jsonl", "parquet"))
    data = _table(suffix, columns, rows)
    path = folder / f"t.{suffix}"
    path.write_bytes(mutated(data, rng, 3) if rng.random() < 0.5 else data)
    PIXELS.save(folder / "a.png")
    try:
        assert all(isinstance(entry.path, str) for entry in read_table(path))
    except UnclipError as error:
        one_line(error)
    return _packed(path, folder / "out")


def _table(suffix: str, columns: list[str], rows: list[dict[str, Any]]) -> bytes:
    if suffix == "parquet" and not find_spec("pyarrow"):
        return b"PAR1" + bytes(40) + b"PAR1"
    if suffix == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        file = io.BytesIO()
        cells = {
            name: [str(row[name]).encode(errors="replace") for row in rows] for name in dict.fromkeys(columns)
        }
        parquet.write_table(
            pa.table({name: pa.array(column, pa.binary()) for name, column in cells.items()}), file
        )
        return file.getvalue()
    if suffix == "json":
        return json.dumps(rows).encode()
    if suffix == "jsonl":
        return "\n".join(json.dumps(row) for row in rows).encode()
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if suffix == "tsv" else ",")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return text.getvalue().encode(errors="replace")


def _packed(source: Path, out: Path) -> str:
    try:
        made = pack(PackJob(str(source), Limits(min_side=8), 100), out)
    except UnclipError as error:
        left = {path.name for path in out.rglob("*") if path.is_file()}
        assert left <= {"left-out.jsonl"}, f"left behind: {left}"  # which says what was wrong
        return one_line(error)
    report = check([str(path) for path in out.glob("*.tar")])
    assert report.samples == made.samples and not report.skipped, "what was packed is not readable"
    return "read"


TYPES = (b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"g", b"x", b"L", b"K")
TAR_FILES = {"txt": b"a cat", "json": b'{"caption": "a dog"}'}
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def tars(rng: random.Random, folder: Path) -> str:
    """Tars of every dialect and compression, with odd names and members, mutated."""
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode=rng.choice(("w", "w:gz", "w:bz2")), format=rng.choice(FORMATS)
    ) as tar:
        for i in range(rng.randrange(4)):
            name = rng.choice(
                (*[f"{i}"] * 9, "a" * 150, "é/ü", "../x", "/x", ".hidden", "a.b", "", "日本" * 60)
            )
            for suffix in (
                *rng.choice((("png", "txt"), ("txt",), ("PNG", "json"))),
                *rng.sample(("json", ""), 1),
            ):
                member = tarfile.TarInfo(f"{name}.{suffix}" if suffix else name)
                content = TAR_FILES.get(suffix, b"") if suffix != "png" else encoded(PIXELS.rotate(i), "PNG")
                member.size, member.type = len(content), rng.choice((*[tarfile.REGTYPE] * 99, *TYPES))
                member.mtime, member.linkname = rng.choice((0, 2**40, 1.5)), "a"
                try:
                    tar.addfile(member, io.BytesIO(content))
                except (ValueError, struct.error):  # a name or number that the dialect cannot hold
                    continue
    path = folder / "a.tar"
    path.write_bytes(mutated(file.getvalue(), rng, 4) if rng.random() < 0.5 else file.getvalue())
    check([str(path)])
    return _packed(path, folder / "out")


def configs(rng: random.Random, folder: Path) -> str:
    """Training configs with odd keys, values and bytes. What is accepted can be built."""
    path = folder / "run.yaml"
    data = rng.choice(CONFIGS).read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(mutated(data, rng))
        overrides = []
    else:
        path.write_bytes(data)
        keys = [*_keys(yaml.safe_load(data)), "nothing", "stage.nothing", "stage..x", ""]
        overrides = [
            f"{rng.choice(keys)}{rng.choice(('=', '=', '=', ''))}{yaml.safe_dump(rng.choice(ODD_VALUES)).strip()}"
            for _ in range(rng.randint(1, 3))
        ]
    try:
        run = read_run(path, overrides)
    except UnclipError as error:
        return one_line(error)
    with torch.device("meta"):
        stage_class(run.stage.kind)(run.stage)
    return "read"


def _keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


AREAS = {
    "pictures": pictures,
    "PNG chunks": chunks,
    "EXIF": exif,
    "captions": text_captions,
    "tables": tables,
    "tars": tars,
    "configs": configs,
}
