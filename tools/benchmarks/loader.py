"""Images per second of the training loader relative to bare JPEG decoding and resizing.

The ratio shows the cost of disk access and batching. 1 is the limit of the machine.

    python tools/benchmarks/loader.py --workers 2
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import multiprocessing.pool
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unclip.data.loader import batches
from unclip.data.shards import DataConfig, Stream
from unclip.data.tar import read_samples, write_shard

SHARD, SHARDS, BATCH = 100, 3, 32


def write(folder: Path, size: int) -> None:
    """Shards of JPEGs with a photograph's share of detail: smooth noise with a little fine grain."""
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        samples = []
        for i in range(SHARD):
            coarse = Image.fromarray(rng.integers(0, 256, (size // 32, size // 32, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)
            pixels = np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=90)
            samples.append({"__key__": f"{number:02d}{i:06d}", "jpg": file.getvalue(), "txt": b"a picture"})
        write_shard(folder / f"{number:06d}.tar", samples)


def decode_and_resize(pictures: list[bytes], side: int, seconds: float) -> float:
    """Images per second in this process."""
    torch.set_num_threads(1)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        Image.open(io.BytesIO(pictures[done % len(pictures)])).convert("RGB").resize(
            (side, side), Image.Resampling.BICUBIC
        )
        done += 1
    return done / passed


def bare(
    pool: multiprocessing.pool.Pool, pictures: list[bytes], side: int, seconds: float, workers: int
) -> float:
    return sum(pool.starmap(decode_and_resize, [(pictures, side, seconds)] * workers))


def loader(folder: Path, side: int, seconds: float, workers: int) -> float:
    config = DataConfig(shards=str(folder / "*.tar"), batch=BATCH, workers=workers, shuffle=100)
    source = batches(Stream(config, size=side))
    for _ in range(4 * workers + 4):  # what the workers made while they started must not count
        next(source)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        done += len(next(source).captions)
    return done / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="of the JPEGs, in pixels")
    parser.add_argument("--side", type=int, default=256, help="they are resized to")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="both sides in turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.size)
        pictures = [sample["jpg"] for sample in read_samples([str(folder / "000000.tar")])]
        sides: list[tuple[str, Callable[[], float]]] = [
            (
                "bare decode + resize",
                lambda: bare(pool, pictures, options.side, options.seconds, options.workers),
            ),
            ("unclip's loader", lambda: loader(folder, options.side, options.seconds, options.workers)),
        ]
        with multiprocessing.get_context("fork").Pool(options.workers) as pool:
            rounds = [[measure() for _, measure in sides] for _ in range(options.rounds)]
    print(
        f"{options.size} px JPEG → {options.side} px, {options.workers} processes, median of {options.rounds}"
    )
    for (label, _), speeds in zip(sides, zip(*rounds)):
        print(f"{label:<22} {statistics.median(speeds):8.1f} images/s")
    print(f"{'ratio':<22} {statistics.median(ours / limit for limit, ours in rounds):8.2f}")


if __name__ == "__main__":
    main()
