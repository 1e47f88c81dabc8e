"""Packing: which files become samples, which are left out and why, and resumption after a kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.data.check import check
from unclip.data.examine import Limits
from unclip.data.pack import PackJob, pack
from unclip.data.sample import captions, picture
from unclip.data.source import Unit, find_units
from unclip.data.tar import find_shards, read_samples, write_shard
from unclip.errors import DataError
from unclip.files import UNFINISHED
from unclip.images import mark
from unclip.provenance import metadata


def image(seed: int, width: int = 80, height: int = 64, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, kind)
    return file.getvalue()


def files(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def job(source: Path | str, size: int = 1000, **limits: Any) -> PackJob:
    return PackJob(str(source), Limits(**limits), size)


def packed_captions(out: Path) -> list[list[str]]:
    return [captions(sample) for sample in read_samples(find_shards(str(out / "*.tar")))]


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve good pictures."""
    contents = {f"{i:02d}.jpg": image(i, kind="JPEG") for i in range(12)}
    return files(tmp_path / "pictures", contents | {f"{i:02d}.txt": b"picture %d" % i for i in range(12)})


# --- sources ---


def test_a_folder_of_pictures_with_text_or_json_beside_them(tmp_path: Path) -> None:
    source = files(
        tmp_path / "in",
        {
            "b.PNG": image(1),
            "b.txt": b"text",
            "sub/c.jpg": image(2, kind="JPEG"),
            "sub/c.json": b'{"captions": ["x", "y"]}',
            "a.webp": image(3, kind="WEBP"),
            "a.txt": b"first",
            "notes.md": b"not a picture",
        },
    )
    packed = pack(job(source), tmp_path / "out")
    assert (packed.shards, packed.samples, packed.left_out) == (1, 3, {})
    assert sorted(packed_captions(tmp_path / "out")) == [["first"], ["text"], ["x", "y"]]
    samples = list(read_samples([str(tmp_path / "out/000000.tar")]))
    assert image(1) in [one.get("png") for one in samples]  # the file as it was
    assert picture(samples[0]).size == (80, 64)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'path,caption,more\nin/a.png,"a cat, sleeping",1\nin/b.png,é,2\n'),
        ("t.tsv", "caption\tpath\na cat, sleeping\tin/a.png\né\tin/b.png\n"),
        (
            "t.jsonl",
            '{"path": "in/a.png", "caption": "a cat, sleeping"}\n\n{"path": "in/b.png", "caption": "é"}\n',
        ),
    ],
)
def test_a_table_names_pictures_from_where_it_lies(tmp_path: Path, name: str, content: str) -> None:
    files(
        tmp_path,
        {"in/a.png": image(1), "in/b.png": image(2), "in/a.txt": b"not this", name: content.encode()},
    )
    assert pack(job(tmp_path / name), tmp_path / "out").samples == 2
    assert sorted(packed_captions(tmp_path / "out")) == [["a cat, sleeping"], ["é"]]


def test_tars_as_img2dataset_writes_them(tmp_path: Path) -> None:
    about = json.dumps({"caption": "a cat", "url": "u", "key": "000000000", "status": "success"}).encode()
    (tmp_path / "in").mkdir()
    for i in range(2):
        write_shard(
            tmp_path / f"in/{i:05d}.tar",
            [
                {"__key__": f"{i}00", "jpg": image(i, kind="JPEG"), "txt": b"a cat", "json": about},
                {"__key__": f"{i}01", "jpg": image(0, kind="JPEG"), "json": b'{"caption": null}'},
            ],
        )
    (tmp_path / "in/00002.tar").write_bytes((tmp_path / "in/00000.tar").read_bytes()[:3000])
    packed = pack(job(tmp_path / "in"), tmp_path / "out")
    assert (packed.shards, packed.samples) == (2, 2)
    assert packed.left_out == {"no caption": 2, "shard is damaged": 1}
    assert pack(job(tmp_path / "in/{00000..00001}.tar"), tmp_path / "other").samples == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"file,caption\na,b\n", "row 1 has no path, file_name, .* or url; there are file, caption"),
        ("t.csv", b"", "no rows in it"),
        ("t.tsv", b"\xff\xfe\xff", "cannot be read as a table"),
        ("t.jsonl", b"[1]\n", "cannot be read as a table"),
        ("t.jsonl", b"{\n", "cannot be read as a table"),
        ("folder/readme", b"", "neither pictures"),
    ],
)
def test_sources_that_cannot_be_read_are_one_clear_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    files(tmp_path, {name: content})
    with pytest.raises(DataError, match=message):
        pack(job(tmp_path / name.removesuffix("/readme")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parquet_without_pyarrow_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    files(tmp_path, {"t.parquet": b"PAR1"})
    with pytest.raises(DataError, match="pip install pyarrow"):
        pack(job(tmp_path / "t.parquet"), tmp_path / "out")


# --- what is left out ---


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    source = files(
        tmp_path / "in",
        {
            "a.png": image(1),
            "b.png": image(1),
            "b.txt": b"the same picture, with a caption",
            "c.png": image(1),
            "c.txt": b"once more",
            "d.png": image(2, 40, 40),
            "d.txt": b"small",
            "e.png": image(3, 400, 400),
            "e.txt": b"large",
            "f.png": image(4, 280, 64),
            "f.txt": b"long",
            "g.png": image(5)[:200],
            "g.txt": b"cut off",
            "h.png": image(6),
            "h.json": b"{",
        },
    )
    packed = pack(job(source, max_side=300), tmp_path / "out")
    assert packed.left_out == {
        "no caption": 1,
        "duplicate": 1,
        "too small": 1,
        "too large": 1,
        "extreme aspect ratio": 1,
        "unreadable picture": 1,
        "unreadable caption": 1,
    }
    # One of the three equal pictures has no caption: another one takes its place.
    assert packed_captions(tmp_path / "out") in ([["the same picture, with a caption"]], [["once more"]])
    listed = [json.loads(line) for line in (tmp_path / "out/left-out.jsonl").read_text().splitlines()]
    assert {"file": str(source / "d.png"), "reason": "too small"} in listed
    assert len(listed) == 7 and {one["reason"] for one in listed} == packed.left_out.keys()


def test_pictures_that_a_model_made_are_left_out_unless_they_are_wanted(tmp_path: Path) -> None:
    photo = Image.open(io.BytesIO(image(1, 256, 256))).convert("RGB")
    bare = io.BytesIO()
    mark(photo).save(bare, "JPEG", quality=90)  # its metadata is gone
    contents = {
        "a.png": image(2),
        "b.png": metadata.encode(photo, source="trainedAlgorithmicMedia"),
        "c.jpg": bare.getvalue(),
        "d.png": metadata.encode(photo.crop((0, 0, 100, 100)), settings={"seed": 1}),
    }
    source = files(tmp_path / "in", contents | {f"{name}.txt": b"a picture" for name in "abcd"})
    assert pack(job(source), tmp_path / "out").left_out == {
        "generated (xmp: trainedAlgorithmicMedia)": 1,
        "generated (watermark of unclip)": 1,
        "generated (settings of unclip)": 1,
    }
    kept = CliRunner().invoke(cli, ["data", "pack", str(source), str(tmp_path / "all"), "--keep-generated"])
    assert kept.output.splitlines() == [f"4 samples in 1 shards: {tmp_path / 'all'}"]


def test_nothing_good_is_an_error(tmp_path: Path) -> None:
    files(tmp_path / "in", {"a.png": image(1)})
    with pytest.raises(DataError, match="no usable samples: 1 no caption"):
        pack(job(tmp_path / "in"), tmp_path / "out")


def test_a_tar_whose_pictures_and_captions_lie_apart_is_explained(tmp_path: Path) -> None:
    files = [{"__key__": str(i), "png": image(i)} for i in range(3)]
    texts = [{"__key__": str(i), "txt": b"a cat"} for i in range(3)]
    write_shard(tmp_path / "a.tar", [*files, *texts])
    with pytest.raises(DataError, match="3 no caption, 3 no picture .*must follow each other: unpack it"):
        pack(job(tmp_path / "a.tar"), tmp_path / "out")


def test_duplicates_are_found_across_shards_whatever_the_number_of_processes(
    pictures: Path, tmp_path: Path
) -> None:
    files(pictures, {"99.jpg": image(0, kind="JPEG"), "99.txt": b"again"})
    packed = pack(job(pictures, 5), tmp_path / "one")
    assert (packed.shards, packed.samples, packed.left_out) == (3, 12, {"duplicate": 1})
    report = check(find_shards(str(tmp_path / "one/*.tar")))
    assert report.samples == 12 and report.duplicates == 0
    code = "import sys, pathlib\nfrom unclip.data.pack import *\npack(PackJob(sys.argv[1], Limits(), 5), pathlib.Path(sys.argv[2]), jobs=2)"
    subprocess.run([sys.executable, "-c", code, str(pictures), str(tmp_path / "two")], check=True)
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


# --- resuming ---


def test_a_packing_killed_in_the_middle_goes_on_to_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    pack(job(pictures, 2), tmp_path / "whole")
    # The child stops for good in the middle of writing its third shard, the first being whole, with two
    # processes at work.
    code = """
import sys, time
from pathlib import Path
from unclip.data import examine, pack, tar
real = tar.tarfile.TarFile.addfile
def slow(self, member, content):
    real(self, member, content)
    if "000002" in member.name:
        while not (Path(sys.argv[2]) / "000000.tar").exists():
            time.sleep(0.01)
        print("now", flush=True)
        time.sleep(60)
tar.tarfile.TarFile.addfile = slow
pack.pack(pack.PackJob(sys.argv[1], examine.Limits(), 2), Path(sys.argv[2]), jobs=2)
"""
    out = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(pictures), str(out)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None and child.stdout.readline() == b"now\n"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for _ in range(100):
        if list(out.glob(".tmp-*")):
            break
        time.sleep(0.05)
    assert (
        list(out.glob(".tmp-*-000002.tar"))
        and (out / "000000.tar").exists()
        and not (out / "shards.json").exists()
    )
    done = (out / "000000.tar").stat().st_mtime_ns
    assert pack(job(pictures, 2), out).samples == 12
    assert everything(out) == everything(tmp_path / "whole")
    assert (out / "000000.tar").stat().st_mtime_ns == done


def test_a_finished_packing_is_left_as_it_is_and_another_refused(pictures: Path, tmp_path: Path) -> None:
    first = pack(job(pictures), tmp_path / "out")
    before = everything(tmp_path / "out")
    assert pack(job(pictures), tmp_path / "out") == first and everything(tmp_path / "out") == before
    with pytest.raises(DataError, match="with another limits"):
        pack(job(pictures, min_side=10), tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match="other shards"):
        pack(job(pictures), tmp_path / "other")
    assert everything(tmp_path / "out") == before and everything(tmp_path / "other") == {"a.tar": b"mine"}


def test_a_source_that_changed_is_packed_again(pictures: Path, tmp_path: Path) -> None:
    bare = files(tmp_path / "bare", {f"{i}.png": image(20 + i) for i in range(3)} | {"0.txt": b"a"})
    out = tmp_path / "out"
    assert pack(job(bare, 2), out).left_out == {"no caption": 2}
    files(bare, {"1.txt": b"b", "2.TXT": b"c"})
    packed = pack(job(bare, 2), out)
    assert (packed.samples, packed.left_out, packed.work) == (3, {}, "again")
    assert not (out / "left-out.jsonl").exists()
    assert pack(job(bare, 2), out).work == "none"
    (bare / "2.png").write_bytes(image(30))  # under its name
    (bare / "0.png").unlink()
    assert (pack(job(bare, 2), out).samples, len(list(out.glob("*.tar")))) == (2, 1)
    assert image(30) in [sample["png"] for sample in read_samples(find_shards(str(out / "*.tar")))]
    kept = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    for text in bare.glob("*.[tT][xX][tT]"):
        text.rename(text.with_suffix(".bak"))
    with pytest.raises(DataError, match="no usable samples: 2 no caption"):
        pack(job(bare, 2), out)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == kept
    for text in bare.glob("*.bak"):
        text.rename(text.with_suffix(".txt"))
    assert pack(job(bare, 2), out).samples == 2
    next(out.glob("*.tar")).unlink()  # a record alone is no packing
    assert (pack(job(bare, 2), out).work, len(list(out.glob("*.tar")))) == ("again", 1)


def test_packing_again_touches_no_other_packing_in_a_folder_below(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(job(pictures), out)
    pack(job(pictures), out / "train")
    other = everything(out / "train")
    assert pack(job(pictures), out).work == "none"
    (pictures / "00.txt").write_bytes(b"changed")
    assert pack(job(pictures), out).work == "again" and everything(out / "train") == other
    with pytest.raises(DataError, match="with another split"):
        pack(PackJob(str(pictures), Limits(), 1000, split=0.5), tmp_path / "out")
    (tmp_path / "more/train").mkdir(parents=True)
    (tmp_path / "more/train/a.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match="holds other shards"):
        pack(PackJob(str(pictures), Limits(), 1000, split=0.5), tmp_path / "more")


def test_what_failed_or_was_stopped_does_not_block_the_corrected_command(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="12 too small .*left-out.jsonl lists them"):
        pack(job(pictures, min_side=100), out)

    def stop(done: int, of: int) -> None:
        if done == of - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(job(pictures, 3), out, progress=stop)
    assert list(out.glob("*.tar")) and not (out / "shards.json").exists()
    assert pack(job(pictures, 5), out).shards == len(list(out.glob("*.tar"))) == 3


# --- the command ---


def test_the_command_packs_and_says_what_is_left_out(pictures: Path, tmp_path: Path) -> None:
    files(pictures, {"99.jpg": image(0, kind="JPEG"), "99.txt": b"again"})
    command = ["data", "pack", str(pictures), str(tmp_path / "out"), "--shard-size", "7"]
    told = [
        f"12 samples in 2 shards: {tmp_path / 'out'}",
        "left out: 1 duplicate",
        f"listed in {tmp_path / 'out/left-out.jsonl'}",
    ]
    assert CliRunner().invoke(cli, command).output.splitlines() == told
    again = CliRunner().invoke(cli, command)
    assert again.output.splitlines() == ["already packed, nothing changed", *told]


def test_files_that_are_being_written_are_no_data(pictures: Path, tmp_path: Path) -> None:
    """What a killed process left behind is neither a shard nor a picture."""
    before = find_units(str(pictures), 1000)
    first = next(path for path in sorted(pictures.rglob("*")) if path.is_file())
    first.with_name(f"{UNFINISHED}0a1b-{first.name}").write_bytes(first.read_bytes()[:50])
    assert find_units(str(pictures), 1000) == before
    tars = tmp_path / "tars"
    tars.mkdir()
    for name in ("000000.tar", f"{UNFINISHED}0a1b-000001.tar"):
        (tars / name).touch()
    assert find_units(str(tars), 1000) == [Unit(str(tars / "000000.tar"))]
