"""Send invalid requests to a server. Every answer must be a well-formed 4xx.

    python tools/benchmarks/fuzz_serve.py --count 10000

Starts `unclip serve`, and compares its memory and open files after the fuzz with those before.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from fuzz_cases import Case, cases
from server_process import request, send, serving, usage


def verdict(case: Case, answer: bytes) -> str:
    """The outcome in a word. Failures begin with "BAD"."""
    if not answer:
        return "closed" if case.broken else "BAD: no answer"
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode("latin-1")
    if not status.startswith("4"):
        return f"BAD: {status}"
    if b"Traceback" in answer or b'File "' in answer:
        return "BAD: a traceback"
    if case.broken and b"Invalid HTTP request" in body:
        return status  # from the HTTP parser, before there is a request
    try:
        well = set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    except (ValueError, KeyError, TypeError):
        well = False
    return status if well else f"BAD: {status} without an envelope"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="requests per round")
    parser.add_argument("--rounds", type=int, default=1, help="memory is reported after each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8, help="concurrent requests")
    options = parser.parse_args()
    with serving() as (port, pid), ThreadPoolExecutor(options.clients) as pool:

        def ask(case: Case) -> tuple[Case, str]:
            return case, verdict(case, send(port, case.sent, half_close=case.broken))

        list(pool.map(ask, cases(400, seed=-1)))  # warm-up
        used = [usage(pid)]
        started = time.perf_counter()
        answers: Counter[tuple[str, str]] = Counter()
        for number in range(options.rounds):
            for case, said in pool.map(ask, cases(options.count, options.seed + number)):
                answers[case.kind, said] += 1
                if said.startswith("BAD"):
                    print(said, case.sent[:300], file=sys.stderr)
            time.sleep(2)
            used.append(usage(pid))
        seconds = time.perf_counter() - started
        fine = b'"status":"ok"' in send(port, request("/health", b"", "", "GET"))
    bad = sum(n for (_, said), n in answers.items() if said.startswith("BAD"))
    for (kind, said), n in sorted(answers.items()):
        print(f"{kind:10} {said:30} {n:6,}")
    memory, files = (" → ".join(f"{one[i]:.0f}" for one in used) for i in (0, 1))
    print(
        f"{answers.total():,} requests in {seconds:.0f} s, {bad} answered wrongly; memory {memory} MiB, "
        f"open files {files}, "
        f"health {'ok' if fine else 'BAD'}"
    )
    sys.exit(bool(bad) or not fine)


if __name__ == "__main__":
    main()
