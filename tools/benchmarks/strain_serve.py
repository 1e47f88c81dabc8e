"""Strain on the server: slow connections, a greedy client beside polite ones, starts and ends.

    python tools/benchmarks/strain_serve.py --connections 500 --polite 10 --starts 20
    python tools/benchmarks/strain_serve.py --model ./mine --steps 4 -- --devices cpu,cpu

Starts `unclip serve` and prints what was measured. Exits with 1 if a limit is exceeded: polite clients wait
more than 3 times as long beside a greedy one, descriptors stay open, or files stay in the temporary folder.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server_process import KEY, serving, usage

GREEDY = "sk-greedy"
MOST_WAIT = 3.0  # times as long as without the greedy client
HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Load:
    """What is asked for: pictures of 256 pixels, with the given steps of prior and decoder."""

    model: str
    steps: int
    more: Sequence[str] = ()

    def arguments(self, *own: str) -> list[str]:
        return ["--model", self.model, *self.more, *own]


def ask(port: int, key: str, n: int, steps: int) -> tuple[int, float]:
    """Request `n` pictures. Returns the status and the seconds it took."""
    wanted = {"prompt": "a cat", "n": n, "size": "256x256", "response_format": "b64_json"}
    body = json.dumps({**wanted, "steps": steps, "prior_steps": steps})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", "/v1/images/generations", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - started
    finally:
        connection.close()


def health(port: int) -> float:
    """Seconds that /health takes."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        return time.perf_counter() - started
    finally:
        connection.close()


def slow_connections(load: Load, count: int, seconds: float) -> bool:
    """Hold connections that send a request byte by byte, and use the server meanwhile."""
    with serving(*load.arguments()) as (port, pid):
        ask(port, KEY, 1, load.steps)
        alone, before = ask(port, KEY, 1, load.steps)[1], usage(pid)
        quick = statistics.median(health(port) for _ in range(20))
        held = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
        while usage(pid)[1] < before[1] + count // 2:  # until the server has accepted them
            time.sleep(0.05)
        over, most = time.monotonic() + seconds, usage(pid)
        taken, place = list[float](), 0
        while time.monotonic() < over:
            for one in held:
                try:
                    one.send(HEAD[place % len(HEAD) : place % len(HEAD) + 1])
                except OSError:  # the server's deadline for headers
                    continue
            place += 1
            taken.append(health(port))
            most = max(most, usage(pid))
            time.sleep(0.5)
        status, beside = ask(port, KEY, 1, load.steps)
        for one in held:
            one.close()
        deadline = time.monotonic() + 30
        while usage(pid)[1] > before[1] + 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        after = usage(pid)
    print(
        f"{count} slow connections for {seconds:.0f} s: /health {1000 * statistics.median(taken):.0f} ms in the "
        f"median, {1000 * max(taken):.0f} at most ({1000 * quick:.0f} without them); a picture {beside:.1f} s "
        f"({alone:.1f} alone); open files {before[1]}, {most[1]} at most, {after[1]} at the end; memory "
        f"{before[0]:.0f} MiB, {most[0]:.0f}, {after[0]:.0f}"
    )
    return status == 200 and after[1] <= before[1] + 2 and most[1] > before[1] + count // 2


def greedy_client(load: Load, polite: int, requests: int) -> bool:
    """Compare the waits of polite clients with and without a client that keeps the queue full."""
    keys = [f"sk-polite-{number}" for number in range(polite)]
    options = [part for key in (*keys, GREEDY) for part in ("--api-key", key)]
    # What the greedy client still waits for in the end is not drawn.
    with serving(*load.arguments(*options, "--drain-timeout", "1")) as (port, _):
        ask(port, KEY, 8, load.steps)

        def waits(key: str) -> list[tuple[int, float]]:
            return [ask(port, key, 1, load.steps) for _ in range(requests)]

        with ThreadPoolExecutor(polite) as pool:
            alone = [one for found in pool.map(waits, keys) for one in found]
        with greed(port, load.steps) as answered, ThreadPoolExecutor(polite) as pool:
            while not answered[429]:  # its share of the queue is full
                time.sleep(0.05)
            beside = [one for found in pool.map(waits, keys) for one in found]
    without, with_it = (statistics.median(seconds for _, seconds in one) for one in (alone, beside))
    failed = [status for status, _ in (*alone, *beside) if status != 200]
    print(
        f"{polite} polite clients: {without:.1f} s in the median, {max(s for _, s in alone):.1f} at most; beside a "
        f"greedy one {with_it:.1f} s, {max(s for _, s in beside):.1f} at most: {with_it / without:.2f} times; "
        f"answers to the greedy one: {dict(answered)}; refused to the polite ones: {failed or 'none'}"
    )
    return not failed and with_it <= MOST_WAIT * without


@contextmanager
def greed(port: int, steps: int) -> Iterator[Counter[int]]:
    """Request ten pictures again and again from sixteen connections. Yields the answers by status."""
    over, answered = threading.Event(), Counter[int]()

    def grab() -> None:
        while not over.is_set():
            try:
                status, _ = ask(port, GREEDY, 10, steps)
            except OSError:
                continue
            answered[status] += 1
            if status == 429:
                over.wait(0.5)

    threads = [threading.Thread(target=grab, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        over.set()


def starts(load: Load, count: int) -> bool:
    """Start the server and end it by SIGTERM, every second time in the middle of a request."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["TMPDIR"] = name
        left, ended = list[str](), Counter[str]()
        for number in range(count):
            with ThreadPoolExecutor(1) as pool:
                with serving(*load.arguments()) as (port, pid):
                    asked = pool.submit(ask, port, KEY, 4, 10 * load.steps) if number % 2 else None
                    time.sleep(0.5 if asked else 0)
                    inside = sorted(path.name for path in Path(name).iterdir())
                assert inside, "the server has no temporary folder, so that this measures nothing"
                ended[f"answered {asked.result()[0]}" if asked else "idle"] += 1
                ended["still runs"] += Path(f"/proc/{pid}").exists()
            left += sorted(path.name for path in Path(name).iterdir())
        del os.environ["TMPDIR"]
    print(f"{count} starts and SIGTERMs: {dict(ended)}; left in the temporary folder: {left or 'nothing'}")
    return not left and not ended["still runs"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=500, help="slow connections; 0 to leave it out")
    parser.add_argument("--seconds", type=float, default=10, help="for which they are held")
    parser.add_argument("--polite", type=int, default=10, help="polite clients; 0 to leave it out")
    parser.add_argument("--requests", type=int, default=3, help="of each polite client")
    parser.add_argument("--starts", type=int, default=20, help="starts and SIGTERMs; 0 to leave it out")
    parser.add_argument("--steps", type=int, default=2, help="steps of the decoder and of the prior")
    parser.add_argument("--model", default="mini")
    parser.add_argument("more", nargs="*", help="arguments of unclip serve, after --")
    given = parser.parse_args()
    load = Load(given.model, given.steps, given.more)
    fine = [
        not given.connections or slow_connections(load, given.connections, given.seconds),
        not given.polite or greedy_client(load, given.polite, given.requests),
        not given.starts or starts(load, given.starts),
    ]
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
