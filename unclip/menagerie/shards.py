"""Writes the menagerie as WebDataset shards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import webdataset as wds

from unclip.data.tar import read_record, write_record
from unclip.errors import DataError
from unclip.files import new_file
from unclip.menagerie.captions import caption
from unclip.menagerie.drawing import draw
from unclip.menagerie.scene import rng_for, sample

RECORD = "shards.json"
SHARD_SIZE = 1000
CAPTIONS = 6  # per picture
BRIEF = 2  # of these, the last ones


def write_shards(
    out: Path,
    *,
    count: int,
    size: int,
    seed: int = 0,
    held_out: bool = False,
    siblings: int = 1,
    vectors: bool = False,
    jobs: int = 1,
) -> Iterator[int]:
    """Render `count` scenes at size × size pixels into shards of 1,000 samples.

    Yields the number of finished scenes after each shard. Existing shards are kept, so the same call resumes.

    Args:
        held_out: see `scene.sample`. siblings: see `scene.sample`.
        vectors: also write each scene's `Scene.vector` as an array, KEY.npy.
        jobs: processes that render.

    Raises:
        DataError: a shard cannot be written, or `out` holds other shards.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: {error.strerror or error}") from None
    this = {
        "count": count,
        "size": size,
        "seed": seed,
        "held_out": held_out,
        "siblings": siblings,
        "vectors": vectors,
    }
    found = read_record(str(out / RECORD))
    before = {} if found is None else {"vectors": False, **found}  # `vectors` was added later
    different = [key for key in this if before.get(key) != this[key]]
    if different and any(out.glob("*.tar")):
        what = (
            f"the menagerie with another {different[0]} ({before[different[0]]})"
            if different[0] in before
            else "other shards"
        )
        raise DataError(f"{out}: holds {what}; give an empty folder")
    write_record(out / RECORD, this)
    shards = [
        (out / f"{i:06d}.tar", range(i * SHARD_SIZE, min((i + 1) * SHARD_SIZE, count)))
        for i in range(-(-count // SHARD_SIZE))
    ]
    missing = [
        (path, numbers, size, seed, held_out, siblings, vectors)
        for path, numbers in shards
        if not path.exists()
    ]
    done = count - sum(len(numbers) for _, numbers, *_ in missing)
    try:
        with ProcessPoolExecutor(jobs) if jobs > 1 else nullcontext() as pool:
            for numbers in (pool.map if pool else map)(_write_shard, missing):
                done += len(numbers)
                yield done
    finally:
        if not any(out.glob("*.tar")):  # it failed
            (out / RECORD).unlink()


def _write_shard(job: tuple[Path, range, int, int, bool, int, bool]) -> range:
    path, numbers, size, seed, held_out, siblings, vectors = job
    try:
        with new_file(path) as temporary, wds.TarWriter(str(temporary)) as writer:
            for i in numbers:
                scene = sample(seed, i, held_out=held_out, siblings=siblings)
                rng = rng_for("captions", seed, i)
                file = io.BytesIO()
                draw(scene, size).save(file, "PNG", compress_level=2)
                texts = [caption(scene, rng, brief=n >= CAPTIONS - BRIEF).text for n in range(CAPTIONS)]
                about = {"captions": texts, "scene": scene.attributes()}
                writer.write(
                    {
                        "__key__": f"{i:08d}",
                        "png": file.getvalue(),
                        "txt": texts[0],
                        "json": json.dumps(about).encode(),
                        **({"npy": np.array(scene.vector(), np.float32)} if vectors else {}),
                    }
                )
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return numbers
