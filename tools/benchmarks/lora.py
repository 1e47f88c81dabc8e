"""Memory and speed of training a LoRA adapter beside training all weights of the same stage.

    OMP_NUM_THREADS=1 python tools/benchmarks/lora.py
    OMP_NUM_THREADS=1 python tools/benchmarks/lora.py --config configs/karlo/decoder.yaml --batch 1 --steps 2 --bf16

Each case runs in its own process: random data, forward, backward, AdamW and averages as in training. Seconds are
CPU seconds of the fastest step. Without --config, the stage is mini's decoder; with it, a config's, with random
weights: Karlo's decoder needs about 20 GB with all weights, and 6 GB with an adapter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from step import random_batch
from torch import Tensor

from unclip.models.resolve import resolve
from unclip.stages import load_stage, stage_class
from unclip.stages.base import Stage
from unclip.stages.config import LoraConfig
from unclip.stages.lora import add_adapter, trained_state
from unclip.train.config import read_run
from unclip.train.ema import Ema

MIB = 2**20
CASES = ("all weights", "LoRA")


def build(config: Path | None, rank: int | None) -> Stage:
    """The stage in training mode, with an adapter of the given rank."""
    if config is None:
        stage = load_stage(resolve("mini/decoder").folder)
    else:
        kind = read_run(config).stage
        stage = stage_class(kind.kind)(kind)
    if rank is not None:
        stage.config = stage.config.model_copy(update={"lora": LoraConfig(rank=rank)})
        add_adapter(stage)
    return stage.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train for some steps in this process."""
    torch.manual_seed(0)
    stage = build(options.config, options.rank if options.case == "LoRA" else None)
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    optimizer, ema = torch.optim.AdamW(trained, 1e-4, fused=True), Ema(stage, 0.999)
    batch = random_batch(stage, options.batch)
    seconds = []
    for step in range(1, options.steps + 1):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = stage(batch).mean()
        loss.backward()
        optimizer.step()
        ema.update(stage, step)
        gradients = size([p.grad for p in trained if p.grad is not None])
        optimizer.zero_grad()
        seconds.append(time.process_time() - started)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    moments = size([value for state in optimizer.state.values() for value in state.values()])
    averages = size(list(ema.tensors.values()))
    return {
        "case": options.case,
        "parameters": sum(p.numel() for p in stage.parameters()),
        "trained": sum(p.numel() for p in trained),
        "seconds": min(seconds),
        "peak": peak,
        "state": gradients + moments + averages,
        "checkpoint": averages + size(list(trained_state(stage).values())) + moments,
    }


def size(tensors: list[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.nbytes for tensor in tensors)


def table(results: list[dict[str, Any]], batch: int) -> None:
    """Print a row for each case."""
    print(
        "| trained | parameters | CPU s/step | images/s | peak MiB | gradients, AdamW, EMA, MiB | checkpoint, MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in results:
        print(
            f"| {one['case']} | {one['trained']:,} of {one['parameters']:,} | {one['seconds']:.2f} | "
            f"{batch / one['seconds']:.1f} | {one['peak'] / MIB:,.0f} | {one['state'] / MIB:,.1f} | "
            f"{one['checkpoint'] / MIB:,.1f} |"
        )


def main() -> None:
    """Measure each case in a fresh process and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, help="training config whose stage is used, with random weights"
    )
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    parser.add_argument("--case", choices=CASES, help="measure one case in this process, as JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    results = []
    for case in CASES:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    table(results, options.batch)


if __name__ == "__main__":
    main()
