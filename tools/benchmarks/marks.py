"""Files per second of the search for watermarks and metadata, in one process.

    python tools/benchmarks/marks.py --count 2000

The files are unmarked renderings as JPEG and PNG. This is the slow case, because the search ends at a mark.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import sample
from unclip.provenance.header import read_header
from unclip.provenance.verify import generated

DRAWN = 50  # different pictures; the others are copies
SECONDS = 10.0  # of each measurement, at most


def header(path: Path) -> object:
    with path.open("rb") as file:
        return read_header(file)


def decoded(path: Path) -> object:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.convert("RGB")


LOOKS: dict[str, Callable[[Path], object]] = {
    "header": header,
    "decoding alone, to compare": decoded,
    "header, decoding and watermark": lambda path: generated(path.read_bytes()),
}


def rate(look: Callable[[Path], object], paths: list[Path]) -> float:
    done, started = 0, time.perf_counter()
    for path in paths:
        look(path)
        done += 1
        if time.perf_counter() - started > SECONDS:
            break
    return done / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="files of each kind")
    count = parser.parse_args().count
    print("| files | " + " | ".join(LOOKS) + " |\n|---|" + "---|" * len(LOOKS))
    for side, kind in ((256, "JPEG"), (256, "PNG"), (1024, "JPEG")):
        with tempfile.TemporaryDirectory() as folder:
            contents = []
            for seed in range(DRAWN):
                file = io.BytesIO()
                draw(sample(0, seed), side).save(file, kind, quality=90)
                contents.append(file.getvalue())
            paths = [Path(folder) / f"{i}.{kind.lower()}" for i in range(count)]
            for i, path in enumerate(paths):
                path.write_bytes(contents[i % DRAWN])
            rates = " | ".join(f"{rate(look, paths):,.0f} files/s" for look in LOOKS.values())
            print(f"| {side} px {kind} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
