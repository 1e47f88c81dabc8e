"""Load test of the server: status codes, latency, throughput and memory with many clients.

    python tools/benchmarks/load_serve.py --clients 200 --seconds 60
    OMP_NUM_THREADS=1 python tools/benchmarks/load_serve.py -- --devices cpu,cpu

Starts `unclip serve`. Each official client requests images one after the other until the time is over. Each
request must succeed in the end, with the image of its own seed: some are requested again, alone, and
compared.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import http.client
import io
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openai
from PIL import Image
from server_process import KEY, serving, usage

PROMPT = "a shiba inu wearing a red beret"
PATIENCE = 1000  # retries of the official client, each after what Retry-After says
AGAIN = 5  # pictures that are asked for again


@dataclass
class Seen:
    """Observations of the clients and the monitor.

    Attributes:
        pictures: seed → file. waits: seconds from a request to its picture, retries included.
        health: seconds that /health took. memory: (seconds since the start, MiB, open files).
    """

    pictures: dict[int, bytes] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory: list[tuple[float, float, int]] = field(default_factory=list)


async def client(
    api: openai.AsyncOpenAI, number: int, end: float, fields: dict[str, int], seen: Seen
) -> None:
    """Request one image after the other, each with its own seed."""
    for seed in range(number * 10_000, (number + 1) * 10_000):
        if time.time() >= end:
            return
        started = time.perf_counter()
        try:
            made: Any = await api.images.generate(
                prompt=PROMPT, size="256x256", response_format="b64_json", extra_body={"seed": seed, **fields}
            )
        except openai.APIError as error:
            seen.failures[f"{type(error).__name__}: {str(error)[:80]}"] += 1
            continue
        seen.waits.append(time.perf_counter() - started)
        [one] = made.data
        if one.seed != seed:
            seen.failures["a picture of another seed"] += 1
        seen.pictures[seed] = base64.b64decode(one.b64_json)


async def load(port: int, clients: int, seconds: float, fields: dict[str, int], seen: Seen) -> np.ndarray:
    """Run the clients, then request some images again, one by one. Returns the pixel differences."""
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=PATIENCE, timeout=3600
    ) as api:
        end = time.time() + seconds
        await asyncio.gather(*(client(api, number, end, fields, seen) for number in range(clients)))
        alone, few = Seen(), sorted(seen.pictures)[:: max(1, len(seen.pictures) // AGAIN)][:AGAIN]
        for seed in few:
            made: Any = await api.images.generate(
                prompt=PROMPT, size="256x256", response_format="b64_json", extra_body={"seed": seed, **fields}
            )
            alone.pictures[seed] = base64.b64decode(made.data[0].b64_json)
    return np.stack([np.abs(pixels(seen.pictures[seed]) - pixels(alone.pictures[seed])) for seed in few])


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, f"{path}: {answer.status}"
        return answer.read()
    finally:
        connection.close()


def watch(port: int, pid: int, over: threading.Event, seen: Seen) -> None:
    """Request /health ten times a second, and read the server's memory once a second."""
    started = time.time()
    while not over.wait(0.1):
        before = time.perf_counter()
        get(port, "/health")
        seen.health.append(time.perf_counter() - before)
        at = time.time() - started
        if not seen.memory or at - seen.memory[-1][0] >= 1:
            seen.memory.append((at, *usage(pid)))


def measure(clients: int, seconds: float, fields: dict[str, int], arguments: list[str]) -> bool:
    """Run the load test and print its results. Returns whether all is as required."""
    seen, over = Seen(), threading.Event()
    with serving(*arguments) as (port, pid):
        watcher = threading.Thread(target=watch, args=(port, pid, over, seen))
        watcher.start()
        started = time.time()
        apart = asyncio.run(load(port, clients, seconds, fields, seen))
        taken = time.time() - started
        over.set()
        watcher.join()
        lines = (line.split() for line in get(port, "/metrics").decode().splitlines() if line[0] != "#")
        counted = {name: int(float(value)) for name, value in lines}
    codes = {
        name.split('"')[1]: count
        for name, count in counted.items()
        if name.startswith("unclip_requests_total")
    }
    different = len({hashlib.sha256(file).digest() for file in seen.pictures.values()})
    health = statistics.quantiles(seen.health, n=100)
    mark = min(60.0, taken / 2)
    early = [mib for at, mib, _ in seen.memory if at <= mark]
    late = [mib for at, mib, _ in seen.memory if at > mark] or early
    files = [count for _, _, count in seen.memory]
    print(f"{clients} clients, {taken:.0f} s; answers by status: {codes}")
    print(
        f"{len(seen.pictures)} requests answered with a picture, {different} of them different; "
        f"failed in the end: {dict(seen.failures) or 'none'}"
    )
    print(
        f"{len(apart)} asked for again, alone: at most {apart.max()}/255 apart; of {apart.size:,} values "
        f"{(apart > 0).sum():,} "
        f"differ, {(apart > 1).sum():,} by more than 1"
    )
    print(
        f"{counted['unclip_images_total'] / taken:.2f} pictures a second, {counted['unclip_images_total']} "
        "in "
        f"{counted['unclip_batches_total']} batches; a client waited {statistics.median(seen.waits):.0f} s "
        "in the "
        f"median, {max(seen.waits):.0f} at most"
    )
    print(
        f"/health: {1000 * health[49]:.0f} ms in the median, {1000 * health[98]:.0f} at p99 of "
        f"{len(seen.health)}"
    )
    print(
        f"memory: {early[0]:.0f} MiB at the start, {max(early):.0f} at most in the first {mark:.0f} s, "
        f"{max(late):.0f} after; open files: {files[0]}, {max(files)} at most, {files[-1]} at the end"
    )
    whole = different == len(seen.pictures) and not seen.failures and apart.max() <= 1
    return whole and not any(code.startswith("5") for code in codes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60, help="duration of the load")
    parser.add_argument("--steps", type=int, default=2, help="steps of the decoder and of the prior")
    parser.add_argument("--model", default="mini")
    parser.add_argument("more", nargs="*", help="arguments of unclip serve, after --")
    options = parser.parse_args()
    fields = {"steps": options.steps, "prior_steps": options.steps}
    arguments = ["--model", options.model, *options.more]
    sys.exit(not measure(options.clients, options.seconds, fields, arguments))


if __name__ == "__main__":
    main()
