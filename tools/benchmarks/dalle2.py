"""Training speed and memory of the prior and the decoder, compared with DALLE2-pytorch's.

Both sides have the same widths and depths at every resolution, the same batch, precision and optimizer, and
run in turn on one thread each. Time is CPU seconds of the process, so that what else the machine does counts
little. No two architectures are the same, so the table says what each side computes for a picture: see PRIOR
and DECODER for how the two were brought within five per cent. DALLE2-pytorch is no dependency of ours; it
lives in an environment of its own:

    python -m venv ../peer
    echo "torch==$(python -c 'import torch; print(torch.__version__)')" > ../peer.txt
    ../peer/bin/pip install -c ../peer.txt dalle2-pytorch==1.15.6
    python tools/benchmarks/dalle2.py --peer-python ../peer/bin/python

Its pip takes the torchvision of a CUDA build; `unclip/clip/torchvision_schemas.py` lets that be imported all
the same. Memory is the peak of the process above what it held when everything was imported: weights,
gradients, AdamW's moments and activations.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
EMBED = 512  # of z_i, z_t and the token states, as ViT-B/32 has them
CONTEXT = 77  # tokens of CLIP's longest caption
PRIOR = {"width": 512, "depth": 6, "heads": 8}
# Their blocks have one head of keys and values and a gated MLP: this wide, it makes up for what the one head
# saves.
PEER_PRIOR = {"ff_mult": 3.2}
# Their up-path is as wide as the next level's down-path, so that widths agree at every level only where all
# are one. Their additional block at each level and at the end stands for our resampling ones. Every block of
# theirs below the highest level attends to the condition, as do ours there, which attend to all pixels as
# well.
DECODER = {"channels": 64, "multipliers": (1, 1, 1), "depth": 2}
ATTENTION = (1, 2)
PEER_DECODER = {"init_cross_embed": False, "init_conv_kernel_size": 3}  # a 3 × 3 convolution first, as ours
SIDE = 64  # of the decoder's pictures, in pixels
CONDITION = 128  # width of the tokens that the decoder attends to


class Case(NamedTuple):
    """One comparison. `reads` is the length to which DALLE2-pytorch pads captions (256 by default).

    Our batches are as long as their longest caption: 20 tokens are a usual one, 77 the longest that CLIP
        takes.
    """

    stage: str
    tokens: int
    reads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.stage}, {self.tokens} tokens" + (
            f" (there {self.reads})" if self.reads > self.tokens else ""
        )


CASES = [
    Case("prior", 77, 77, 8),
    Case("prior", 20, 77, 8),
    Case("prior", 20, 256, 8),
    Case("decoder", 77, 77, 8),
    Case("decoder", 20, 77, 8),
]

Loss = Callable[[], Tensor]


def inputs(case: Case) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(case.batch, *shape, generator=generator)

    return {
        "image": normal(3, SIDE, SIDE).clamp(-1, 1),
        "z_i": normal(EMBED),
        "z_t": normal(EMBED),
        "tokens": normal(case.tokens, EMBED),
    }


def ours(case: Case) -> tuple[nn.Module, Loss]:
    from unclip.clip import Text
    from unclip.stages import stage_class
    from unclip.stages.batch import Batch

    clip = {"embed": EMBED, "token_width": EMBED}
    unet = {**DECODER, "attention": ATTENTION, "middle_attention": True}
    tree: dict[str, Any] = {
        "prior": {**clip, **PRIOR, "context": CONTEXT},
        "decoder": {**clip, "context_width": CONDITION, "unet": unet},
    }[case.stage]
    kind = stage_class(case.stage)
    stage = kind(kind.Config(kind=case.stage, **tree))
    stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    given = inputs(case)

    def text(rows: int) -> Text:
        seen = torch.ones(rows, case.tokens, dtype=torch.bool)
        return Text([""] * rows, seen.long(), seen, given["z_t"][:rows], given["tokens"][:rows])

    batch = Batch(
        image=given["image"],
        image_embed=given["z_i"],
        text=text(case.batch),
        null=text(1),
        seeds=torch.arange(case.batch),
    )
    return stage, lambda: stage(batch).mean()


def theirs(case: Case) -> tuple[nn.Module, Loss]:
    path = ROOT / "unclip/clip/torchvision_schemas.py"  # alone: unclip itself is not installed here
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    schemas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schemas)
    schemas.declare_missing_schemas()
    from dalle2_pytorch import Decoder, DiffusionPrior, DiffusionPriorNetwork, Unet

    given = inputs(case)
    if case.stage == "prior":
        width, depth, heads = PRIOR.values()
        network = DiffusionPriorNetwork(
            dim=width,
            depth=depth,
            heads=heads,
            dim_head=width // heads,
            max_text_len=case.reads,
            num_timesteps=1000,
            **PEER_PRIOR,
        )
        prior = DiffusionPrior(network, image_embed_dim=EMBED, cond_drop_prob=0.1)
        return prior, lambda: prior(
            text_embed=given["z_t"], text_encodings=given["tokens"], image_embed=given["z_i"].clone()
        )
    unet = Unet(
        dim=DECODER["channels"],
        dim_mults=DECODER["multipliers"],
        num_resnet_blocks=DECODER["depth"],
        cond_dim=CONDITION,
        image_embed_dim=EMBED,
        text_embed_dim=EMBED,
        cond_on_text_encodings=True,
        max_text_len=case.reads,
        **PEER_DECODER,
    )
    decoder = Decoder(unet, image_size=SIDE, timesteps=1000, learned_variance=True)
    picture = (given["image"] + 1) / 2
    return decoder, lambda: decoder(picture, image_embed=given["z_i"], text_encodings=given["tokens"])


def held() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


BUILD = {"ours": ours, "theirs": theirs}


def flops(loss: Loss) -> int:
    """FLOPs of a forward and backward pass. torch's counter does not know the CPU's fused attention."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss().backward()
    return int(counter.get_total_flops())


def serve(side: str, case: Case, precision: str) -> None:
    """One side's process. Each input line runs a training step and prints its seconds and peak memory.

    The line `sizes` prints the number of parameters and the FLOPs per image.
    """
    torch.set_num_threads(1)
    build = BUILD[side]
    build(case)  # imports everything
    base = held()
    stage, loss = build(case)
    stage.train()
    optimizer = torch.optim.AdamW(stage.parameters(), 1e-4, fused=True)
    for line in sys.stdin:
        if line.strip() == "sizes":
            print(
                json.dumps([sum(p.numel() for p in stage.parameters()), flops(loss) / case.batch]), flush=True
            )
            continue
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([seconds, peak - base]), flush=True)


@contextmanager
def process(python: str, side: str, case: Case, precision: str) -> Iterator[Callable[[str], Any]]:
    """Start one side's process. Yields a function that sends a line and returns the answer."""
    command = [python, __file__, "--serve", json.dumps([side, case, precision])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT) if side == "ours" else ""}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def ask(line: str) -> Any:
            stdin.write(f"{line}\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer:
                raise SystemExit(f"{side}: {' '.join(command[:2])} ended; its message is above")
            return json.loads(answer)

        yield ask
        stdin.close()
        stdout.read()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help="the python that has dalle2-pytorch")
    parser.add_argument("--stage", choices=("prior", "decoder"), help="one of them only")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="one of them only")
    parser.add_argument("--steps", type=int, default=5, help="of each side, after one that does not count")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        side, case, precision = json.loads(options.serve)
        serve(side, Case(*case), precision)
        return
    if not options.peer_python:
        parser.error("--peer-python is needed; see above how to make its environment")
    print(
        "| training step | precision | images/s | DALLE2-pytorch | ratio | MiB | DALLE2-pytorch | GFLOPs "
        "per image "
        "| parameters |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        for precision in ("fp32", "bf16"):
            if options.stage in (None, case.stage) and options.precision in (None, precision):
                print(row(case, precision, options.peer_python, options.steps), flush=True)


def row(case: Case, precision: str, peer: str, steps: int) -> str:
    with (
        process(sys.executable, "ours", case, precision) as ask_ours,
        process(peer, "theirs", case, precision) as ask_theirs,
    ):
        asks = (ask_ours, ask_theirs)
        rounds = [[ask("step") for ask in asks] for _ in range(steps + 1)][1:]
        sizes = [ask("sizes") for ask in asks]
    seconds = [[answer[0] for answer in side] for side in zip(*rounds)]
    speeds = [case.batch / statistics.median(side) for side in seconds]
    ratio = statistics.median(b / a for a, b in zip(*seconds))
    peaks = [max(answer[1] for answer in side) / 2**20 for side in zip(*rounds)]
    return (
        f"| {case} | {precision} | {speeds[0]:.1f} | {speeds[1]:.1f} | {ratio:.2f} | {peaks[0]:.0f} | "
        f"{peaks[1]:.0f} "
        f"| {sizes[0][1] / 1e9:.1f}, {sizes[1][1] / 1e9:.1f} | {sizes[0][0] / 1e6:.1f} M, "
        f"{sizes[1][0] / 1e6:.1f} M |"
    )


if __name__ == "__main__":
    main()
