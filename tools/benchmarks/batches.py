"""Throughput of batched generation: of a worker as a whole, and of each stage.

    python tools/benchmarks/batches.py --size 256
    OMP_NUM_THREADS=1 python tools/benchmarks/batches.py --workers 2

Both run in turn in one process. CPU seconds are independent of other load, but with several threads they also
count waiting threads. All other figures are wall-clock time, so run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unclip.pipeline import Pipeline
from unclip.pipeline.call import TOGETHER
from unclip.serve.requests import GenerationRequest
from unclip.serve.worker import Worker

PROMPT = "a shiba inu wearing a red beret"
FEW = (("decoder", "steps", 2), ("prior", "steps", 2))


def workers(pipes: list[Pipeline], size: int, most: int, rounds: int) -> None:
    """Compare a queue whose workers batch requests with one whose workers process them one by one."""
    pictures = most * len(pipes)
    requests = [GenerationRequest(PROMPT, 1, size, "b64_json", seed=seed) for seed in range(pictures)]
    taken: dict[int, list[tuple[float, float]]] = {1: [], most: []}
    for turn in range(rounds + 1):  # the first one warms up, with few steps
        for batch, times in taken.items():
            worker = Worker(*pipes, capacity=pictures, batch=batch)
            jobs = [worker.submit(request if turn else replace(request, options=FEW)) for request in requests]
            wall, cpu = time.perf_counter(), time.process_time()
            worker.start()
            for job in jobs:
                job.result.result()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
            worker.stop()
    for kind, name in enumerate(("by the clock", "of the processor")):
        single, together = (
            statistics.median(pair[kind] for pair in times[1:]) / pictures for times in taken.values()
        )
        print(
            f"seconds a picture {name}: one at a time {single:.2f}, {most} together {together:.2f}: "
            f"{single / together:.2f} times the pictures"
        )


def stages(pipe: Pipeline, size: int, most: int, rounds: int) -> None:
    """Throughput of each stage's network for one image and for a batch."""
    print("| stage | GFLOP a picture | alone, GFLOP/s | together, GFLOP/s |\n|---|---|---|---|")
    called: dict[str, list[tuple[Any, Any]]] = {}
    networks = {role: stage.network for role, stage in pipe.stages.items()}
    hooks = [
        network.register_forward_pre_hook(
            lambda _, args, kwargs, role=role: called.setdefault(role, []).append((args, kwargs)),
            with_kwargs=True,
        )
        for role, network in networks.items()
    ]
    pipe.generate(PROMPT, seed=0, size=size, watermark=False)
    for hook in hooks:
        hook.remove()
    for role, calls in called.items():
        args, kwargs = calls[0]
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counted:
                networks[role](*args, **kwargs)
            work, speeds = counted.get_total_flops(), []
            side = args[0].shape[-1]
            few = min(most, max(1, TOGETHER // side**2)) if role.startswith("upsampler") else most
            for count in (1, few):
                many = [_repeated(value, count) for value in args]
                more = {name: _repeated(value, count) for name, value in kwargs.items()}
                times = []
                for _ in range(rounds + 1):
                    started = time.perf_counter()
                    for _ in range(most // count):
                        networks[role](*many, **more)
                    times.append(time.perf_counter() - started)
                speeds.append(most * work / min(times[1:]) / 1e9)
        print(f"| {role} | {len(calls)} × {work / 1e9:.2f} | {speeds[0]:.0f} | {few}: {speeds[1]:.0f} |")


def _repeated(value: Any, count: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    many = value.repeat(count, *[1] * (value.ndim - 1))
    return many.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else many


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--most", type=int, default=8, help="pictures together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="that share the queue, each with a model")
    options = parser.parse_args()
    pipes = [Pipeline.from_pretrained(options.model) for _ in range(options.workers)]
    print(
        f"{pipes[0].name} on {pipes[0].device}, {options.workers} × {torch.get_num_threads()} threads, "
        f"{options.size} px"
    )
    workers(pipes, options.size, options.most, options.rounds)
    stages(pipes[0], options.size, options.most, options.rounds)


if __name__ == "__main__":
    main()
