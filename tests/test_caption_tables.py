"""Captions from tables, metadata files, COCO's JSON and class folders, as people and programs write them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.data.check import check
from unclip.data.examine import Limits
from unclip.data.pack import PackJob, pack
from unclip.data.sample import captions
from unclip.data.source import Unit, find_units
from unclip.data.tar import find_shards, read_samples
from unclip.errors import DataError, RequestError


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (seed * 7 % 256, seed * 31 % 256, seed % 256)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with pictures a.png, b.png and c.png."""
    for i, name in enumerate("abc"):
        (tmp_path / f"{name}.png").write_bytes(png(i))
    return tmp_path


def packed(root: Path, source: str, **options: object) -> list[list[str]]:
    """The captions of each picture, in the pictures' order."""
    job = PackJob(str(root / source), Limits(), 1000, **options)  # type: ignore[arg-type]
    pack(job, root / "out")
    samples = read_samples(find_shards(str(root / "out/*.tar")))
    return [captions(one) for one in sorted(samples, key=lambda one: png_number(one["png"]))]


def png_number(content: bytes) -> int:
    pixel = Image.open(io.BytesIO(content)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[2])


COCO = {
    "info": {},
    "images": [
        {"id": 7, "file_name": "a.png"},
        {"id": 9, "file_name": "b.png"},
        {"id": 1, "file_name": "c.png"},
    ],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "B one"},
        {"image_id": 7, "id": 2, "caption": "A one\n"},
        {"image_id": 9, "id": 3, "caption": "B two"},
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "file_name,text\na.png,A\nb.png,B\n", [["A"], ["B"]]),
        ("t.csv", "Image,Caption\na.png,A\nb.png,B\n", [["A"], ["B"]]),
        ("t.csv", "path,caption,text\na.png,A,wrong\n", [["A"]]),
        ("t.csv", "path,caption\na.png,A one\na.png,A two\na.png,A one\n", [["A one", "A two"]]),
        ("t.csv", "path,caption\na.png,A, with a comma\nb.png,B,,\n", [["A, with a comma"], ["B"]]),
        ("t.csv", "path;caption\na.png;A, with a comma\n", [["A, with a comma"]]),
        ("t.csv", "path,captions\na.png,\"['A one', 'A, two']\"\n", [["A one", "A, two"]]),
        ("t.csv", "path,caption\na.png,[A] in brackets\n", [["[A] in brackets"]]),
        ("t.csv", 'path,caption\na.png,"two\nlines"\n', [["two\nlines"]]),
        ("t.csv", "path,caption\na.png,A\x85\u2028one\n", [["A\x85\u2028one"]]),
        ("captions.txt", "image,caption\na.png,A one .\na.png,A , two .\n", [["A one .", "A , two ."]]),
        ("t.csv", "image_name| comment_number| comment\na.png| 0| A, one\n", [["A, one"]]),
        ("t.tsv", "url\tcaption\na.png\tA, one\n", [["A, one"]]),
        ("t.jsonl", '{"image": "a.png", "captions": ["A one", null, "A two"]}\n', [["A one", "A two"]]),
        ("t.jsonl", '{"path": "a.png", "text": NaN}\n{"path": "b.png", "text": "B"}\n', [["B"]]),
        ("t.jsonl", '{"path": "a.png", "text": "A"}\n{"path": "b.png"}\n', [["A"]]),
        ("t.jsonl", '{"path": "a.png", "text": "A\u2028one"}\n', [["A\u2028one"]]),
        ("t.json", '[{"path": "a.png", "text": "A"}, {"path": "b.png", "text": null}]', [["A"]]),
        ("t.json", '[{"path": "a.png", "text": {"en": "A"}}, {"path": "b.png", "text": "B"}]', [["B"]]),
        ("t.json", '[{"path": "a.png", "text": 2022}, {"path": "b.png", "text": true}]', [["2022"]]),
        ("t.json", '{"a.png": "A", "b.png": ["B one", "B two"]}', [["A"], ["B one", "B two"]]),
        ("t.json", json.dumps(COCO), [["A one"], ["B one", "B two"]]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_people_and_programs_write_them(
    root: Path, name: str, content: str, expected: list[list[str]], encoding: str
) -> None:
    (root / name).write_bytes(content.encode(encoding))
    assert packed(root, name) == expected


def test_line_ends_and_encodings_of_other_systems(root: Path) -> None:
    (root / "t.csv").write_bytes("path,caption\r\na.png,café\r\nb.png,B\r\n".encode("latin-1"))
    assert packed(root, "t.csv") == [["café"], ["B"]]
    for name, content in {"a": "A é".encode("utf-16"), "b": b"\xef\xbb\xbfB", "c": b"caf\xe9\r\n"}.items():
        (root / f"{name}.{'TXT' if name == 'a' else 'txt'}").write_bytes(content)
    (root / "t.csv").unlink()
    (root / "shards").mkdir()
    pack(PackJob(str(root), Limits(), 1000), root / "shards")
    samples = list(read_samples(find_shards(str(root / "shards/*.tar"))))
    # Other programs read the shards, too.
    assert sorted(one["txt"].decode().strip() for one in samples) == ["A é", "B", "café"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "caption,path\na cat, sleeping,a.png\n", "line 2 has more fields .* holds a ',' in quotes"),
        ("t.csv", "a.png,a cat\nb.png,a dog\n", "row 1 has no path, .* or url; there are a.png, a cat"),
        ("t.csv", 'path,"words\nof it"\na.png,A\n', "there are path, words of it"),
        ("t.csv", "path,words\na.png,A\n", "row 1 has no captions, .* or comment; there are path, words"),
        ("t.csv", "url,caption\nhttps://example.org/a.png,A\n", "is an address; img2dataset"),
        ("t.json", '{"images": [{"id": 1}], "annotations": []}', "not COCO's captions: 'file_name'"),
        ("t.json", "3", "neither a list of rows, nor COCO's captions"),
        ("t.json", "[" * 100_000, "cannot be read as a table"),
        ("t.jsonl", '{"path": "a.png", "text": "A"}\n[]\n', "line 2 is not an object"),
        ("notes.txt", "a cat\n", "row 1 has no|no rows in it"),
        ("gone.csv", None, "gone.csv: no such folder, table or tar"),
        ("gone", None, "gone: no such folder, table or tar"),
        ("*.gif", None, "gif: no such folder, table or tar"),
        ("*.png", None, "a.png: not a tar"),
        ("a.png", None, "a.png: not a tar; `unclip data pack` makes shards of a folder or a table"),
    ],
)
def test_what_is_no_table_is_said_in_one_line(
    root: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (root / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        packed(root, name)
    assert "\n" not in str(caught.value) and not (root / "out").exists()


def test_rows_without_a_picture_are_left_out_by_reason(root: Path) -> None:
    (root / "x.svg").write_text("<svg/>")
    (root / "t.csv").write_text("path,caption\na.png,A\n,none\ngone.png,gone\nx.svg,drawn\nb.png,\na.mp4,A\n")
    packing = pack(PackJob(str(root / "t.csv"), Limits(), 1000), root / "out")
    reasons = {"no file named", "no such file", "svg is not read", "format not read: mp4", "no caption"}
    assert packing.samples == 1 and packing.left_out.keys() == reasons
    listed = [json.loads(line) for line in (root / "out/left-out.jsonl").read_text().splitlines()]
    assert {"file": str(root / "gone.png"), "reason": "no such file"} in listed


def test_pictures_of_other_formats_are_read_or_counted(root: Path) -> None:
    for path in root.iterdir():
        path.unlink()
    for i, suffix in enumerate(("gif", "bmp", "tif", "TIFF", "jp2")):
        kind = {"tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
        Image.new("RGB", (64, 64), (i, 50 * i, 0)).save(root / f"{i}.{suffix}", kind)
        (root / f"{i}.txt").write_text(suffix)
    (root / "p.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "p.txt").write_text("of a telephone")
    packing = pack(PackJob(str(root), Limits(), 1000), root / "out")
    assert packing.samples == 5 and packing.left_out == {"HEIC needs pillow-heif": 1}
    report = check(find_shards(str(root / "out/*.tar")))
    assert report.samples == 5 and not report.skipped


def test_pictures_lie_where_images_says(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "annotations/captions.json").write_text(json.dumps(COCO))
    command = ["data", "pack", str(root / "annotations/captions.json"), str(root / "out")]
    failed = CliRunner().invoke(cli, command)
    assert "no usable samples: 2 no such file" in str(failed.exception) or "3 no such file" in str(
        failed.exception
    )
    done = CliRunner().invoke(cli, [*command, "--images", str(root)])
    assert done.output.startswith("2 samples in 1 shards"), done.output
    report = check(find_shards(str(root / "out/*.tar")))
    assert dict(report.captions) == {1: 1, 2: 1}


@pytest.mark.parametrize("name", ["metadata.csv", "train/metadata.jsonl"])
def test_a_folder_with_metadata_as_imagefolder_has_it(root: Path, name: str) -> None:
    (root / "in/train").mkdir(parents=True)
    for one in "abc":
        (root / f"{one}.png").rename(root / f"in/train/{one}.png")
    (root / "in/train/c.txt").write_text("its own")
    place = "train/" if name == "metadata.csv" else ""
    rows = [(f"{place}a.png", "A"), (f"{place}b.png", "B, too")]
    text = "file_name,text\n" + "".join(f'{path},"{text}"\n' for path, text in rows)
    if name.endswith("jsonl"):
        text = "".join(json.dumps({"file_name": path, "text": text}) + "\n" for path, text in rows)
    (root / "in" / name).write_text(text)
    assert packed(root, "in") == [["A"], ["B, too"], ["its own"]]


def test_a_metadata_table_about_something_else_is_not_read(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "metadata.csv").write_text("id,width\n1,64\n")
    (root / "a.txt").write_text("A")
    (root / "b.json").write_text('{"caption": "B"}')
    job = PackJob(str(root), Limits(), 1000)
    assert pack(job, root / "out").left_out == {"no caption": 1}
    assert "metadata.csv: row 1 has no path" in caplog.text


def test_odd_names_in_a_table_are_left_out(root: Path) -> None:
    names = ["a.png", "\ud800.png", "a\0b.png", "x" * 5000 + ".png", "..", "/", "\udce9.png", "caf\u00e9.png"]
    rows = [{"path": name, "caption": "A \ud800"} for name in names]
    (root / "t.json").write_text(json.dumps(rows))
    packing = pack(PackJob(str(root / "t.json"), Limits(), 1000), root / "out")
    assert packing.samples == 1 and sum(packing.left_out.values()) == 7
    assert len((root / "out/left-out.jsonl").read_text().splitlines()) == 7


def test_captions_from_class_folders_in_shards_that_are_shuffled_once(root: Path) -> None:
    for i in range(60):
        folder = root / "classes/train" / f"kind_{i // 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.png").write_bytes(png(i))
    (root / "classes/train/kind_0/03.txt").write_text("its own caption")
    (root / "classes/loose.png").write_bytes(png(99))
    command = ["data", "pack", str(root / "classes"), str(root / "out"), "--shard-size", "20"]
    command += ["--captions-from-folders", "a photo of a {}"]
    done = CliRunner().invoke(cli, command)
    assert done.output.splitlines()[1] == "left out: 1 no caption", done.output
    first = [captions(one)[0] for one in read_samples([str(root / "out/000000.tar")])]
    assert len(set(first)) >= 5 and "a photo of a kind 5" in first
    everything = [captions(one)[0] for one in read_samples(find_shards(str(root / "out/*.tar")))]
    assert len(everything) == 60 and everything.count("its own caption") == 1
    for wrong in ("a photo", ""):
        failed = CliRunner().invoke(cli, [*command[:-1], wrong])
        assert isinstance(failed.exception, RequestError) and "needs {}" in str(failed.exception)


def test_a_split_follows_the_pictures_not_their_names_or_order(root: Path) -> None:
    (root / "in").mkdir()
    for i in range(200):
        (root / f"in/{i}.png").write_bytes(png(i))
        (root / f"in/{i}.txt").write_text(str(i))

    def split(out: str) -> list[set[bytes]]:
        command = ["data", "pack", str(root / "in"), str(root / out), "--split", "0.2", "--shard-size", "70"]
        told = CliRunner().invoke(cli, command).output.splitlines()
        parts = (find_shards(str(root / out / part / "*.tar")) for part in ("train", "validation"))
        found = [{one["png"] for one in read_samples(part)} for part in parts]
        assert told[1] == f"train: {len(found[0])}, validation: {len(found[1])}"
        return found

    train, validation = split("one")
    assert not train & validation and len(train | validation) == 200 and 20 <= len(validation) <= 60
    (root / "in/0.png").unlink()
    for path in list((root / "in").iterdir()):
        path.rename(path.with_stem(f"renamed-{path.stem}"))
    again = split("two")
    assert again == [train - {png(0)}, validation - {png(0)}]
    assert not list((root / "one").glob("*.tar"))


def test_parquet_with_the_pictures_in_it(root: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": png(i), "path": None}, "text": [f"{i} one", f"{i} two"] if i else None}
        for i in range(10)
    ]
    (root / "set/data").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), root / "set/data/train-0.parquet", row_group_size=3)
    packing = pack(PackJob(str(root / "set"), Limits(), 4), root / "out")
    assert (packing.shards, packing.samples, packing.left_out) == (3, 9, {"no caption": 1})
    samples = list(read_samples(find_shards(str(root / "out/*.tar"))))
    assert [one["png"] for one in samples] == [png(i) for i in range(1, 10)]
    assert captions(samples[0]) == ["1 one", "1 two"]
    mixed = tuple(find_units(str(root / "set"), 10)[0].entries[i] for i in (7, 2, 5))
    assert [one["png"] for one in Unit(None, mixed).samples()] == [png(7), png(2), png(5)]
    (root / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="bad.parquet: cannot be read as Parquet"):
        pack(PackJob(str(root / "bad.parquet"), Limits(), 4), root / "other")
