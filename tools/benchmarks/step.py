"""Time forward and backward of a stage with our group normalisation and with torch's.

    python tools/benchmarks/step.py configs/mini/decoder.yaml

Times are CPU seconds of this process, which depend little on other load. Both sides run in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from unclip.clip import Text
from unclip.nn.norm import GroupNorm
from unclip.stages import stage_class
from unclip.stages.base import Stage
from unclip.stages.batch import Batch
from unclip.train.config import read_run

TOKENS = 20  # of a caption


def torchs(self: GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    out = nn.GroupNorm.forward(self, x)
    return (
        out if scale is None or shift is None else out * (1 + scale[..., None, None]) + shift[..., None, None]
    )


def random_batch(stage: Stage, size: int) -> Batch:
    width, tokens = getattr(stage.config, "embed", 1), getattr(stage.config, "token_width", 1)

    def text(rows: int) -> Text:
        seen = torch.ones(rows, TOKENS, dtype=torch.bool)
        return Text(
            [""] * rows, seen.long(), seen, torch.randn(rows, width), torch.randn(rows, TOKENS, tokens)
        )

    image = (
        torch.randn(size, 3, stage.crop, stage.crop)
        .clamp(-1, 1)
        .contiguous(memory_format=torch.channels_last)
    )
    embed = torch.randn(size, width)
    return Batch(image=image, image_embed=embed, text=text(size), null=text(1), seeds=torch.arange(size))


def seconds(stage: Stage, batch: Batch, bf16: bool) -> float:
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = stage(batch).mean()
    loss.backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = read_run(options.config).stage
    stage = stage_class(config.kind)(config)
    stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch, ours = random_batch(stage, options.batch), GroupNorm.forward
    print("| precision | with torch's, s | with ours, s | ratio |\n| --- | --- | --- | --- |")
    for precision in ("fp32", "bf16"):
        taken: list[tuple[float, float]] = []
        for _ in range(options.rounds + 1):
            pair = []
            for forward in (torchs, ours):
                GroupNorm.forward = forward  # type: ignore[method-assign]
                pair.append(seconds(stage, batch, precision == "bf16"))
            taken.append((pair[0], pair[1]))
        theirs, mine = (statistics.median(side) for side in zip(*taken[1:]))  # the first one warms up
        ratio = statistics.median(a / b for a, b in taken[1:])
        print(f"| {precision} | {theirs:.2f} | {mine:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
